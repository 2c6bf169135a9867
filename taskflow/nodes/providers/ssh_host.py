"""What is done on a host of the user's, by that host: this text is sent with each request and run there.

So it stands on the standard library alone, and no machine but the host itself has to be trusted to answer in time: what
changes something is done under one lock, in steps that a crash leaves done or not done. In the provider's directory::

    lock              held while something here is changed; the kernel lets go of it however its holder ends
    claim/            the one node of this host. Made aside and put here by one rename, taken away by another
        claim.json    its label
        agent.pyz     its agent
        ca.pem        what the agent checks the control plane by, where that is not its system's business
        root/         the agent's own: order.json, its locks, its workspaces
        started       its keeper has run
    gone/<label>      it was destroyed: an order that a paused worker gives late is refused
    aside-*           left by a crash, removed by the next change

A request is a line with its length, a JSON object, and the bytes of a file where it has one. The answer is a line that
begins with ``MARK``: what a shell's own start-up prints is not taken for it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MARK = "taskflow-host:"
#: How long a tombstone stands, in seconds.
TOMBSTONE_S = 86400.0
_LABEL = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_SAID_MAX = 600
#: What the agent's file says where its Python is older than the newest that one of its parts asks for.
_TOO_OLD = "or newer is needed; this is"
#: The users of workspaces pass through to what is theirs, and see nothing on the way.
_PASSAGE = 0o711


class Refused(Exception):
    """This host can't do what it is asked, and asking again will not help; the text says why."""


class Busy(Exception):
    """Somebody else is changing something here."""


class Place:
    """The provider's directory on this host. Relative names are below the home of the user who came."""

    def __init__(self, directory: str, limit_s: float) -> None:
        self.path = Path("~").expanduser() / directory
        self.claim = self.path / "claim"
        self.root = self.claim / "root"
        self.agent = self.claim / "agent.pyz"
        self.limit_s = limit_s

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One at a time. Raises ``Refused`` for a directory that somebody else could write to, ``Busy``."""
        self.path.mkdir(parents=True, exist_ok=True, mode=_PASSAGE)
        self.must_be_ours()
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            end = time.monotonic() + self.limit_s / 3
            while not _try_lock(descriptor, fcntl.LOCK_EX):
                if time.monotonic() > end:
                    raise Busy
                time.sleep(0.02)
            self._sweep()
            yield
        finally:
            os.close(descriptor)

    def must_hold(self, isolate: bool) -> None:
        """Whether an agent that gives each workspace a user of its own could work here: it says so itself only later."""
        if not isolate:
            return
        if os.geteuid() != 0:
            raise Refused("workspaces have users of their own only where root is the user (or set isolate = false)")
        for parent in self.path.parents:
            if parent.exists() and not parent.stat().st_mode & stat.S_IXOTH:
                raise Refused(
                    f"users of workspaces can't reach {self.path}: {parent} lets nobody pass (name another directory, or "
                    "set isolate = false)"
                )

    def must_be_ours(self) -> None:
        """Whoever else can write here could put a program of theirs in the agent's place."""
        found = self.path.stat()
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
            raise Refused(f"{self.path} is not ours alone: it must belong to this user and be writable by no other")

    def label(self) -> str | None:
        """Who has this host. Read without the lock it is whole too."""
        try:
            return str(json.loads((self.claim / "claim.json").read_text(encoding="utf-8"))["label"])
        except FileNotFoundError:
            return None

    def age_s(self) -> float:
        """Since when, by this host's clock alone."""
        return max(0.0, time.time() - (self.claim / "claim.json").stat().st_mtime)

    def take(self, label: str) -> None:
        """Make the claim, unless there is one: a rename onto a directory that holds something fails."""
        aside = self._aside()
        aside.mkdir(mode=_PASSAGE)
        _write(aside / "claim.json", json.dumps({"label": label}).encode())
        _sync(aside)
        try:
            aside.rename(self.claim)
        except OSError:
            if self.label() is None:
                raise
            shutil.rmtree(aside)
        _sync(self.path)

    def release(self) -> None:
        """Take the claim away, in one step, and then what it was."""
        aside = self._aside()
        self.claim.rename(aside)
        _sync(self.path)
        shutil.rmtree(aside)

    def tombstone(self, label: str) -> Path:
        """The file that says: it was destroyed."""
        return self.path / "gone" / label

    def bury(self, label: str) -> None:
        """Write the tombstone; the day begins anew."""
        (self.path / "gone").mkdir(exist_ok=True, mode=0o700)
        _write(self.tombstone(label), b"")
        _sync(self.path / "gone")

    def state(self) -> str:
        """Of the node that is here: starting (its keeper was never started), running, stopped.

        Sessions outlive keeper and agent. While one does, the node is not stopped: its task must not begin elsewhere.
        """
        locks = [
            self.root / "keep.lock",
            self.root / "agent.lock",
            *self.root.glob("workspaces/*/sessions/*/shim.lock"),
        ]
        if any(_is_locked(lock) for lock in locks):
            return "running"
        return "stopped" if (self.claim / "started").exists() else "starting"

    def agent_hash(self) -> str | None:
        """SHA-256 of the agent that is here."""
        try:
            return hashlib.sha256(self.agent.read_bytes()).hexdigest()
        except FileNotFoundError:
            return None

    def run_agent(self, *arguments: str) -> tuple[int | None, str]:
        """Run a command of the agent's file: its exit status, None when it took too long, and the end of what it said.

        What it says goes to a file: a daemon that it leaves behind would hold a pipe open.
        """
        with tempfile.TemporaryFile() as said:
            try:
                status: int | None = subprocess.run(
                    [sys.executable, str(self.agent), *arguments], stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                    cwd="/", start_new_session=True, timeout=max(1.0, self.limit_s * 2 / 3), check=False,
                ).returncode  # fmt: skip
            except subprocess.TimeoutExpired:
                status = None
            said.seek(0)
            return status, said.read().decode(errors="replace").strip()[-_SAID_MAX:]

    def _aside(self) -> Path:
        return self.path / f"aside-{secrets.token_hex(8)}"

    def _sweep(self) -> None:
        """What a crash left, and old tombstones. Under the lock: nobody is at work aside."""
        for left in self.path.glob("aside-*"):
            shutil.rmtree(left)
        for stone in (self.path / "gone").glob("*"):
            if time.time() - stone.stat().st_mtime > TOMBSTONE_S:
                stone.unlink()


