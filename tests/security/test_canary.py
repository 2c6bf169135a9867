"""A secret that is planted in a real task on the real stack is found in no place where it has no business."""

from __future__ import annotations

import base64
import re
import secrets
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from taskflow.settings import Settings
from taskflow.stack.data_dir import DataDir
from taskflow.vault import Vault
from tests.e2e.stack import Stack, make_repository

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

#: The files that exist to keep a secret, below the data directory; each must be its owner's alone.
KEEPERS = ("secret.key", "stack.json")
_OF_A_NODE = ("node token", "agent token", "workspace token")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with its Flower."""
    made = Stack(tmp_path_factory.mktemp("canary") / "data", {"TASKFLOW_LOG_LEVEL": "DEBUG"}, flower=True).start()
    yield made
    made.stop()


class CommandLines:
    """Collects the command lines of every process of this machine while it is entered."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> CommandLines:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            for process in psutil.process_iter():
                try:
                    self.seen.add(" ".join(process.cmdline()))
                except psutil.Error:
                    continue  # it ended meanwhile


def writings(secret: str) -> list[bytes]:
    """The secret itself, and as base64 at each of the three offsets."""
    raw = secret.encode()
    encoded = [base64.b64encode(b"\0" * shift + raw)[4 if shift else 0 : -4] for shift in range(3)]
    return [raw, *(text for text in encoded if len(text) > 12)]


def test_a_planted_secret_is_found_in_no_sink(stack: Stack, tmp_path: Path) -> None:
    """Task secrets and tokens: not in SQL, Redis, logs, answers, command lines, or on the node's disk."""
    canary = "canary-" + secrets.token_hex(16)
    repository = make_repository(tmp_path / "repository")
    command = ["sh", "-c", 'echo "it is $CANARY"; echo "$CANARY" | cut -c1-20; sleep 1; echo ok > done.txt']
    with CommandLines() as lines:
        task = stack.submit(repository, command, secrets={"CANARY": canary}, setup_command=["true"])
        done = stack.finished(task)
        failed = stack.submit(repository, ["sh", "-c", 'echo "$CANARY" >&2; exit 3'], secrets={"CANARY": canary})
        stack.finished(failed)
    assert done["status"] == "completed"

    info = stack.info()
    settings = Settings.from_env({"TASKFLOW_DATA_DIR": str(stack.data_dir)})
    key = DataDir(settings).secret_key()
    vault = Vault(key)
    run = done["run_id"].removeprefix("run-")
    tokens = [vault.derive_token("workspace", f"ws-{run}"), vault.derive_token("node", done["node_id"]),
              vault.derive_token("agent", done["node_id"])]  # fmt: skip
    forbidden = {
        text: name
        for name, value in {
            "task secret": canary, "API token": info["token"], "secret key": key, "workspace token": tokens[0],
            "node token": tokens[1], "agent token": tokens[2], "Flower's password": info["flower_password"],
        }.items()
        for text in writings(value)
    }  # fmt: skip
    found: list[str] = []

    def look(sink: str, content: bytes, *, but: tuple[str, ...] = ()) -> None:
        found.extend(f"{name} in {sink}" for text, name in forbidden.items() if text in content and name not in but)

    for path in sorted(stack.data_dir.rglob("*")):
        relative = str(path.relative_to(stack.data_dir))
        if not path.is_file() or path.is_socket() or relative in KEEPERS:
            continue
        # A node's folder is that node's disk, for its owner's eyes: its order and its agent's store hold its own tokens.
        look(relative, path.read_bytes(), but=_OF_A_NODE if relative.startswith("nodes/") else ())
    look("the output of up", stack.output.read_bytes())
    with stack.redis() as client:
        for name in client.scan_iter():
            look(f"redis {name!r}", name + (client.dump(name) or b""))
    for name in (task, failed):
        for part in ("", "/events", "/why", "/logs"):
            look(f"GET {part or '/'}", requests.get(
                f"{info['url']}/api/tasks/{name}{part}", headers={"Authorization": f"Bearer {info['token']}"}, timeout=10
            ).content)  # fmt: skip
    logs = stack.api("GET", f"/api/tasks/{task}/logs")["chunks"]
    look("the session's output", b"".join(base64.b64decode(chunk["data"]) for chunk in logs))
    look("command lines", "\n".join(lines.seen).encode())
    assert not found, found
    assert any("taskflow" in line for line in lines.seen), "no command line was looked at"


def test_what_keeps_secrets_is_its_owners_alone(stack: Stack) -> None:
    """No file or folder below the data directory is open to other users of the machine."""
    for name in KEEPERS:
        assert stat.S_IMODE((stack.data_dir / name).stat().st_mode) & 0o077 == 0, name
    for path in [stack.data_dir, *stack.data_dir.glob("nodes/*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_flower_asks_for_its_password_and_is_reached_from_this_machine_only(stack: Stack) -> None:
    """Its pages and its API: 401. What it leaves open (health, metrics) listens on loopback and names no task."""
    info = stack.info()
    for path in ("/", "/api/workers", "/api/tasks", "/workers", "/broker"):
        assert requests.get(info["flower_url"] + path, timeout=10).status_code == 401, path
        login = (info["flower_user"], "wrong")
        assert requests.get(info["flower_url"] + path, auth=login, timeout=10).status_code == 401, path
    login = (info["flower_user"], info["flower_password"])
    assert requests.get(info["flower_url"] + "/api/workers", auth=login, timeout=10).status_code == 200
    assert info["flower_url"].startswith("http://127.0.0.1:")
    pid = stack.pid("flower")
    listening = [one for one in psutil.Process(pid).net_connections("inet") if one.status == psutil.CONN_LISTEN]
    assert listening and {one.laddr.ip for one in listening} == {"127.0.0.1"}
    metrics = requests.get(info["flower_url"] + "/metrics", timeout=10)
    assert metrics.ok and not re.search(r"(task|run|node)-[0-9a-z]{26}", metrics.text)


def test_everything_else_listens_on_loopback_as_well(stack: Stack) -> None:
    """The embedded default opens no port to the network."""
    for name in ("web", "valkey"):
        owner = psutil.Process(stack.pid(name))
        addresses = {
            one.laddr.ip
            for process in [owner, *owner.children(recursive=True)]
            for one in process.net_connections("inet")
            if one.status == psutil.CONN_LISTEN
        }
        assert addresses == {"127.0.0.1"}, name
