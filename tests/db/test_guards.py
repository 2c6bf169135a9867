"""What the schema and the guarded updates hold, on both databases, also when many write at once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError

from taskflow.db.apply import apply_change
from taskflow.db.events import append_event
from taskflow.db.models import Event, Node, OutboxRow, Run, Task, Workspace
from taskflow.db.nodes import NewNode, create_node_effect, live_count
from taskflow.db.runs import get_run, record_signal, request_cancel
from taskflow.db.status import STATUSES, TRANSITIONS
from taskflow.db.tasks import IllegalTransition, transition
from taskflow.db.workspaces import release_workspace_effect, reserve_workspace_effect
from taskflow.engine.outcomes import Refused
from taskflow.engine.store import Change, RunRow, Superseded
from taskflow.ids import NodeId, RunId, TaskId, WorkspaceId
from taskflow.nodes.catalogue import ProviderSpec
from taskflow.nodes.purchase import guard
from tests.db.conftest import OWNER, World, race
from tests.support.processes import die_with_parent
from tests.support.waiting import wait_until

THREE_AT_MOST = ProviderSpec("local", "local", (), nodes_max=0, owner_nodes_max=3, parallel_max=3, options={})


def _set(values: dict[str, Any], tx: Any) -> None:
    tx.execute(update(Task).where(Task.id == "task-1").values(**values))


pytestmark = pytest.mark.integration


def _event_seqs(world: World, subject: str) -> list[int]:
    with world.database.read() as tx:
        return list(tx.execute(select(Event.seq).where(Event.subject_id == subject).order_by(Event.seq)).scalars())


def test_every_pair_of_statuses_is_legal_or_refused_whole(world: World) -> None:
    """All pairs: a legal one changes the row with its event and outbox row, any other changes nothing at all."""
    for source in STATUSES:
        for target in STATUSES:
            task_id = world.task(f"task-{source}-{target}", source)

            def work(tx: Any, task_id: str = task_id, target: str = target) -> Any:
                return transition(tx, task_id, target, actor="ada", now=9.0, outbox=[("kind", {"task": task_id})])

            legal = target in TRANSITIONS[source]
            if legal:
                assert world.write(work) == source
            else:
                with pytest.raises(IllegalTransition) as caught:
                    world.write(work)
                assert caught.value.detail == {"status": source}
            with world.database.read() as tx:
                status = tx.execute(select(Task.status).where(Task.id == task_id)).scalar_one()
            assert status == (target if legal else source)
            assert _event_seqs(world, task_id) == ([1, 2] if legal else [1])
    with world.database.read() as tx:
        promised = tx.execute(select(func.count()).select_from(OutboxRow)).scalar_one()
    assert promised == sum(len(targets) for targets in TRANSITIONS.values())


def test_a_former_run_changes_no_status(world: World) -> None:
    """What a run decides about its task counts while it is the task's run: a rerun takes its say away."""
    world.run("run-2", "task-1", number=2)
    world.task("task-1", "in_progress", run_id="run-2", run_number=2)
    with pytest.raises(IllegalTransition):
        world.write(lambda tx: transition(tx, "task-1", "failed", actor="runner", now=9.0, run_id="run-1"))
    assert _event_seqs(world, "task-1") == [1]
    world.write(lambda tx: transition(tx, "task-1", "failed", actor="runner", now=9.0, run_id="run-2"))
    assert _event_seqs(world, "task-1") == [1, 2]


def test_a_terminal_status_needs_its_time_and_only_that(world: World) -> None:
    """The schema refuses an ended task without ``completed_at`` and an open one with it."""
    world.task("task-1")
    wrong: tuple[dict[str, Any], ...] = ({"status": "failed"}, {"completed_at": 5.0})
    for values in wrong:
        with pytest.raises(IntegrityError):
            world.write(partial(_set, values))


def test_a_subject_has_one_open_run(world: World) -> None:
    """A second open run is refused by the schema; after the first ended it is allowed."""
    world.run("run-1", "task-1")
    with pytest.raises(IntegrityError):
        world.run("run-2", "task-1", number=2)
    world.write(lambda tx: tx.execute(update(Run).where(Run.id == "run-1").values(finished_at=2.0)))
    world.run("run-2", "task-1", number=2)


def test_event_numbers_have_no_gap_under_concurrent_writers(world: World) -> None:
    """Writers that hold the subject's run row number their events 1, 2, 3 ..."""
    world.run("run-1", "task-1")

    def write(number: int) -> None:
        def work(tx: Any) -> None:
            get_run(tx, "run-1", lock=True)
            append_event(
                tx, owner_id=OWNER, subject_kind="task", subject_id="task-1", kind="k", actor="a", at=float(number)
            )

        world.write(work)

    assert race(write, 16) == [None] * 16
    assert _event_seqs(world, "task-1") == list(range(1, 17))


def test_one_of_many_applies_at_the_same_rev(world: World) -> None:
    """The fence under a race: one apply writes, all others are superseded, one event is there."""
    run = world.run("run-1", "task-1")
    change = Change("cleanup", 2.0, entered=True, deadline_at=None)
    answers = race(lambda n: world.write(lambda tx: apply_change(tx, run, change))[0].rev, 10)
    assert Counter(type(answer) for answer in answers) == {int: 1, Superseded: 9}
    assert _event_seqs(world, "task-1") == [1]


def _reserve(world: World, run: RunRow, node_id: str = "node-1") -> Any:
    effect = reserve_workspace_effect(
        workspace_id=WorkspaceId(f"ws-{run.id}"), task_id=TaskId(run.subject_id), run=run, node_id=node_id,
        callback_token_hash=f"hash-{run.id}", now=2.0,
    )  # fmt: skip
    return world.write(effect)