def check(place: Place, request: dict[str, Any], _file: bytes) -> dict[str, Any]:
    """Whether nodes could be made here. Makes nothing."""
    _must_have_git()
    place.must_hold(request["isolate"])
    known = place.path
    while not known.exists():
        known = known.parent
    if not os.access(known, os.W_OK | os.X_OK):
        raise Refused(f"{known} can't be written to")
    if known == place.path:
        place.must_be_ours()
    return {"label": place.label()}


def look(place: Place, request: dict[str, Any], _file: bytes) -> dict[str, Any]:
    """The node that is here, whoever it belongs to."""
    for _ in range(3):
        label = place.label()
        if label is None:
            return {"label": None}
        try:
            return {"label": label, "state": place.state(), "age_s": place.age_s()}
        except FileNotFoundError:
            continue  # it is being released at this moment
    raise Busy


def log(place: Place, request: dict[str, Any], _file: bytes) -> dict[str, Any]:
    """The end of what the label's agent and its keeper said; empty where they said nothing or it is another one's host."""
    if place.label() != _label(request):
        return {"log": ""}
    try:
        with (place.root / "agent.log").open("rb") as file:
            begin = max(0, file.seek(0, os.SEEK_END) - request["bytes"])
            file.seek(begin)
            said = file.read(request["bytes"])
    except FileNotFoundError:
        return {"log": ""}
    # Lines are whole: who masks secrets would not know a half of one.
    return {"log": (said.partition(b"\n")[2] if begin else said).decode(errors="replace")}


