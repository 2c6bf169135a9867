"""The agent's directory: where things lie in it, its lock, its order and its address file."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from taskflow.agent.problems import StartRefused


@dataclass(frozen=True)
class Tls:
    """What the agent shows to who connects; PEM texts."""

    certificate: str
    private_key: str = field(repr=False)


@dataclass(frozen=True)
class Order:
    """What whoever ordered the node wrote for its agent (``order.json``), see ``protocol.NodeOrderSchema``."""

    node_id: str
    callback_token: str = field(repr=False)
    callback_generation: int
    agent_token: str = field(repr=False)
    slots: int
    heartbeat_interval_s: float
    listen_host: str
    listen_port: int
    advertise_host: str | None
    tls: Tls | None
    signature_age_s: float
    dead_man_s: float | None
    power_off: bool
    isolate: bool
    container_image: str | None


@dataclass(frozen=True)
class Places:
    """Paths under the agent's root."""

    root: Path

    @property
    def database(self) -> Path:
        """The SQLite file with all state."""
        return self.root / "agent.db"

    @property
    def address_file(self) -> Path:
        """Written once the agent listens: pid, start_ticks, port, address, boot_id."""
        return self.root / "agent.json"

    def workspace(self, workspace_id: str) -> Path:
        """Everything of one workspace; removed as a whole."""
        return self.root / "workspaces" / workspace_id

    def repo(self, workspace_id: str) -> Path:
        """The clone: the working directory of the workspace's sessions."""
        return self.workspace(workspace_id) / "repo"

    def clean(self, workspace_id: str) -> Path:
        """The clone of an isolated workspace that only the agent reaches: fetched into, looked at, pushed from."""
        return self.workspace(workspace_id) / "clean"

    def home(self, workspace_id: str) -> Path:
        """The home of an isolated workspace's user."""
        return self.workspace(workspace_id) / "home"

    def tmp(self, workspace_id: str) -> Path:
        """The directory for temporary files of an isolated workspace's user."""
        return self.workspace(workspace_id) / "tmp"

    def confinement(self, workspace_id: str) -> Path:
        """What holds the workspace's commands: user, limits, control group."""
        return self.workspace(workspace_id) / "confinement.json"

    def session(self, workspace_id: str, session_id: str) -> Path:
        """The shim's directory: lock, output, exit status."""
        return self.workspace(workspace_id) / "sessions" / session_id


def read_order(root: Path) -> Order:
    """The order in ``root``. Raises ``StartRefused`` naming what is missing or wrong."""
    # Imported late: shims and keepers use this module too, start often, and read no order.
    from marshmallow import ValidationError

    from taskflow import protocol

    path = root / "order.json"
    try:
        data = protocol.load(protocol.NodeOrderSchema, json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise StartRefused(f"cannot read the node's order: {error}") from error
    except ValidationError as error:
        raise StartRefused(f"{path} is not a node order: {error.messages}") from error
    except ValueError as error:
        raise StartRefused(f"{path} is not JSON: {error}") from error
    tls = Tls(**data.pop("tls")) if data["tls"] else data.pop("tls")
    return Order(**data, tls=tls)


def lock_root(root: Path) -> IO[str]:
    """Take the root for this process; the lock lasts as long as the returned file is open.

    Raises ``StartRefused`` when another agent has it.
    """
    file = (root / "agent.lock").open("a", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise StartRefused(f"another agent is running on {root}; stop it first") from error
    return file


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock of this file. Where there is no file nobody does."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` so that a reader, or a crash, sees the old file or the new one; mode 0600."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Replace ``path`` by ``data``, as ``write_text`` does."""
    write_text(path, json.dumps(data))


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in ``path``; None when there is no such file or it is not readable as one."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def private_directory(path: Path) -> Path:
    """``path`` as a directory that only this user can enter."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def remove_tree(path: Path) -> None:
    """Remove a directory, also one whose content a command made read-only. Missing is fine. Raises ``OSError``."""

    def open_up(function: Callable[..., Any], failed: str, _: Any) -> None:
        if not os.path.lexists(failed):
            return
        parent = Path(failed).parent
        parent.chmod(parent.stat().st_mode | stat.S_IRWXU)
        if not Path(failed).is_symlink() and Path(failed).is_dir():
            Path(failed).chmod(stat.S_IRWXU)
            shutil.rmtree(failed)
        else:
            function(failed)

    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path, onerror=open_up)
