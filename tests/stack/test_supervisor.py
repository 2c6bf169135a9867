"""The supervisor with small children of its own."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from taskflow.agent.processes import children_of, is_alive, processes_with_env
from taskflow.errors import InfrastructureError
from taskflow.files import read_json
from taskflow.settings import Settings
from taskflow.stack import keeper, process
from taskflow.stack.data_dir import DataDir
from taskflow.stack.keeper import Backoff, StackEvent
from taskflow.stack.process import ProcessSpec
from taskflow.stack.supervisor import MakeSpecs, Supervisor
from tests.support.waiting import wait_until

SLEEPER = "import signal, subprocess; subprocess.Popen(['sleep', '600']); signal.pause()"


def child(name: str, code: str = SLEEPER, **kwargs: object) -> ProcessSpec:
    """A process that runs a line of Python."""
    return ProcessSpec(name=name, argv=[sys.executable, "-S", "-c", code], **kwargs)  # type: ignore[arg-type]


def making(*specs: ProcessSpec) -> MakeSpecs:
    """A ``make_specs`` that gives these."""
    return lambda *_: specs


def stack(settings: Settings, *specs: ProcessSpec, events: list[StackEvent] | None = None) -> Supervisor:
    """A supervisor of these processes."""
    on_event = events.append if events is not None else None
    return Supervisor(settings, with_flower=False, on_event=on_event, make_specs=making(*specs))


def test_starts_in_order_and_stops_in_reverse(settings: Settings, tmp_path: Path) -> None:
    """A process starts only when the one before it is ready, and stops only when the one after it is gone."""
    events: list[StackEvent] = []
    flag = tmp_path / "flag"
    code = f"import signal, time; time.sleep(0.3); open({str(flag)!r}, 'w'); signal.pause()"  # is the slow one
    slow = child("slow", code, ready=flag.exists)
    with stack(settings, child("first", "pass", oneshot=True), slow, child("last"), events=events):
        pass
    assert [(e.kind, e.process) for e in events] == [
        ("starting", "first"), ("done", "first"), ("starting", "slow"), ("ready", "slow"), ("starting", "last"),
        ("ready", "last"), ("stopping", "slow"), ("stopping", "last"), ("stopped", "last"), ("stopped", "slow"),
    ]  # fmt: skip
    assert processes_with_env("TASKFLOW_DATA_DIR", settings.data_dir) == []


def test_a_stop_says_how_many_tasks_end_with_it(settings: Settings) -> None:
    """Counted by the locks that their shims hold, before anything is stopped."""
    sessions = Path(settings.data_dir) / "nodes" / "node-1" / "workspaces" / "ws-1" / "sessions"
    for name in ("running", "over"):
        (sessions / name).mkdir(parents=True)
        (sessions / name / "shim.lock").touch()
    for running, said in ((True, ["this ends 1 task that is running on this machine's nodes"]), (False, [])):
        events: list[StackEvent] = []
        with (sessions / "running" / "shim.lock").open() as lock, stack(settings, child("only"), events=events):
            if running:
                fcntl.flock(lock, fcntl.LOCK_EX)
        assert [e.detail.split(";")[0] for e in events if e.kind == "cut_off"] == said
        assert [e.kind for e in events] == ["starting", "ready", *["cut_off"] * running, "stopping", "stopped"]


def test_the_log_of_a_process_that_lives_for_long_has_an_end(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing restarts for months: what it writes is put aside once it is too long, and it goes on writing."""
    monkeypatch.setattr(process, "LOG_BYTES_MAX", 2000)
    monkeypatch.setattr(keeper, "LOG_LOOK_S", 0.0)
    write = "os.write(1, b'line %d\\n' % n); time.sleep(0.001)"  # else it would take a core
    code = f"import itertools, os, time\nfor n in itertools.count(): {write}"
    with stack(settings, child("talks", code)) as running:
        log = running.data_dir.logs / "talks.log"
        aside = log.with_name("talks.log.1")
        wait_until(lambda: aside.exists() and aside.stat().st_size > 2000, "the log is put aside")
        first = aside.read_bytes()[:20]
        wait_until(lambda: aside.read_bytes()[:20] not in (b"", first), "and again")
        wait_until(lambda: log.stat().st_size > 0, "the process goes on writing")
        assert running.status()[0].restarts == 0
        assert b"\0" not in log.read_bytes(), "what was cut off leaves no hole"
        assert stat.S_IMODE(aside.stat().st_mode) == 0o600
        assert {path.name for path in log.parent.iterdir()} == {"talks.log", "talks.log.1"}


