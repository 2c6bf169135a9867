"""Log lines of the control plane: event names with key/values, as text or JSON, on standard error, secrets masked.

``structlog`` loggers and the standard library's (Celery, gunicorn, SQLAlchemy) go through the same renderer, so that a
log has one shape. Masking is the last word before rendering: it sees tracebacks and foreign messages as well.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any
from urllib.parse import unquote, urlsplit

import structlog

from taskflow.settings import Settings, table

get_logger = structlog.get_logger

MASK = "***"
_SECRET_KEYS = re.compile(r"(?:^|_)(?:token|password|secret|secret_key|authorization)$", re.IGNORECASE)
#: From "://" on, which is found at once: with the scheme, 50 MB were looked through for 20 s, and no thread ran meanwhile.
_URL_PASSWORD = re.compile(r"(?P<head>://[^\s/:@]*:)[^\s/@]+(?=@)")
_BEARER = re.compile(r"(?P<head>\bBearer\s+)[\w.~+/=-]+", re.IGNORECASE)
#: A user's token, and the signed id, alone or with its generation (packed when that is shorter), that is the token of a
#: node or workspace.
_TOKEN = re.compile(r"\btf_[\w-]{40,}|(?:\bI|\bWy[IJ]|\.eJ)[\w-]{15,}\.[\w-]{27}(?![\w-])")
_SHORTEST = 8  # characters; a shorter value would be found in words that are none

_known: tuple[str, ...] = ()  # longest first: one may be the beginning of another


def hide(values: Iterable[str]) -> None:
    """Mask these values from now on in every line of this process; ones of fewer than 8 characters are left."""
    global _known
    more = {value for value in values if len(value) >= _SHORTEST}.difference(_known)
    if more:
        _known = tuple(sorted(more.union(_known), key=len, reverse=True))


def mask_text(text: str) -> str:
    """``text`` with the passwords of URLs, tokens and the values of ``hide`` replaced."""
    for value in _known:
        text = text.replace(value, MASK)
    text = _URL_PASSWORD.sub(rf"\g<head>{MASK}", text)
    return _TOKEN.sub(MASK, _BEARER.sub(rf"\g<head>{MASK}", text))


def mask(value: Any) -> Any:
    """The same of whatever can be stored as JSON: every text in it, and all of a field that is named like a secret."""
    if isinstance(value, str):
        return mask_text(value)
    if isinstance(value, Mapping):
        return {key: _masked_field(str(key), item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [mask(item) for item in value]
    if isinstance(value, BaseException):
        return mask_text(repr(value))
    return value


def _masked_field(key: str, value: Any) -> Any:
    return MASK if value and _SECRET_KEYS.search(key) else mask(value)


def mask_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The structlog processor: values of keys that name a secret become ``***``, URL passwords in any text as well."""
    for key, value in list(event.items()):
        if not key.startswith("_"):  # structlog's own bookkeeping
            event[key] = _masked_field(key, value)
    return event


#: What steers a terminal, or turns the direction of a text. Line ends and tabs stay: tracebacks have them.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def escape_steering(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The structlog processor for text: a path or a message that somebody made up moves nothing where the log is read."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = _STEERING.sub(lambda found: repr(found[0])[1:-1], value)
    return event


#: Say at INFO what is only worth reading when something is looked for. alembic: which dialect it found, at each look at
#: the schema. celery: that each alarm was received and that it succeeded; two lines cost a turn 0.3 ms.
_CHATTY = ("alembic", "celery.worker.strategy", "celery.app.trace")


def configure(settings: Settings) -> None:
    """Set up structlog and the root logger for this process; calling it again replaces what was set up.

    The values of secret settings, and the passwords inside them, are masked from then on.
    """
    hide(_secrets_of(settings))
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    last: list[Any] = [structlog.processors.JSONRenderer(default=str)]
    if not settings.log_json:
        console = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        last = [escape_steering, console]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # else a second configure() would not reach loggers in use
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,  # a text now, so that masking sees it
            mask_secrets,
            *last,
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_level(settings.log_level))
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING if root.level == logging.INFO else logging.NOTSET)


def _secrets_of(settings: Settings) -> Iterable[str]:
    for row in table():
        if row.secret:
            value = getattr(settings, row.name)
            if "://" not in value:
                yield value
                continue
            try:
                password = urlsplit(value).password or ""
            except ValueError:
                continue  # no URL that anything here could use
            yield from (password, unquote(password))


def _level(name: str) -> int:
    level = logging.getLevelName(name.upper())
    return level if isinstance(level, int) else logging.INFO