def claim(place: Place, request: dict[str, Any], _file: bytes) -> dict[str, Any]:
    """Take this host for a label, or go on with what an earlier attempt took. ``by``: who has it."""
    _must_have_git()
    label = _label(request)
    place.must_hold(request["isolate"])
    with place.locked():
        if place.tombstone(label).exists():
            return {"destroyed": True}
        if place.label() is None:
            place.take(label)
        return {"by": place.label(), "state": place.state(), "agent": place.agent_hash()}


def put_agent(place: Place, request: dict[str, Any], file: bytes) -> dict[str, Any]:
    """Put the agent's file in its place, whole."""
    if hashlib.sha256(file).hexdigest() != request["hash"]:
        return {"failed": "the agent's file did not come whole"}
    with place.locked():
        if place.label() != _label(request):
            return {"destroyed": True}
        _replace(place.agent, file)
    return {}


def start(place: Place, request: dict[str, Any], _file: bytes) -> dict[str, Any]:
    """Write the order and start the keeper, unless it runs."""
    label = _label(request)
    with place.locked():
        if place.tombstone(label).exists() or place.label() != label:
            return {"destroyed": True}
        if place.state() == "starting":
            place.root.mkdir(exist_ok=True, mode=0o700)
            _replace(place.root / "order.json", json.dumps(request["order"]).encode())
            arguments = ["keep", "--root", str(place.root), "--control-plane-url", request["control_plane_url"]]
            if request["ca"]:
                _replace(place.claim / "ca.pem", request["ca"].encode())
                arguments += ["--ca-file", str(place.claim / "ca.pem")]
            status, said = place.run_agent(*arguments)
            if status and _TOO_OLD in said:
                raise Refused(said)
            if status != 0 or place.state() != "running":
                return {"failed": f"the agent's keeper did not start ({_how(status)}): {said}"}
        _replace(place.claim / "started", b"")
        return {"state": place.state()}


def destroy(place: Place, request: dict[str, Any], _file: bytes) -> dict[str, Any]:
    """End a node and take its claim away last. ``gone``: nothing of it is left. ``wants_agent``: only a whole file of the
    agent can end it. The tombstone stands before anything else, so that no order overtakes this."""
    label = _label(request)
    with place.locked():
        place.bury(label)
        if place.label() != label:
            return {"gone": True}
        if place.root.exists():
            if not place.agent.exists():
                return {"gone": False, "wants_agent": True}
            status, said = place.run_agent("uninstall", "--root", str(place.root))
            if status is None:
                return {"gone": False}
            if status != 0 or place.root.exists():
                if place.agent_hash() != request["hash"]:
                    return {"gone": False, "wants_agent": True}
                return {"failed": f"the agent could not be removed ({_how(status)}): {said}"}
        place.release()
    return {"gone": True}


_WHAT: dict[str, Callable[[Place, dict[str, Any], bytes], dict[str, Any]]] = {
    "check": check, "look": look, "log": log, "claim": claim, "put_agent": put_agent, "start": start,
    "destroy": destroy,
}  # fmt: skip


def main() -> None:
    """Read one request, do it, answer. A link that is cut can't leave this waiting: it ends itself in time."""
    source = sys.stdin.buffer
    length = int(source.readline())
    text = source.read(length)
    if len(text) != length:
        return
    request = json.loads(text)
    file = source.read(request["file_bytes"])
    signal.setitimer(signal.ITIMER_REAL, max(1.0, request["limit_s"]))
    try:
        answer = _WHAT[request["what"]](Place(request["directory"], request["limit_s"]), request, file)
    except Refused as error:
        answer = {"refused": str(error)}
    except Busy:
        answer = {"failed": "somebody else changes something there"}
    except OSError as error:
        answer = {"failed": str(error)}
    print(MARK + json.dumps(answer), flush=True)


def _must_have_git() -> None:
    if shutil.which("git") is None:
        raise Refused("git is missing there")


def _label(request: dict[str, Any]) -> str:
    label = str(request["label"])
    if not _LABEL.fullmatch(label):
        raise Refused("the label is none")
    return label


def _how(status: int | None) -> str:
    return "it took too long" if status is None else f"exit status {status}"


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _replace(path: Path, data: bytes) -> None:
    aside = path.with_name(f".{path.name}.new")
    _write(aside, data)
    aside.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main()
