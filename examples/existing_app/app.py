"""The application: ``celery -A examples.existing_app.app worker --beat``. Of taskflow there are two lines in it."""

from __future__ import annotations

import os
from pathlib import Path

from celery import Celery

from taskflow.embedding import install

app = Celery("bookshop", broker=os.environ.get("BOOKSHOP_BROKER", "redis://127.0.0.1:6379/3"))
app.conf.update(
    task_default_queue="bookshop",
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    task_time_limit=30,
    worker_prefetch_multiplier=4,
    broker_connection_retry_on_startup=True,
)


@app.task(name="bookshop.send_mail")
def send_mail(key: str, to: str, text: str) -> None:
    """A task as it always was: here a mail is a file, sent once for each key."""
    directory = Path(os.environ.get("BOOKSHOP_MAILS", "mails"))
    directory.mkdir(parents=True, exist_ok=True)
    mail = directory / f"{key.replace(':', '.')}.txt"
    aside = mail.with_suffix(".part")
    aside.write_text(f"{to}\n{text}\n")
    aside.replace(mail)  # half a mail is never seen, even of a worker that is killed here


taskflow = install(app)
