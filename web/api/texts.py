"""Checks of the texts that reach git, a process or a database. Each raises ``ValidationError`` without the value."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

from marshmallow import ValidationError

IDEMPOTENCY_HEADER = "Idempotency-Key"
KEY = re.compile(r"[!-~]{1,200}")

REPOSITORY_MAX = 2000
BRANCH_MAX = 500
VALUE_BYTES_MAX = 32 * 1024
#: Linux takes no longer argument; the process would not start.
ARGUMENT_BYTES_MAX = 128 * 1024 - 1

_IDENTIFIER = re.compile(r"[A-Za-z0-9_.:-]{1,80}")
_PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SCP_LIKE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*@(?P<host>[^\s/:@-][^\s/:@]*):[^\s].*")
_REF_FORBIDDEN = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//")
#: A user name of http(s) that is an access token; hosts of git take one in either place.
_TOKEN_LIKE = re.compile(r"(?:gh[oprsu]_|github_pat_|gl(?:cbt|dt|ft|imt|oas|pat|ptt|rt|soat)-|ATBB|ATCTT)\S*|\S{33,}")
_ELSEWHERE = "git takes it from the node's credential helper or ssh agent"
_FORMS = "must be an absolute path, file://, https://, http://, ssh:// or user@host:path"


def plain(text: str) -> None:
    """Text that every database can hold."""
    if "\0" in text:
        raise ValidationError("must not contain NUL")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValidationError("must be valid Unicode")


def identifier(text: str) -> None:
    """An id as this service makes them."""
    if not _IDENTIFIER.fullmatch(text):
        raise ValidationError("is no id")


def project(text: str) -> None:
    """A name for tasks that are counted together; empty: none."""
    if text and not _PROJECT.fullmatch(text):
        raise ValidationError("a name has letters, digits, '.', '_' and '-', begins with a letter or digit, 64 at most")


def label(text: str) -> None:
    """A label of a query: its key ends at the first colon."""
    if not text.partition(":")[0] or ":" not in text:
        raise ValidationError("must be key:value")


def repository(text: str) -> None:
    """Something that git can clone and that can be mistaken neither for an option nor for another transport."""
    plain(text)
    if not text.strip():
        raise ValidationError("must not be empty")
    if len(text) > REPOSITORY_MAX:
        raise ValidationError(f"must not be longer than {REPOSITORY_MAX} characters")
    if text.startswith("-"):
        raise ValidationError("must not begin with -")
    if _CONTROL.search(text):
        raise ValidationError("must not contain control characters")
    scp_like = "://" not in text and _SCP_LIKE.fullmatch(text)
    if not (scp_like or text.startswith(("/", "file:///"))):
        _remote_url(text)


def _remote_url(text: str) -> None:
    try:
        parts = urlsplit(text)
        host, user, password, _port = parts.hostname, parts.username or "", parts.password, parts.port
    except ValueError as error:
        raise ValidationError("is not a URL that can be read") from error
    if parts.scheme not in ("http", "https", "ssh") or "://" not in text:
        raise ValidationError(_FORMS)
    if password is not None or (parts.scheme != "ssh" and _TOKEN_LIKE.fullmatch(unquote(user))):
        raise ValidationError(f"must not hold a password or token: {_ELSEWHERE}")
    if parts.query or parts.fragment:
        raise ValidationError(f"must have no query: tokens stand there; {_ELSEWHERE}")
    if not host or host.startswith("-") or parts.netloc.startswith("-"):
        raise ValidationError("must name a host")


def branch(text: str) -> None:
    """A branch name by git's rules for references, which also can't be mistaken for an option or a range."""
    plain(text)
    if not text or len(text) > BRANCH_MAX:
        raise ValidationError(f"must have 1 to {BRANCH_MAX} characters")
    if text.startswith("-"):
        raise ValidationError("must not begin with -")
    parts = text.split("/")
    if (
        _REF_FORBIDDEN.search(text)
        or text == "@"
        or text.endswith(".")
        or any(not part or part.startswith(".") or part.endswith(".lock") for part in parts)
    ):
        raise ValidationError("is not a branch name that git accepts")


def argument(text: str) -> None:
    """One argument of a command."""
    plain(text)
    if len(text.encode()) > ARGUMENT_BYTES_MAX:
        raise ValidationError(f"must not be longer than {ARGUMENT_BYTES_MAX} bytes")


def program(command: Sequence[str]) -> None:
    """A command whose program has a name."""
    if command and not command[0].strip():
        raise ValidationError("the program must not be empty")


def variable_name(text: str) -> None:
    """A name for the environment of a command."""
    if not _VARIABLE.fullmatch(text):
        raise ValidationError("a name must match [A-Za-z_][A-Za-z0-9_]*, 255 characters at most")
    if text.upper().startswith("TASKFLOW_"):
        raise ValidationError("names that begin with TASKFLOW_ are the system's own")


def variable_value(text: str) -> None:
    """A value for the environment of a command."""
    plain(text)
    if len(text.encode()) > VALUE_BYTES_MAX:
        raise ValidationError(f"must not be longer than {VALUE_BYTES_MAX} bytes")
