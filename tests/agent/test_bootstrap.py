"""The first start on a bought server: one order, whoever crashes where and whatever answer is lost."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from taskflow import protocol
from taskflow.agent import bootstrap, dead_man, places
from taskflow.agent.__main__ import main
from taskflow.agent.bootstrap import Contact, fetch_order
from taskflow.agent.problems import StartRefused
from tests.agent.control_plane import Callback, FakeControlPlane
from tests.agent.rig import AGENT_TOKEN, NODE_ID, NODE_TOKEN, AgentRig
from tests.support.waiting import wait_until

TOKEN = "bootstrap-token-for-tests"
ORDER = {
    "node_id": NODE_ID, "callback_token": NODE_TOKEN, "agent_token": AGENT_TOKEN, "slots": 2,
    "heartbeat_interval_s": 0.5, "dead_man_s": 3600.0, "something_newer": "kept",
}  # fmt: skip
_WATCHED = {bootstrap.__file__, places.__file__}


class Server:
    """A bought server before its first start, and a control plane that gives the order to one claim."""

    def __init__(self, path: Path, plane: FakeControlPlane) -> None:
        self.root = path / "node"
        self.root.mkdir(parents=True)
        self.file = path / "bootstrap.json"
        self.plane = plane
        self.content = {"control_plane_url": plane.url, "node_id": NODE_ID, "token": TOKEN}
        self.file.write_text(json.dumps(self.content))
        self.waits: list[float] = []
        plane.answers["bootstrap"] = ORDER

    def fetch(self) -> Contact:
        """One start."""
        return fetch_order(self.root, self.file, wait=self.waits.append)

    def asked(self) -> list[Callback]:
        """The requests for the order."""
        return self.plane.received("/bootstrap")

    def check_done(self) -> None:
        """The order is there as it was sent, the token is gone, all with mode 0600."""
        assert json.loads((self.root / "order.json").read_text()) == ORDER
        assert json.loads(self.file.read_text()) == {"control_plane_url": self.plane.url, "node_id": NODE_ID}
        for file in (self.root / "order.json", self.file):
            assert file.stat().st_mode & 0o777 == 0o600
        assert not (self.root / "claim.json").exists()


@pytest.fixture
def server(tmp_path: Path, control_plane: FakeControlPlane) -> Server:
    """A server that was just booted."""
    return Server(tmp_path / "server", control_plane)


def test_the_first_start_fetches_the_order_and_gives_the_token_up(server: Server) -> None:
    """It says that it started, asks with the token as a bearer, and later starts ask nothing."""
    assert server.fetch() == Contact(server.plane.url, None)
    server.check_done()
    boot, asked = server.plane.callbacks
    assert (boot.path, boot.token) == (f"/callbacks/nodes/{NODE_ID}/boot/agent_started", TOKEN)
    assert asked.token == TOKEN
    assert asked.body["protocol_version"] >= 2
    assert 16 <= len(asked.body["claim"]) <= 64
    assert server.fetch() == Contact(server.plane.url, None)
    assert len(server.plane.callbacks) == 2


def test_lost_answers_are_asked_for_again_with_the_same_claim(server: Server) -> None:
    """No answer, errors, and an order that is none: it waits longer each time and asks again."""
    faults: list[int | None] = [0, 503, 429]
    server.plane.fault = lambda call: faults.pop(0) if faults and call.path.endswith("/bootstrap") else None
    strange: list[dict[str, Any]] = [{"welcome": "to this hotel"}, {**ORDER, "node_id": "node-2"}]

    def pause(seconds: float) -> None:
        server.waits.append(seconds)
        server.plane.answers["bootstrap"] = strange.pop(0) if strange and not faults else ORDER

    fetch_order(server.root, server.file, wait=pause)
    server.check_done()
    assert len({call.body["claim"] for call in server.asked()}) == 1
    assert len(server.asked()) == 6
    assert server.waits[-1] > server.waits[0]


@pytest.mark.parametrize(
    ("status", "words"), [(401, "not valid"), (409, "another server"), (410, "gone"), (400, "version")]
)
def test_a_final_answer_ends_it_with_what_to_do(server: Server, status: int, words: str) -> None:
    """A copy of the server, or one whose node is gone, does not ask for ever; its files stay as they were."""
    server.plane.fault = lambda call: status if call.path.endswith("/bootstrap") else None
    with pytest.raises(StartRefused, match=words) as refused:
        server.fetch()
    assert str(status) in str(refused.value)
    assert "asked for by the test" in str(refused.value)
    assert TOKEN not in str(refused.value)
    assert json.loads(server.file.read_text()) == server.content
    assert not (server.root / "order.json").exists()


@pytest.mark.parametrize("bought", [True, False])
@pytest.mark.parametrize("status", [404, 409, 410, 401, 403, 400])
def test_a_bought_server_that_is_not_wanted_shuts_down_at_once_and_no_other_machine_does(
    server: Server, monkeypatch: pytest.MonkeyPatch, status: int, bought: bool
) -> None:
    """Only on an answer that says so for good, and only where the file says that the machine is the node's alone."""
    offs: list[str] = []
    monkeypatch.setattr(dead_man, "power_off", offs.append)
    monkeypatch.setattr("taskflow.agent.node.Node", None)  # nothing gets that far
    server.plane.fault = lambda call: status if call.path.endswith("/bootstrap") else None
    server.file.write_text(json.dumps({**server.content, **({"power_off": True} if bought else {})}))
    ended = main(["--root", str(server.root), "--bootstrap", str(server.file)])
    unwanted = bought and status in (404, 409, 410)
    assert offs == (["the control plane has no use for this server"] if unwanted else [])
    assert ended == (protocol.AGENT_UNWANTED if unwanted else 1)