def test_forty_tasks_get_exactly_the_four_slots_of_a_node(world: World) -> None:
    """Counted from rows in the transaction that takes one: never five, never three."""
    world.node(slots=4)
    runs = [world.run(f"run-{n}", world.task(f"task-{n}")) for n in range(40)]
    answers = race(lambda n: _reserve(world, runs[n]), 40)
    kinds = Counter(type(answer) for answer in answers)
    assert kinds[Refused] == 36 and sum(kinds.values()) - kinds[Refused] == 4, answers
    with world.database.read() as tx:
        assert live_count(tx, "node-1") == 4
        assert tx.execute(select(Node.placements)).scalar_one() == 4


def test_a_warm_node_with_one_slot_is_claimed_by_one(world: World) -> None:
    """Two claims of the last warm slot: one has it, and the node is active."""
    world.node(status="warm", slots=1)
    runs = [world.run(f"run-{n}", world.task(f"task-{n}")) for n in range(2)]
    answers = race(lambda n: _reserve(world, runs[n]), 2)
    assert sum(isinstance(answer, Refused) for answer in answers) == 1, answers
    with world.database.read() as tx:
        assert tx.execute(select(Node.status)).scalar_one() == "active"


def test_releasing_twice_gives_back_one_slot_once(world: World) -> None:
    """The second release changes nothing and rings nobody."""
    world.node(slots=1)
    run = world.run("run-1", world.task("task-1"))
    _reserve(world, run)
    assert list(world.write(release_workspace_effect("ws-run-1", now=3.0))) == ["run-node-1"]
    assert list(world.write(release_workspace_effect("ws-run-1", now=4.0))) == []
    with world.database.read() as tx:
        assert tx.execute(select(Workspace.released_at)).scalar_one() == 3.0


def test_no_more_nodes_than_allowed_under_a_race(world: World) -> None:
    """Ten runs want a node where three may be: three intents, each with its run; the rest is refused."""

    def create(n: int) -> Any:
        node_id = NodeId(f"node-{n}")
        row = RunRow(
            id=RunId(f"run-n{n}"), pipeline="node", version=1, subject_kind="node", subject_id=node_id, number=1,
            owner_id=OWNER, step="create", rev=0, step_entered_at=1.0, created_at=1.0,
        )  # fmt: skip
        return world.write(
            create_node_effect(
                NewNode(node_id, row, f"l{n}", "local", 1, f"h{n}"), guard(THREE_AT_MOST, OWNER, lambda tx: None), now=1.0
            )
        )  # fmt: skip

    answers = race(create, 10)
    assert sum(isinstance(answer, Refused) for answer in answers) == 7, answers
    with world.database.read() as tx:
        assert tx.execute(select(func.count()).select_from(Node)).scalar_one() == 3
        assert tx.execute(select(func.count()).select_from(Run)).scalar_one() == 3


def test_the_first_of_many_signals_wins(world: World) -> None:
    """One answer is stored; everybody is told that one."""
    world.run("run-1", "task-1")

    def record(n: int) -> Any:
        def work(tx: Any) -> Any:
            get_run(tx, "run-1", lock=True)
            return record_signal(tx, "run-1", "outcome", "s", {"n": n}, now=1.0)

        return world.write(work)

    answers = race(record, 12)
    assert sum(first for first, _ in answers) == 1
    assert len({payload["n"] for _, payload in answers}) == 1


def test_a_cancel_is_requested_once(world: World) -> None:
    """The second request keeps who asked first; neither step nor rev change; an ended run is not asked."""
    world.run("run-1", "task-1")
    assert world.write(lambda tx: request_cancel(tx, "run-1", actor="ada", reason="a", now=2.0))
    assert not world.write(lambda tx: request_cancel(tx, "run-1", actor="bob", reason="b", now=3.0))
    with world.database.read() as tx:
        row = tx.execute(select(Run.cancel_requested_by, Run.cancel_reason, Run.rev, Run.step)).one()
    assert tuple(row) == ("ada", "a", 0, "running")
    world.run("run-2", "task-2")
    world.write(lambda tx: tx.execute(update(Run).where(Run.id == "run-2").values(finished_at=2.0)))
    assert not world.write(lambda tx: request_cancel(tx, "run-2", actor="ada", reason="a", now=3.0))


def test_two_hundred_runners_in_eight_processes_get_exactly_the_ten_slots(world: World, tmp_path: Path) -> None:
    """Real processes on one database, five at once in each: ten placements, and the last core is given once too."""
    world.node(slots=10)
    world.write(lambda tx: tx.execute(update(Node).values(vcpus=10.0)))
    for number in range(200):
        world.run(f"run-{number}", world.task(f"task-{number}"))
    url = world.database.engine.url.render_as_string(hide_password=False)
    start = tmp_path / "start"
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.db.claimers", url, "node-1", str(start)]
            + [f"run-{number}" for number in range(first, 200, 8)],
            stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2], preexec_fn=die_with_parent(signal.SIGKILL),
        )
        for first in range(8)
    ]  # fmt: skip
    wait_until(lambda: len(list(tmp_path.glob("start.*"))) == 8, "all are ready", timeout_s=60)
    start.touch()
    answers = [answer for process in processes for answer in json.loads(process.communicate(timeout=60)[0])]
    assert sum(answer.startswith("run-") for answer in answers) == 10
    assert len(answers) == 200
    with world.database.read() as tx:
        assert live_count(tx, "node-1") == 10
        assert tx.execute(select(func.count()).select_from(Workspace)).scalar_one() == 10
