"""Connections to hosts of the user's: one for each call, closed with it, and every failure typed.

Nothing of the environment takes part: no configuration of a user's, no key agent, no password, no forwarding. A host's key
is checked and never learned. What is sent goes by standard input; no value is part of a command but two that were checked
when the catalogue was read.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shlex
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import asyncssh

from taskflow.errors import OutcomeUnknown, StepError
from taskflow.nodes.providers import ssh_host
from taskflow.nodes.providers.base import AccessRefused, HostUnreachable, OrderInvalid, ProviderUnavailable

_Answer = TypeVar("_Answer")

PYTHON_NEEDED = "3.10"
_ANSWER_MAX = 1024 * 1024
_AT_ONCE = 32
_CLOSE_S = 2.0
_TOO_OLD = "taskflow needs another Python"
#: Reads the program by its length, so that a link that breaks never runs half of it. One line, for every shell.
_LOADER = (
    f'import sys; sys.version_info < ({PYTHON_NEEDED.replace(".", ", ")}) and sys.exit("{_TOO_OLD}, this is %d.%d" % '
    "sys.version_info[:2]); n = int(sys.stdin.buffer.readline()); s = sys.stdin.buffer.read(n); "
    'exec(s if len(s) == n else "")'
)
_PROGRAM = Path(ssh_host.__file__).read_bytes()

# It tells of every connection and every key that it tries; what matters is in our errors.
logging.getLogger("asyncssh").setLevel(logging.WARNING)


@dataclass(frozen=True)
class Host:
    """Where a host is reached."""

    address: str
    port: int

    @property
    def name(self) -> str:
        """As it stands in a server's id and in messages."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclass(frozen=True)
class Account:
    """How every host of a provider is used. ``key_file`` is read at each call, and has no passphrase."""

    user: str
    key_file: str
    known_hosts: str
    directory: str
    python: str


class NoPython(OrderInvalid):
    """The host has no Python that the agent could run on."""


class _NoAnswer(Exception):
    """Something was asked, and what came back is no answer to it."""


class Session:
    """One open connection. ``sent``: something was asked, so that it may have happened."""

    def __init__(self, host: Host, account: Account, connection: asyncssh.SSHClientConnection, limit_s: float) -> None:
        self.host = host
        self.sent = False
        self._account = account
        self._connection = connection
        self._limit_s = limit_s

    async def ask(self, what: str, file: bytes = b"", **fields: Any) -> dict[str, Any]:
        """One request to ``ssh_host`` and its answer. ``file`` goes with it.

        Raises ``OrderInvalid`` for what the host can't do, ``ProviderUnavailable`` for what it could not do now,
        ``NoPython``.
        """
        request = json.dumps(
            {
                "what": what, "directory": self._account.directory, "limit_s": self._limit_s, "file_bytes": len(file),
                **fields,
            }
        ).encode()  # fmt: skip
        command = f"{shlex.quote(self._account.python)} -I -c {shlex.quote(_LOADER)}"
        self.sent = True
        sent = b"".join((b"%d\n" % len(_PROGRAM), _PROGRAM, b"%d\n" % len(request), request, file))
        status, said = await self._run(command, sent)
        for line in reversed(said.splitlines()):
            if line.startswith(ssh_host.MARK):
                return self._checked(line.removeprefix(ssh_host.MARK))
        if status in (126, 127) or _TOO_OLD in said:
            raise NoPython(
                f"host {self.host.name}: the agent needs Python {PYTHON_NEEDED} or newer as {self._account.python}: "
                f"{_end(said)}",
                advice="install it there, or name another one with `python` in the catalogue",
            )
        raise _NoAnswer(f"no answer to {what} (exit status {status}): {_end(said)}")

    async def has_claim(self) -> bool:
        """Whether there is a node, asked without Python."""
        claim = f"{self._account.directory}/claim"
        status, _ = await self._run(f"cd || exit 9; test -e {shlex.quote(claim)}", b"")
        if status not in (0, 1):
            raise ProviderUnavailable(f"host {self.host.name} does not say whether it has {claim}")
        return status == 0

    def _checked(self, text: str) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = dict(json.loads(text))
        except (TypeError, ValueError):
            raise _NoAnswer(f"an answer that is none: {_end(text)}") from None
        if "refused" in answer:
            raise OrderInvalid(f"host {self.host.name}: {answer['refused']}")
        if "failed" in answer:
            raise ProviderUnavailable(f"host {self.host.name}: {answer['failed']}")
        return answer

    async def _run(self, command: str, sent: bytes) -> tuple[int | None, str]:
        """Exit status and output. More output than an answer has is read no further: the host may be anybody's."""
        process = await self._connection.create_process(command, encoding=None, stderr=asyncssh.STDOUT)
        try:
            # A command that ended before it read (there is no such Python) has said why in its status and output.
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(sent)
                process.stdin.write_eof()
            said = b""
            while len(said) < _ANSWER_MAX:
                more = await process.stdout.read(_ANSWER_MAX)
                if not more:
                    break
                said += more
            else:
                raise _NoAnswer("an answer without an end")
            await process.wait_closed()
        finally:
            process.close()
        if process.exit_status is None:
            raise _NoAnswer("the connection broke before the answer came")
        return process.exit_status, said.decode(errors="replace")


