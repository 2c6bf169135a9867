"""The data directory of an installation: its layout, its secret key, and the file that says how to reach its stack."""

from __future__ import annotations

import dataclasses
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from taskflow import file_lock
from taskflow.errors import InfrastructureError
from taskflow.files import read_json, sync_directory, write_json, write_private
from taskflow.settings import Settings

#: The name of the supervisor's lock in the data directory.
SUPERVISOR_LOCK = "supervisor.lock"
#: The name of the SQLite file there.
SQLITE_FILE = "taskflow.db"


@dataclass(frozen=True)
class StackInfo:
    """How to reach a running stack (``stack.json``). Holds secrets: the file is 0600."""

    url: str
    token: str
    redis_url: str
    database_url: str
    flower_url: str
    flower_user: str
    flower_password: str
    supervisor_pid: int
    started_at: float
    broker_url: str = ""

    def __repr__(self) -> str:
        return f"StackInfo(url={self.url!r}, supervisor_pid={self.supervisor_pid})"


#: One of these says that a directory is ours already, or was made ready for us.
_OURS = frozenset((SQLITE_FILE, "secret.key", "nodes", "valkey", "providers.toml", "stack.json"))


class DataDir:
    """``settings.data_path``, made when needed, for this user only (0700)."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.root = settings.data_path.expanduser().absolute()
        try:
            self._check_unshared()
            for path in (self.root, self.nodes, self.logs, self.run):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                path.chmod(0o700)
        except OSError as error:
            raise InfrastructureError(
                f"the data directory {self.root} is not usable: {error}",
                advice="set TASKFLOW_DATA_DIR to a directory you can write",
            ) from error

    def _check_unshared(self) -> None:
        """Refuse a directory in which others write other things: closing it to them, as ``/tmp``, would harm them."""
        try:
            found = self.root.stat()
        except FileNotFoundError:
            return
        others_write = bool(found.st_mode & 0o022) or found.st_uid != os.geteuid()
        names = {path.name for path in self.root.iterdir()} if others_write else set()
        if names and not names & _OURS:
            raise InfrastructureError(
                f"the data directory {self.root} holds other things, and other users write in it",
                advice="set TASKFLOW_DATA_DIR to a directory of its own",
            )

    @property
    def valkey(self) -> Path:
        """Directory of the embedded server."""
        return self.root / "valkey"

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.root / SQLITE_FILE

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the SQLite file."""
        return f"sqlite:///{self.database}"

    @property
    def nodes(self) -> Path:
        """One directory for each local node."""
        return self.root / "nodes"

    @property
    def logs(self) -> Path:
        """Output of the stack's processes."""
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """What only means something while the stack runs."""
        return self.root / "run"

    @property
    def supervisor_lock(self) -> Path:
        """Locked by the supervisor for its life: the lifeline of everything it starts."""
        return self.root / SUPERVISOR_LOCK

    @property
    def stack_file(self) -> Path:
        """Where ``StackInfo`` is kept."""
        return self.root / "stack.json"

    @property
    def secret_key_file(self) -> Path:
        """The installation's own secret key."""
        return self.root / "secret.key"

    def secret_key(self) -> str:
        """``settings.secret_key``, or the installation's own, made on first use. Raises ``InfrastructureError``."""
        if self._settings.secret_key:
            return self._settings.secret_key
        end = time.monotonic() + 5.0
        while True:
            try:
                found = self.secret_key_file.read_text(encoding="ascii").strip()
            except FileNotFoundError:
                self._make_secret_key()
                continue
            if found:
                return found
            if time.monotonic() > end:
                raise InfrastructureError(
                    f"{self.secret_key_file} is empty",
                    advice="restore it from a backup; without it stored secrets can't be read and tokens are void",
                )
            time.sleep(0.02)

    def _make_secret_key(self) -> None:
        # Written aside and linked into place: a crash leaves a whole key or none, and the first of two makers wins.
        aside = self.root / f".secret.key.{os.getpid()}.{secrets.token_hex(4)}"
        write_private(aside, secrets.token_urlsafe(48) + "\n")
        try:
            os.link(aside, self.secret_key_file)
        except FileExistsError:
            pass
        finally:
            aside.unlink()
        sync_directory(self.root)

    def is_serving(self) -> bool:
        """True while a supervisor lives on this directory."""
        return file_lock.is_held(self.supervisor_lock)

    def write_stack_info(self, info: StackInfo) -> None:
        """Replace ``stack.json`` (0600)."""
        write_json(self.stack_file, dataclasses.asdict(info))

    def read_stack_info(self) -> StackInfo | None:
        """How to reach the stack that serves this directory; None when none does, or it is not ready yet."""
        if not self.is_serving():
            return None
        data = read_json(self.stack_file)
        try:
            return StackInfo(**data) if data else None
        except TypeError:
            return None  # written by another version

    def clear_stack_info(self) -> None:
        """Remove ``stack.json``: from now on nobody is sent to this stack."""
        self.stack_file.unlink(missing_ok=True)