def test_a_dead_process_is_restarted_without_its_old_children(settings: Settings) -> None:
    """After a death the rest of the group is gone before the new one starts."""
    with stack(settings, child("worker")) as supervisor:
        pid = supervisor.status()[0].pid
        assert pid
        old = wait_until(lambda: children_of(pid), "the child has a child")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: supervisor.status()[0].restarts == 1 and supervisor.status()[0].pid, "restarted")
        assert not any(is_alive(one) for one in [pid, *old])

        def recorded() -> bool:
            record = read_json(supervisor.data_dir.run / "processes.json")
            return record is not None and record["processes"][0]["pid"] == supervisor.status()[0].pid

        wait_until(recorded, "the record names the new one")


def test_a_failed_start_names_the_process_and_shows_its_log(settings: Settings) -> None:
    """The error holds the last lines the process wrote, and what was started before is stopped."""
    supervisor = stack(settings, child("first"), child("bad", "print('the reason'); raise SystemExit(3)", ready=bool))
    with pytest.raises(InfrastructureError, match=r"(?s)bad ended with exit status 3.*the reason"):
        supervisor.start()
    assert processes_with_env("TASKFLOW_DATA_DIR", settings.data_dir) == []
    assert not supervisor.data_dir.is_serving()


def test_a_process_that_is_never_ready_is_an_error_and_killed(settings: Settings) -> None:
    """Readiness has a limit."""
    supervisor = stack(settings, child("deaf", ready=lambda: False, ready_timeout_s=0.3))
    with pytest.raises(InfrastructureError, match=r"deaf is not ready after 0\.3 s"):
        supervisor.start()
    assert processes_with_env("TASKFLOW_DATA_DIR", settings.data_dir) == []


def test_an_inessential_process_that_fails_is_reported_only(settings: Settings) -> None:
    """Flower's failure is an event, not the end of the stack."""
    events: list[StackEvent] = []
    with stack(settings, child("flower", "raise SystemExit(1)", essential=False, ready=lambda: False), events=events):
        assert any(e.kind == "not_ready" and "exit status 1" in e.detail for e in events)


def test_a_second_supervisor_is_refused(settings: Settings) -> None:
    """One data directory has one stack; the refusal says where it is."""
    with stack(settings, child("one")) as supervisor:
        info = supervisor.data_dir.read_stack_info()
        assert info
        with pytest.raises(InfrastructureError, match=f"already serves .* at {info.url} .process {os.getpid()}"):
            stack(settings, child("two")).start()


def test_a_busy_port_is_named(settings: Settings) -> None:
    """The error names the port and the variable that changes it."""
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(InfrastructureError, match=f"port {port} ") as caught:
            stack(dataclasses.replace(settings, port=port), child("one")).start()
    assert caught.value.advice is not None
    assert "TASKFLOW_PORT" in caught.value.advice


def test_stack_file_is_private_and_counts_only_while_serving(settings: Settings) -> None:
    """What a killed stack left in stack.json sends nobody anywhere."""
    data_dir = DataDir(settings)
    with stack(settings, child("one")):
        info = data_dir.read_stack_info()
        assert info
        assert stat.S_IMODE(data_dir.stack_file.stat().st_mode) == 0o600
        assert stat.S_IMODE(data_dir.root.stat().st_mode) == 0o700
    data_dir.write_stack_info(info)
    assert not data_dir.is_serving()
    assert data_dir.read_stack_info() is None


