"""Which server a command talks to: the one of the environment, else the stack that serves the data directory."""

from __future__ import annotations

import dataclasses

from taskflow.cli.client import Api
from taskflow.cli.problems import NoServer, no_stack
from taskflow.cli.transport import Target
from taskflow.clock import Clock, SystemClock
from taskflow.errors import UsageError
from taskflow.logs import mask_text
from taskflow.settings import Settings
from taskflow.stack.data_dir import SUPERVISOR_LOCK, DataDir, StackInfo

#: A stack that is starting has everything ready within this; one that is stopping is gone.
CHANGING_S = 60.0


def find(settings: Settings) -> Target | None:
    """Where the server is, None when there is none. Raises ``UsageError`` when there is a URL but no token for it,
    or a token that is none."""
    info = serving(settings)
    if settings.url:
        same = info is not None and info.url == settings.url.rstrip("/")
        token = _sendable(settings.token) or (info.token if info is not None and same else "")
        if not token:
            raise UsageError(
                f"TASKFLOW_URL names {mask_text(settings.url)}, and TASKFLOW_TOKEN is empty: the server wants a token",
                advice="on its machine: taskflow token create --name NAME    then here: export TASKFLOW_TOKEN=...",
                fields={"TASKFLOW_TOKEN": "is empty"},
            )
        return Target(settings.url.rstrip("/"), token)
    return None if info is None else Target(info.url, _sendable(settings.token) or info.token)


def _sendable(token: str) -> str:
    """``token``. Raises ``UsageError``, which does not repeat it, where no header of HTTP could carry it."""
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise UsageError(
            "TASKFLOW_TOKEN is no token",
            advice="was it read from a file with a line end too many?",
            fields={"TASKFLOW_TOKEN": "holds a character that no token has"},
        )
    return token


def connect(settings: Settings) -> Api:
    """The client of the server. Raises ``NoServer`` when there is none."""
    target = find(settings)
    if target is None:
        raise no_stack(settings.data_path)
    return Api(target, relocate=lambda: find(settings))


def over_api(settings: Settings) -> bool:
    """Whether a command that could work on the stores goes by the API: a server is named, which is not the stack that
    serves the data directory, and none of its stores is."""
    if not settings.url or settings.redis_url or settings.database_url:
        return False
    info = serving(settings)
    return info is None or info.url != settings.url.rstrip("/")


def serving(settings: Settings) -> StackInfo | None:
    """The stack that serves the data directory, if one does and is ready. Changes nothing there."""
    return DataDir(settings).read_stack_info() if was_served(settings) else None


def was_served(settings: Settings) -> bool:
    """Whether a stack ever served the data directory. Another directory is not made, and its rights are left alone."""
    return (settings.data_path.expanduser() / SUPERVISOR_LOCK).exists()


def wait_while_changing(settings: Settings, clock: Clock | None = None) -> Target | None:
    """The server, waited for while a stack of the data directory is starting or stopping; None when none is left.

    Raises ``NoServer`` when that takes longer than ``CHANGING_S``.
    """
    clock = clock or SystemClock()
    end = clock.monotonic() + CHANGING_S
    while True:
        target = find(settings)
        if target is not None:
            return target
        if not was_served(settings) or not DataDir(settings).is_serving():
            return None
        if clock.monotonic() > end:
            raise NoServer(
                "no server",
                f"the stack there is neither up nor gone after {CHANGING_S:g} s",
                where=str(settings.data_path),
                advice="look at its terminal, or at the logs directory there",
            )
        clock.sleep(0.1)


def stores(settings: Settings) -> Settings | None:
    """``settings`` with the stores of the installation: those of the environment, else the serving stack's.

    None when neither names a Redis.
    """
    if settings.redis_url:
        return settings
    info = serving(settings)
    if info is None:
        return None
    return dataclasses.replace(
        settings,
        redis_url=info.redis_url,
        broker_url=settings.broker_url or info.broker_url,
        database_url=settings.database_url or info.database_url,
    )