async def on_host(
    account: Account,
    host: Host,
    work: Callable[[Session], Awaitable[_Answer]],
    *,
    timeout_s: float,
    makes: bool = False,
) -> _Answer:
    """Connect, do ``work``, let go; all of it within ``timeout_s``.

    Raises ``AccessRefused``; where the connection fails ``HostUnreachable`` if nothing was asked yet, else
    ``ProviderUnavailable``, or ``OutcomeUnknown`` for work that ``makes`` something.
    """
    opened: list[Session] = []

    async def all_of_it() -> _Answer:
        connection = await _connect(account, host, timeout_s)
        try:
            opened.append(Session(host, account, connection, timeout_s))
            found = await work(opened[0])
        except BaseException:
            connection.abort()  # a good-bye would wait for a host that may not be there any more
            raise
        connection.close()
        try:
            await asyncio.wait_for(connection.wait_closed(), _CLOSE_S)
        except asyncio.TimeoutError:
            connection.abort()
        return found

    try:
        return await asyncio.wait_for(all_of_it(), timeout_s)
    except asyncio.TimeoutError:
        why = f"no answer within {timeout_s:g} s"
    except (asyncssh.Error, OSError, _NoAnswer) as error:
        refused = _refusal(account, host, error)
        if refused is not None:
            raise refused from error
        why = str(error) or type(error).__name__
    if not opened or not opened[0].sent:
        raise HostUnreachable(f"host {host.name} can't be asked: {why}")
    kind = OutcomeUnknown if makes else ProviderUnavailable
    raise kind(f"host {host.name} can't be asked: {why}", code="provider_unavailable")


async def on_all(
    account: Account, hosts: Iterable[Host], work: Callable[[Session], Awaitable[_Answer]], *, timeout_s: float
) -> list[tuple[Host, _Answer | StepError]]:
    """The same on many hosts at once, each with its answer or its error, all of it within ``timeout_s``."""
    places = asyncio.Semaphore(_AT_ONCE)
    end = asyncio.get_running_loop().time() + timeout_s

    async def one(host: Host) -> tuple[Host, _Answer | StepError]:
        async with places:
            left_s = end - asyncio.get_running_loop().time()
            try:
                if left_s <= 0:
                    raise ProviderUnavailable(f"host {host.name} was not asked: others took {timeout_s:g} s")
                return host, await on_host(account, host, work, timeout_s=left_s)
            except StepError as error:
                return host, error

    return list(await asyncio.gather(*(one(host) for host in hosts)))


async def _connect(account: Account, host: Host, timeout_s: float) -> asyncssh.SSHClientConnection:
    key, known_hosts = credentials(account)
    return await asyncssh.connect(
        host.address, host.port, username=account.user, client_keys=[key], known_hosts=known_hosts, config=None,
        agent_path=None, preferred_auth=("publickey",), gss_kex=False, gss_auth=False,
        connect_timeout=timeout_s / 2, login_timeout=timeout_s / 2,
    )  # fmt: skip


def credentials(account: Account) -> tuple[asyncssh.SSHKey, asyncssh.SSHKnownHosts]:
    """Our key, and those of the hosts, as their files are now. Raises ``AccessRefused``."""
    try:
        key = asyncssh.read_private_key(account.key_file)
    except (OSError, asyncssh.KeyImportError) as error:
        raise AccessRefused(
            f"the key file {account.key_file} can't be used: {_why(error)}",
            advice="it must be a private key without a passphrase that the workers may read",
        ) from None
    try:
        return key, asyncssh.read_known_hosts(account.known_hosts)
    except (OSError, ValueError) as error:
        raise AccessRefused(
            f"the known_hosts file {account.known_hosts} can't be used: {_why(error)}",
            advice="it must hold a line for every host, as ssh-keyscan prints it, and the workers must be able to read it",
        ) from None


def _refusal(account: Account, host: Host, error: Exception) -> AccessRefused | None:
    """What only a human can mend; it is never mended by trying."""
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        return AccessRefused(
            f"host {host.name} shows a key that {account.known_hosts} does not have for it: {error.reason}",
            advice=f"compare `ssh-keyscan -p {host.port} {host.address}` with what the host itself says "
            f"(`cat /etc/ssh/ssh_host_*_key.pub` there), then write its line to {account.known_hosts}",
        )
    if isinstance(error, asyncssh.PermissionDenied):
        return AccessRefused(
            f"host {host.name} lets {account.user} not in with the key {account.key_file}",
            advice=f"append its public key to ~{account.user}/.ssh/authorized_keys there",
        )
    return None


def _end(said: str) -> str:
    return said.strip()[-300:] or "nothing was said"


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
