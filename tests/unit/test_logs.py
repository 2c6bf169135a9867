"""What is written to a log holds no secret, wherever in a line it stood."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator

import pytest

from taskflow import logs
from taskflow.ids import new_run_id, workspace_id_of
from taskflow.settings import Settings
from taskflow.vault import Vault, new_api_token

KEY = "a-key-that-is-long-enough"
PASSWORD = "p%40ss-of-the-database"


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No value is known yet, and the root logger is put back afterwards."""
    monkeypatch.setattr(logs, "_known", ())
    root = logging.getLogger()
    kept, level = list(root.handlers), root.level
    levels = {name: logging.getLogger(name).level for name in logs._CHATTY}
    yield
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
    root.handlers[:] = kept
    root.setLevel(level)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("at redis://user:hunter2@host/0", "at redis://user:***@host/0"),
        ("Authorization: Bearer abc.def-1", "Authorization: Bearer ***"),
        (f"said {new_api_token()}.", "said ***."),
        (f"said {Vault(KEY).derive_token('workspace', workspace_id_of(new_run_id()))}", "said ***"),
        (f"said {Vault(KEY).derive_token('node', 'node-' + 'a' * 40)}", "said ***"),
        (f"said {Vault(KEY).derive_token('workspace', workspace_id_of(new_run_id()), 3)}", "said ***"),
        (f"said {Vault(KEY).derive_token('node', 'node-' + 'a' * 40, 12)}", "said ***"),
        ("Invalid.Reference of tf_short in It.is.fine", "Invalid.Reference of tf_short in It.is.fine"),
    ],
    ids=["url", "bearer", "user", "workspace", "node", "renewed", "renewed-packed", "words"],
)
def test_secrets_are_known_by_their_shape(fresh: None, text: str, masked: str) -> None:
    """Passwords of URLs, bearer tokens, users' tokens, tokens of nodes and workspaces; words stay."""
    assert logs.mask_text(text) == masked


def test_secrets_are_known_by_their_value(fresh: None) -> None:
    """The longer first, or its rest would stay; values short enough to be found in any word are left."""
    logs.hide(["the-secret", "the-secret-and-more", "short"])
    assert logs.mask_text("short: the-secret-and-more, the-secret") == "short: ***, ***"


def test_the_secrets_of_the_settings_are_masked_in_every_line(fresh: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever logs, in a text, a field or the text of an error; also the password alone, quoted or not."""
    logs.configure(
        Settings(secret_key=KEY, database_url=f"postgresql://ada:{PASSWORD}@db/x", log_level="INFO", log_json=True)
    )
    logging.getLogger("some.library").warning("key %s", KEY)
    try:
        raise ValueError(f"password {PASSWORD}") from None
    except ValueError:
        logs.get_logger("ours").exception("failed", said=["p@ss-of-the-database"], token="t-1")
    written = capsys.readouterr().err
    assert len(written.splitlines()) == 2
    for secret in (KEY, PASSWORD, "p@ss-of-the-database", "t-1"):
        assert secret not in written
    assert "ValueError: password ***" in written


@pytest.mark.parametrize(("level", "seen"), [("debug", True), ("info", False), ("warning", False)])
def test_what_celery_says_of_every_alarm_is_for_those_who_look_for_something(
    fresh: None, level: str, seen: bool
) -> None:
    """Two lines an alarm would be most of a worker's log, and a good part of a short turn; failures are always said."""
    logs.configure(dataclasses.replace(Settings(), log_level=level))
    for name in ("celery.worker.strategy", "celery.app.trace"):
        assert logging.getLogger(name).isEnabledFor(logging.INFO) is seen
        assert logging.getLogger(name).isEnabledFor(logging.ERROR)


@pytest.mark.parametrize("as_json", [False, True])
def test_nothing_that_is_logged_steers_the_terminal_where_the_log_is_read(
    fresh: None, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    """The path of a request is anybody's text. It is still told from another one, and a traceback keeps its lines."""
    logs.configure(Settings(log_level="INFO", log_json=as_json))
    logs.get_logger("web").info("request", path="/\x1b[31m\x9b2J\x07\u202e\r/ü", said=["\x1b[31m"])
    logging.getLogger("library").warning("said \x1b]0;title\x07")
    try:
        raise ValueError("\x1b[31m")
    except ValueError:
        logs.get_logger("web").exception("failed")
    written = capsys.readouterr().err
    assert not [letter for letter in written if not letter.isprintable() and letter != "\n"]
    assert "31m" in written and "title" in written and ("/ü" in written) is not as_json
    assert (len(written.splitlines()) > 5) is not as_json
