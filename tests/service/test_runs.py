"""Runs of pipelines of one's own: what starting, signalling, cancelling and running again promise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from marshmallow import Schema, fields
from sqlalchemy import func, select

from taskflow.db import own_runs
from taskflow.db.models import Event, Run, SignalRow
from taskflow.db.own_models import OwnRun, RunCallback
from taskflow.errors import Conflict, Gone, InvalidInput, NotFound, Overloaded, TooMany, Unauthorized, UsageError
from taskflow.pipelines import Advance, AwaitSignal, Done, Outcome, PermanentError, Pipeline, Snooze, Step, StepContext
from taskflow.service import RunFilter
from taskflow.service.accounts import Caller
from taskflow.sweeps.prune import prune, prune_history
from taskflow.testing import Kit


class Given(Schema):
    """What ``wait`` is started with."""

    words = fields.List(fields.String(), required=True)
    limit_s = fields.Float(load_default=60.0)


def _wait(ctx: StepContext) -> Outcome:
    said = ctx.take("go")
    if said is None:
        return AwaitSignal("go")
    if said.payload.get("fail"):
        raise PermanentError("as it was asked to", code="asked")
    return Advance(ctx.next_step, {"said": dict(said.payload)})


WAIT = Pipeline(
    "wait",
    1,
    (Step("wait", _wait, limit_s=lambda run: run.results["$input"]["limit_s"]), Step("close", lambda ctx: Done())),
    frozenset({"close"}),
    input_schema=Given,
    signals=frozenset({"go", "more"}),
)
REST = Pipeline("rest", 1, (Step("rest", lambda ctx: Snooze(3600.0)),))
GIVEN = {"words": ["a", "b"]}


@pytest.fixture
def kit() -> Iterator[Kit]:
    """An installation that knows ``wait``."""
    with Kit(WAIT, REST, inbox_max=3, owner_open_runs_max=5, open_runs_max=6) as made:
        yield made


@pytest.fixture
def bob(kit: Kit) -> Caller:
    """Somebody else."""
    return kit.service.accounts.acting_for("bob", name="test")


def _count(kit: Kit, table: type) -> int:
    with kit.app.database.read() as tx:
        return tx.execute(select(func.count()).select_from(table)).scalar_one()


def test_an_input_is_what_its_schema_loads(kit: Kit) -> None:
    """Defaults are filled in, and steps and limits see it."""
    run = kit.start("wait", GIVEN)
    assert run.shown["input"] == {"words": ["a", "b"], "limit_s": 60.0}
    assert run.results == {}
    kit.advance(61)
    assert run.status == "failed"


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({}, {"input.words"}),
        ({"words": [1]}, {"input.words.0"}),
        ({"words": [], "limit_s": "soon", "other": 1}, {"input.limit_s", "input.other"}),
        ({"words": ["x" * 40_000]}, {"input"}),
    ],
)
def test_a_wrong_input_names_each_field_and_makes_nothing(kit: Kit, given: dict[str, object], wrong: set[str]) -> None:
    """422, before any row."""
    with pytest.raises(InvalidInput) as refused:
        kit.start("wait", given)
    assert (set(refused.value.fields), refused.value.http_status) == (wrong, 422)
    assert (_count(kit, Run), _count(kit, OwnRun), _count(kit, Event)) == (0, 0, 0)


@pytest.mark.parametrize("limit_s", [1e300, -1e300])
def test_a_limit_that_no_calendar_has_keeps_no_run_from_being_shown(kit: Kit, limit_s: float) -> None:
    """An input may say one: it would break every list that the run is in."""
    run = kit.start("wait", {**GIVEN, "limit_s": limit_s})
    assert run.status == ("waiting" if limit_s > 0 else "failed")
    assert _listed(kit) == [run.id]
    assert run.why


def test_an_input_full_of_wrong_names_is_not_sent_back_whole(kit: Kit) -> None:
    """A megabyte of them would be answered with several."""
    with pytest.raises(InvalidInput) as refused:
        kit.start("wait", {"words": [], **{f"{number}{'x' * 1000}": 1 for number in range(500)}})
    assert len(refused.value.fields) == 50
    assert len(refused.value.message) < 20_000
    assert all(name.startswith("input.") for name in refused.value.fields)


@pytest.mark.parametrize("name", ["nothing", "agent_task", "node"])
def test_only_registered_pipelines_of_ones_own_are_started(kit: Kit, name: str) -> None:
    """The shipped ones have verbs of their own."""
    with pytest.raises(UsageError) as refused:
        kit.start(name, {})
    assert refused.value.fields == {"pipeline": "unknown"}
    assert "wait" in str(refused.value.advice)


def test_an_idempotency_key_makes_one_run(kit: Kit) -> None:
    """The same content answers with the same run, other content is a conflict."""
    first = kit.start("wait", GIVEN, idempotency_key="k")
    again, made = kit.service.runs.start(kit.caller, "wait", GIVEN, idempotency_key="k")
    assert (again["id"], made) == (first.id, False)
    with pytest.raises(Conflict):
        kit.start("wait", {"words": []}, idempotency_key="k")
    assert _count(kit, Run) == 1


@pytest.mark.parametrize("others", [0, 4])
def test_a_twin_that_came_first_stands_in_nobodys_way(kit: Kit, monkeypatch: pytest.MonkeyPatch, others: int) -> None:
    """What is open for the subject, or was the last that the limit lets in, is the run of who asks again."""
    for number in range(others):
        kit.start("wait", GIVEN, subject=f"other {number}")
    asked: dict[str, Any] = {"subject": "it" if not others else None, "idempotency_key": "k"}
    first = kit.start("wait", GIVEN, **asked)
    look = own_runs.run_of_key
    # What a twin that is not committed yet leaves: this one does not see the key when it looks.
    looks = iter([None])
    monkeypatch.setattr(own_runs, "run_of_key", lambda *args: next(looks, look(*args)))
    again, made = kit.service.runs.start(kit.caller, "wait", GIVEN, **asked)
    assert (again["id"], made, list(looks)) == (first.id, False, [])
    with pytest.raises((Conflict, TooMany)):
        kit.start("wait", GIVEN, **{**asked, "idempotency_key": "another"})


def test_a_subject_has_one_open_run_of_its_owner(kit: Kit, bob: Caller) -> None:
    """Another owner may call something the same; the next one counts on."""
    first = kit.start("wait", GIVEN, subject="it")
    with pytest.raises(Conflict) as refused:
        kit.start("wait", GIVEN, subject="it")
    assert refused.value.fields == {"subject": "has an open run"}
    assert kit.service.runs.start(bob, "wait", GIVEN, subject="it")[1]
    first.signal("go")
    assert kit.start("wait", GIVEN, subject="it").shown["number"] == 2


def test_what_is_not_yours_does_not_exist(kit: Kit, bob: Caller) -> None:
    """In every verb."""
    run = kit.start("wait", GIVEN)
    runs, explain = kit.service.runs, kit.service.run_explain
    for verb in (
        lambda: runs.get(bob, run.id),
        lambda: runs.events(bob, run.id),
        lambda: runs.cancel(bob, run.id),
        lambda: runs.rerun(bob, run.id),
        lambda: runs.signal(bob, run.id, "go", {}),
        lambda: runs.callback(bob, run.id, "go"),
        lambda: explain.why(bob, run.id),
    ):
        with pytest.raises(NotFound):
            verb()
    assert runs.list(bob)[0] == []
    assert run.status == "waiting"


def test_the_first_answer_counts_and_its_repeat_changes_nothing(kit: Kit) -> None:
    """Before it is waited for, while it is, and after the end."""
    run = kit.start("wait", GIVEN)
    assert run.signal("more", {"n": 1})
    assert not run.signal("more", {"n": 1})
    with pytest.raises(Conflict):
        run.signal("more", {"n": 2})
    assert run.signal("go", {"n": 3})
    assert (run.status, run.results) == ("completed", {"said": {"n": 3}})
    assert not run.signal("go", {"n": 3})
    with pytest.raises(Gone):
        run.signal("go", {"n": 4}, message_id="late")
    assert _count(kit, SignalRow) == 2


def test_a_signal_that_nobody_waits_for_is_refused_by_name(kit: Kit) -> None:
    """A typing error is seen by who made it."""
    run = kit.start("wait", GIVEN)
    with pytest.raises(InvalidInput) as refused:
        run.signal("og")
    assert refused.value.fields == {"name": "one of go, more"}


def test_who_floods_a_run_is_refused_and_the_run_goes_on(kit: Kit) -> None:
    """A run with too many signals fails; nobody outside may bring that about."""
    run = kit.start("wait", GIVEN)
    for number in range(3):
        run.signal("more", {}, message_id=f"{number:>03}" * 60)
    with pytest.raises(TooMany):
        run.signal("more", {}, message_id="one more")
    assert run.status == "waiting"


def test_an_owner_has_so_many_open_runs_at_most(kit: Kit, bob: Caller) -> None:
    """Those that ended don't count, and others' neither."""
    runs = [kit.start("wait", GIVEN) for _ in range(5)]
    with pytest.raises(TooMany):
        kit.start("wait", GIVEN)
    assert kit.service.runs.start(bob, "wait", GIVEN)[1]
    runs[0].cancel()
    assert kit.start("wait", GIVEN).status == "waiting"


def test_an_installation_has_so_many_open_runs_at_most(kit: Kit, bob: Caller) -> None:
    """Whoever asks for one more, anew or again, is told that it is full, and nothing is made."""
    runs = [kit.start("wait", GIVEN) for _ in range(5)]
    runs[0].cancel()
    theirs = [kit.service.runs.start(bob, "wait", GIVEN)[0] for _ in range(2)]
    with pytest.raises(Overloaded) as refused:
        kit.service.runs.start(bob, "wait", GIVEN)
    assert "TASKFLOW_OPEN_RUNS_MAX" in str(refused.value.advice)
    with pytest.raises(Overloaded):
        runs[0].rerun()
    kit.service.runs.cancel(bob, theirs[0]["id"])
    kit.settle()
    assert runs[0].rerun().status == "waiting"


def test_a_new_run_has_its_alarm_when_its_start_is_answered(kit: Kit) -> None:
    """A hint that is lost costs it the grace of the index, not an interval of the rescue."""
    kit.advance(5)  # its Redis is known, so nothing is rebuilt for being new
    run, _ = kit.service.runs.start(kit.caller, "rest", {})
    kit._broker.waiting.clear()
    kit.advance(2)
    assert [event["kind"] for event in kit.service.runs.events(kit.caller, run["id"])] == ["run_started"]
    assert kit.places[:2] == ["fired", "perform:rest"]


def test_running_again_with_a_key_makes_one_run(kit: Kit) -> None:
    """Also when the answer was lost and the new run has failed since; the key is for nothing else."""
    run = kit.start("wait", GIVEN)
    run.signal("go", {"fail": True})
    again, made = kit.service.runs.rerun(kit.caller, run.id, idempotency_key="k")
    kit.settle()
    kit.service.runs.signal(kit.caller, again["id"], "go", {"fail": True})
    kit.settle()
    repeated, made_again = kit.service.runs.rerun(kit.caller, run.id, idempotency_key="k")
    assert (made, made_again, repeated["id"], repeated["status"]) == (True, False, again["id"], "failed")
    for other in (
        lambda: kit.start("wait", GIVEN, idempotency_key="k"),
        lambda: kit.service.runs.rerun(kit.caller, again["id"], idempotency_key="k"),
    ):
        with pytest.raises(Conflict):
            other()
    assert _count(kit, Run) == 2


def test_a_failed_or_cancelled_run_is_run_again_with_its_input(kit: Kit) -> None:
    """As the next number of its subject; a completed or open one is not."""
    run = kit.start("wait", GIVEN, subject="it")
    with pytest.raises(
        Conflict, match=f"run {run.id} is waiting; only a run that failed or was cancelled can be run again"
    ):
        run.rerun()
    run.signal("go", {"fail": True})
    assert run.error is not None
    assert (run.status, run.error["code"], run.error["step"]) == ("failed", "asked", "wait")
    again = run.rerun()
    assert (again.shown["number"], again.shown["input"]) == (2, run.shown["input"])
    assert [event["run_id"] for event in again.events] == [again.id] * len(again.events)
    with pytest.raises(Conflict):
        run.rerun()
    again.signal("go")
    with pytest.raises(Conflict, match="completed"):
        again.rerun()


def test_a_cancel_ends_a_run_once(kit: Kit) -> None:
    """And says why; a second one is a conflict."""
    run = kit.start("wait", GIVEN)
    run.cancel("enough")
    assert run.error is not None
    assert (run.status, run.error["message"]) == ("cancelled", "enough")
    with pytest.raises(Conflict):
        run.cancel()
    assert run.why == "nothing: it is cancelled (enough)"


def test_an_error_that_says_little_is_an_error_all_the_same() -> None:
    """A pipeline may end with one that has neither code nor message: its run is shown, listed and explained as failed."""
    with Kit(Pipeline("curt", 1, (Step("one", lambda ctx: Done(error={"why": "no"})),))) as kit:
        run = kit.start("curt")
        assert run.error == {"code": "failed", "message": "it failed", "why": "no"}
        assert (run.status, run.why) == ("failed", "nothing: it is failed (it failed)")
        assert _listed(kit, statuses=("failed",)) == [run.id] and _listed(kit, statuses=("completed",)) == []


def _listed(kit: Kit, **wanted: Any) -> list[str]:
    return [run["id"] for run in kit.service.runs.list(kit.caller, RunFilter(**wanted))[0]]


def test_runs_are_listed_by_the_status_that_they_show(kit: Kit, bob: Caller) -> None:
    """Alone, together, and with what else is asked; nobody else's are."""
    waiting, completed, failed, cancelled = (kit.start("wait", GIVEN, subject=name) for name in "wcfx")
    completed.signal("go")
    failed.signal("go", {"fail": True})
    cancelled.cancel()
    kit.app.pipelines.pop("wait")  # nobody takes it up
    running, _ = kit.service.runs.start(kit.caller, "rest", {})
    made = {"running": running["id"], "waiting": waiting.id, "completed": completed.id, "failed": failed.id}
    made["cancelled"] = cancelled.id
    for status, run_id in made.items():
        assert kit.service.runs.get(kit.caller, run_id)["status"] == status
        assert _listed(kit, statuses=(status,)) == [run_id]
        assert kit.service.runs.list(bob, RunFilter((status,)))[0] == []
    assert _listed(kit, statuses=("waiting", "running")) == _listed(kit, finished=False) == [running["id"], waiting.id]
    assert _listed(kit, statuses=("failed", "waiting")) == [failed.id, waiting.id]
    assert _listed(kit, statuses=("failed", "waiting"), subject="w") == [waiting.id]
    assert _listed(kit, statuses=("waiting",), finished=True) == []
    with pytest.raises(UsageError) as refused:
        _listed(kit, statuses=("queued",))
    assert list(refused.value.fields) == ["status"]