def test_a_directory_of_others_is_refused_and_left_as_it_is(settings: Settings) -> None:
    """Made private, ``/tmp`` or ``/var`` would be closed to everybody who uses it."""
    root = settings.data_path
    root.mkdir(parents=True, exist_ok=True)
    root.chmod(0o1777)
    (root / "somebody's").touch()
    with pytest.raises(InfrastructureError, match="holds other things") as caught:
        DataDir(settings)
    assert caught.value.advice == "set TASKFLOW_DATA_DIR to a directory of its own"
    assert stat.S_IMODE(root.stat().st_mode) == 0o1777 and [path.name for path in root.iterdir()] == ["somebody's"]


@pytest.mark.parametrize("ready", [(), ("providers.toml",), ("secret.key", "taskflow.db")])
def test_a_directory_that_was_made_ready_is_taken_and_closed(settings: Settings, ready: tuple[str, ...]) -> None:
    """Empty, with a catalogue written before the first start, or restored from a backup."""
    root = settings.data_path
    root.mkdir(parents=True, exist_ok=True)
    root.chmod(0o755)
    for name in ready:
        (root / name).touch()
    assert stat.S_IMODE(DataDir(settings).root.stat().st_mode) == 0o700


def test_the_secret_key_is_made_once(settings: Settings) -> None:
    """Every reader gets the same key, and only this user can read it."""
    key = DataDir(settings).secret_key()
    assert DataDir(settings).secret_key() == key
    assert stat.S_IMODE(DataDir(settings).secret_key_file.stat().st_mode) == 0o600


def test_sigkill_of_the_supervisor_leaves_no_process(tmp_path: Path) -> None:
    """Children, and the embedded server, die with a supervisor that had no chance to stop them."""
    code = """
import sys
from taskflow.settings import Settings
from taskflow.stack.process import ProcessSpec
from taskflow.stack.supervisor import Supervisor
spec = ProcessSpec(name="a", argv=["sleep", "600"])
stack = Supervisor(Settings(data_dir=sys.argv[1], port=0), with_flower=False, make_specs=lambda *_: [spec])
stack.run_forever()
"""
    data = str(tmp_path / "data")
    with subprocess.Popen([sys.executable, "-c", code, data]) as process:
        try:
            data_dir = DataDir(Settings(data_dir=data))
            wait_until(data_dir.read_stack_info, "the stack serves")
            assert len(processes_with_env("TASKFLOW_DATA_DIR", data)) == 2
        finally:
            process.kill()
    wait_until(lambda: not processes_with_env("TASKFLOW_DATA_DIR", data), "nothing is left")


def test_backoff_doubles_and_reports_a_crash_loop_once() -> None:
    """The pause doubles to its limit; the eleventh death within a minute is reported; a calm life resets it."""
    backoff = Backoff()
    answers = [backoff.died(float(i), 0.1) for i in range(12)]
    assert [pause for pause, _ in answers[:6]] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0]
    assert [tell for _, tell in answers] == [False] * 10 + [True, False]
    assert backoff.died(500.0, 31.0) == (0.2, False)


@pytest.mark.parametrize(
    ("with_flower", "given", "linked"),
    [
        (True, {}, "http://127.0.0.1:{port}"),
        (False, {}, ""),
        (True, {"host": "0.0.0.0"}, ""),
        (True, {"flower_url": "https://flower.example"}, "https://flower.example"),
        (False, {"flower_url": "https://flower.example"}, "https://flower.example"),
    ],
)
def test_pages_link_to_flower_where_it_runs_and_their_readers_reach_it(
    settings: Settings, with_flower: bool, given: dict[str, Any], linked: str
) -> None:
    """Without it, or where browsers may be elsewhere, only what somebody said is an address."""
    made = Supervisor(dataclasses.replace(settings, **given), with_flower=with_flower, make_specs=making())
    with made:
        assert made.settings.flower_url == linked.format(port=made.settings.flower_port)
