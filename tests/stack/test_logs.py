"""Log lines of the control plane."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from taskflow.logs import configure, get_logger
from taskflow.settings import Settings


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """The root logger is put back."""
    import structlog

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize("as_json", [True, False])
def test_secrets_are_masked_wherever_they_stand(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Fields named like secrets, URL passwords in messages of foreign loggers and in tracebacks are not written."""
    configure(Settings(log_json=as_json))
    get_logger("a").info("one", agent_token="hidden1", deep={"password": "hidden2"}, node="n-1")
    logging.getLogger("b").warning("at %s", "redis://:hidden3@h/0")
    try:
        raise ValueError("postgresql://u:hidden4@h/d")
    except ValueError:
        get_logger("c").exception("failed")
    written = capsys.readouterr().err
    assert "hidden" not in written
    assert "n-1" in written
    if as_json:
        assert [json.loads(line)["event"] for line in written.splitlines()] == ["one", "at redis://:***@h/0", "failed"]