def test_pages_neither_skip_nor_repeat(kit: Kit) -> None:
    """Newest first, by cursor."""
    made = [kit.start("wait", GIVEN, subject=f"s{number % 2}-{number}") for number in range(5)]
    made[1].signal("go")
    seen, cursor = [], None
    while True:
        page, cursor = kit.service.runs.list(kit.caller, limit=2, cursor=cursor)
        seen += [run["id"] for run in page]
        if cursor is None:
            break
    assert seen == [run.id for run in reversed(made)]
    assert _listed(kit, finished=True) == [made[1].id]
    assert _listed(kit, subject="s0-2") == [made[2].id]
    with pytest.raises(UsageError):
        kit.service.runs.list(kit.caller, cursor="\0")


def test_a_callback_is_stored_as_its_hash_and_lengthened_by_asking_again(kit: Kit) -> None:
    """The token is the same, so a repeated request tells the other side nothing new."""
    run = kit.start("wait", GIVEN)
    first = kit.service.runs.callback(kit.caller, run.id, "go", valid_s=10)
    again = kit.service.runs.callback(kit.caller, run.id, "go", valid_s=30)
    assert first["token"] == again["token"]
    # What was given out can't be taken back: who asks for less is told until when it is good.
    assert kit.service.runs.callback(kit.caller, run.id, "go", valid_s=1) == again
    with kit.app.database.read() as tx:
        rows = tx.execute(select(RunCallback.__table__)).all()
    assert len(rows) == 1
    assert first["token"] not in repr(rows)
    kit.advance(20)
    assert kit.service.runs.caller_of_callback(first["token"], run.id, "go").owner_id == kit.caller.owner_id
    kit.advance(20)
    with pytest.raises(Unauthorized):
        kit.service.runs.caller_of_callback(first["token"], run.id, "go")


