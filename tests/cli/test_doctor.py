"""What ``taskflow doctor`` prints, and the address it takes for that of the callbacks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from taskflow.cli.doctor import callback_url, findings_text
from taskflow.service import diagnosis
from taskflow.settings import Settings
from taskflow.stack.data_dir import DataDir
from tests.cli.conftest import Invoke
from tests.cli.fake_server import FakeServer
from tests.cli.test_client import stack  # noqa: F401  fixture
from tests.cli.test_operate import database, migrated  # noqa: F401  fixtures


def test_the_worst_is_first_with_what_it_costs_and_what_to_do() -> None:
    """An error before a warning, each as what, consequence with its bound, advice; what is well is a table below."""
    settings = Settings()
    found = [
        diagnosis.disk(3 * 1024**3, 9 * 1024**3, "/data").view(),
        diagnosis.persistence({}, settings).view(),
        diagnosis.eviction({"maxmemory_policy": "allkeys-lru", "maxmemory": 1}, settings).view(),
        diagnosis.workers(None, settings).view(),
    ]
    text = findings_text(found)
    order = [text.index(part) for part in ("ERROR  redis eviction", "ERROR  workers", "WARNING  redis per", "OK ")]
    assert order == sorted(order)
    assert "  delayed  at most 6.2 s: a run whose alarm is evicted" in text
    assert "  delayed  until it is mended: tasks are taken and wait" in text
    assert "  do       set maxmemory-policy noeviction" in text


@pytest.mark.usefixtures("database")
def test_json_has_every_part_of_a_finding(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script can tell what is at risk and for how long without reading sentences."""
    monkeypatch.setenv("TASKFLOW_REDIS_URL", "redis://:pa55word@127.0.0.1:1/0")
    done = invoke("doctor", "--json")
    assert done.exit_code == 1
    for one in json.loads(done.stdout)["checks"]:
        assert set(one) == {"check", "state", "says", "risk", "consequence", "at_most_s", "advice"}


def test_callbacks_go_to_what_is_set_else_to_the_stack_that_serves(
    stack: DataDir,  # noqa: F811
    server: FakeServer,
    tmp_path: Path,
) -> None:
    """The public URL first; without a stack the web process of this host, at its own port."""
    here = str(stack.root)
    assert callback_url(Settings(data_dir=here, public_url="https://tf.example")) == "https://tf.example"
    assert callback_url(Settings(data_dir=here)) == server.url
    assert callback_url(Settings(data_dir=str(tmp_path / "none"), host="0.0.0.0", port=9)) == "http://127.0.0.1:9"