@pytest.mark.parametrize("fault", [0, 404])
def test_who_does_not_answer_or_is_not_the_control_plane_shuts_nothing_down(server: Server, fault: int) -> None:
    """A page of a proxy, of whatever status, is no answer: it is asked again."""
    server.file.write_text(json.dumps({**server.content, "power_off": True}))
    server.plane.fault = lambda call: fault if call.path.endswith("/bootstrap") and not server.waits else None
    server.plane.refusal = {}
    server.fetch()
    assert len(server.waits) == 1


def test_what_is_only_told_holds_nothing_up(server: Server) -> None:
    """A control plane that does not know the stage gives the order all the same."""
    server.plane.fault = lambda call: 404 if "/boot/" in call.path else None
    server.fetch()
    server.check_done()


class _Crash(BaseException):
    """The machine loses its power."""


class _Crasher:
    """Raises at the n-th line that is run in the modules under test."""

    def __init__(self, line: int) -> None:
        self.left = line

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in _WATCHED:
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                raise _Crash
        return self


def _crashes(server: Server, line: int) -> bool:
    """Whether the first start comes as far as that line.

    In a thread of its own: raised at the last line of a handler, a crash leaves what was handled behind as the thread's
    current exception.
    """
    crashed = []

    def start() -> None:
        sys.settrace(_Crasher(line))
        try:
            server.fetch()
        except _Crash:
            crashed.append(line)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    return bool(crashed)


def test_a_crash_at_any_line_is_lived_through(tmp_path: Path, control_plane: FakeControlPlane) -> None:
    """However far the first start came, the second has the order, with the claim that the first one asked with."""
    crashes = 0
    while True:
        crashes += 1
        server = Server(tmp_path / str(crashes), control_plane)
        before = len(server.asked())
        if not _crashes(server, crashes):
            break
        server.fetch()
        server.check_done()
        claims = {call.body["claim"] for call in server.asked()[before:]}
        assert len(claims) == 1, f"crash {crashes}"
    assert crashes > 60, "each line of it"
    assert sys.exc_info() == (None, None, None), "no later exception is told with one of these as its context"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no JSON"),
        ("[]", "no JSON"),
        ('{"node_id": "n"}', "lacks control_plane_url"),
        ('{"control_plane_url": "http://x"}', "lacks node_id"),
        ('{"control_plane_url": "http://x", "node_id": "n", "token": 7}', "token is not a text"),
        ('{"control_plane_url": "http://x", "node_id": "n"}', "order a new node"),
        ('{"control_plane_url": "http://x", "node_id": "n", "token": "t", "power_off": 1}', "power_off is not"),
    ],
)
def test_a_file_that_can_not_be_used_is_refused(server: Server, content: str, words: str) -> None:
    """What is missing is named, before anybody is asked."""
    server.file.write_text(content)
    with pytest.raises(StartRefused, match=words):
        server.fetch()
    server.file.unlink()
    with pytest.raises(StartRefused, match="not there"):
        server.fetch()
    assert server.plane.callbacks == []


def test_an_agent_starts_from_its_bootstrap_file_alone(rig: AgentRig, tmp_path: Path) -> None:
    """The command of a server's service, the first time and again after a kill: ready, under its own token."""
    (rig.root / "order.json").unlink()
    file = tmp_path / "bootstrap.json"
    plane = rig.control_plane
    file.write_text(json.dumps({"control_plane_url": plane.url, "node_id": NODE_ID, "token": TOKEN, "ca_file": None}))
    plane.answers["bootstrap"] = ORDER
    argv = [sys.executable, "-m", "taskflow.agent", "--root", str(rig.root), "--bootstrap", str(file)]
    rig.argv = lambda *more: [*argv, *more]  # type: ignore[method-assign]
    rig.start()
    wait_until(lambda: plane.received("/heartbeat"), "a heartbeat")
    assert plane.received("/ready")[0].token == NODE_TOKEN
    rig.kill()
    rig.start()
    assert len(plane.received("/bootstrap")) == 1
    assert TOKEN not in file.read_text() + rig.log.read_text()


def test_an_agent_is_told_one_place_to_call(rig: AgentRig) -> None:
    """A bootstrap file and an URL beside it would leave open which of them counts."""
    with pytest.raises(SystemExit):
        main(["--root", str(rig.root), "--bootstrap", "x", "--control-plane-url", "http://x"])
    with pytest.raises(SystemExit):
        main(["--root", str(rig.root)])