def test_why_says_what_is_waited_for_and_until_when(kit: Kit) -> None:
    """In a sentence and in fields."""
    run = kit.start("wait", GIVEN)
    kit.advance(5)
    found = kit.service.run_explain.why(kit.caller, run.id)
    assert found["summary"] == "it is at wait and waits for the signal go"
    assert (found["awaiting"], found["runner"], found["then"]) == ("go", "alive", "the step fails")


def test_a_run_whose_pipeline_is_not_registered_is_parked_named_and_goes_on_later(kit: Kit) -> None:
    """Nothing of it is lost while nobody knows it."""
    run = kit.start("wait", GIVEN)
    known = kit.app.pipelines.pop("wait")
    run.signal("go", {"n": 1})
    kit.advance(600)
    assert not run.finished
    assert "its pipeline wait is not registered here, so it is parked" in run.why
    said = [one for one in kit.service.health._unregistered_pipelines() if one["state"] == "error"]
    assert [one["check"] for one in said] == ["pipeline wait"]
    assert f"1 open runs of it are parked (the first is {run.id})" in said[0]["says"]

    kit.app.pipelines["wait"] = known
    assert run.finish(limit_s=60).status == "completed"
    assert kit.service.health._unregistered_pipelines() == []


def test_what_ended_long_ago_is_deleted_and_what_is_open_is_not(kit: Kit) -> None:
    """First signals, keys and tokens, then the runs with their events."""
    old = kit.start("wait", GIVEN, subject="it", idempotency_key="k")
    kit.service.runs.callback(kit.caller, old.id, "go")
    old.signal("go")
    kit.advance(100)
    young = kit.start("wait", {**GIVEN, "limit_s": 1e6}, subject="it")
    database = kit.app.database

    assert prune(database, now=kit.now, keep_s=50, limit=10)["runs"] == 1
    assert (_count(kit, SignalRow), _count(kit, RunCallback), _count(kit, Run)) == (0, 0, 2)
    assert prune_history(database, now=kit.now, keep_s=50, limit=10)["own_runs"] == 1
    assert [run["id"] for run in kit.service.runs.list(kit.caller)[0]] == [young.id]
    with database.read() as tx:
        assert set(tx.execute(select(Event.run_id)).scalars()) == {young.id}
