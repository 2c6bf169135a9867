"""Results and outputs of 50 MB: refused with the limit named, or cut and marked; nobody sends them for ever."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from sqlalchemy import select

from taskflow import protocol
from taskflow.agent.finish import CHANGED_FILES_BYTES_MAX, CHANGED_FILES_MAX, changed_files
from taskflow.agent.outbox import short_report
from taskflow.agent.wire import Answer
from taskflow.db.models import AgentSession, ErrorRow, Event, LogChunk, Task
from taskflow.engine.outcomes import Advance, Done, Outcome
from taskflow.engine.pipeline import Step, StepContext
from taskflow.errors import DETAIL_BYTES_MAX, MESSAGE_MAX, PermanentError
from taskflow.pipelines.agent_task.session import failure_of
from tests.agent.control_plane import Callback
from tests.agent.rig import SESSION, AgentRig
from tests.overload.conftest import MakeRig, WebWorld
from tests.support.engine import toy
from web.auth import CALLBACK_BODY_BYTES_MAX
from web.context import BODY_BYTES_MAX

FIFTY_MB = 50 * 1024 * 1024


def _session_path(web: WebWorld, place: Any, template: str) -> str:
    return protocol.route(template, workspace_id=place.workspace_id, session_id=place.session_id)


def test_a_callback_of_50_mb_is_refused_with_the_limit_named(web: WebWorld) -> None:
    """Nothing is stored, and the sender is told at a status after which it stops."""
    task = web.world.submit()
    place = web.world.place(task)
    path = _session_path(web, place, protocol.CALLBACK_SESSION_OUTCOME)
    body = b'{"outcome": "exited", "changed_files": ["' + b"x" * FIFTY_MB + b'"]}'
    answer = web.world.call("POST", path, token=place.workspace_token, data=body, content_type="application/json")
    error = answer.get_json()["error"]
    assert (answer.status_code, error["code"]) == (400, "too_large")
    assert error["detail"] == {"limit_bytes": CALLBACK_BODY_BYTES_MAX} and "body" in error["fields"]
    assert str(CALLBACK_BODY_BYTES_MAX) in error["message"]
    assert web.world.row(AgentSession, place.session_id).outcome is None
    fits = web.world.call("POST", path, {"outcome": "exited", "exit_code": 0}, token=place.workspace_token)
    assert fits.get_json() == {"recorded": True}


def test_a_submission_of_50_mb_is_413_with_the_limit_named(web: WebWorld) -> None:
    """A user's request has a smaller limit."""
    body = json.dumps({"repository": "/r", "command": ["x" * FIFTY_MB]}).encode()
    answer = web.world.call("POST", "/api/tasks", data=body, content_type="application/json")
    error = answer.get_json()["error"]
    assert (answer.status_code, error["code"]) == (413, "too_large")
    assert error["detail"] == {"limit_bytes": BODY_BYTES_MAX}
    assert web.world.count(Task) == 0


def test_a_log_beyond_its_limit_is_refused_and_the_outcome_still_counts(web: WebWorld) -> None:
    """The control plane's own bound on output ends the output only, whatever the agent's was."""
    task = web.world.submit()
    place = web.world.place(task)
    path = _session_path(web, place, protocol.CALLBACK_SESSION_LOGS)
    data = base64.b64encode(b"x" * protocol.LOG_CHUNK_BYTES_MAX).decode()
    statuses = [
        web.world.call("POST", path, {"number": number, "data": data}, token=place.workspace_token)
        for number in (1, 2, 3, 4, 4)
    ]
    assert [answer.status_code for answer in statuses] == [200] * 3 + [400] * 2
    assert statuses[-1].get_json()["error"]["code"] == "log_limit"
    answer = Answer(statuses[-1].status_code, statuses[-1].get_json())
    assert answer.final and not answer.over, "as the end of the workspace it would take the outcome with it"
    with web.world.database.read() as tx:
        stored = tx.execute(select(LogChunk.number).where(LogChunk.session_id == place.session_id)).all()
    assert len(stored) == 3
    path = _session_path(web, place, protocol.CALLBACK_SESSION_OUTCOME)
    assert web.world.call("POST", path, {"outcome": "exited"}, token=place.workspace_token).status_code == 200


@pytest.mark.parametrize("status", [400, 413])
def test_the_agent_follows_a_refused_outcome_with_a_short_one(agent: AgentRig, status: int) -> None:
    """An outcome too long for what stands between is sent once; then what can be kept of it, with an error."""
    limit = 4000

    def fault(callback: Callback) -> int | None:
        too_long = callback.path.endswith("/outcome") and len(json.dumps(callback.body)) > limit
        return status if too_long else None

    agent.control_plane.fault = fault
    agent.ready()
    agent.begin("sh", "-c", "for i in $(seq 100); do touch file-$i-$(head -c 80 /dev/zero | tr '\\0' x); done")
    whole = agent.outcome()
    assert len(whole["changed_files"]) == 100
    agent.wait_posts(f"/sessions/{SESSION}/outcome", 2)
    short = agent.control_plane.received(f"/sessions/{SESSION}/outcome")[1].body
    assert len(json.dumps(short)) < limit and "changed_files" not in short
    assert {key: short[key] for key in ("outcome", "exit_code", "commit", "output_branch", "pushed")} == {
        key: whole[key] for key in ("outcome", "exit_code", "commit", "output_branch", "pushed")
    }
    assert short["error"]["phase"] == "report"
    assert short["error"]["code"] == ("result_too_large" if status == 413 else "result_refused")
    loaded = protocol.load(protocol.SessionOutcomeSchema, short)
    failure = failure_of(loaded)
    assert failure is not None and failure.code == short["error"]["code"] and failure.advice


def test_a_short_report_that_is_refused_too_is_the_last() -> None:
    """No third attempt: the message is dropped then, as any that is refused for good."""
    first = short_report(json.dumps({"outcome": "exited", "changed_files": ["x"] * 9}), Answer(413, {}))
    assert first is not None and json.loads(first)["outcome"] == "exited"
    assert short_report(first, Answer(413, {})) is None
    said = short_report('{"status": "failed"}', Answer(400, {"error": {"code": "too_large"}}))
    assert said is not None and json.loads(said)["error"]["code"] == "result_too_large"


def test_logs_that_are_too_long_for_a_proxy_do_not_hold_the_outcome_back(agent: AgentRig) -> None:
    """413 on a chunk is as final as 400: the output ends, marked as cut, and the outcome follows."""
    agent.ready()
    agent.control_plane.fault = lambda callback: 413 if callback.path.endswith("/logs") else None
    outcome = agent.run("echo", "x")
    assert (outcome["exit_code"], outcome["log_truncated"]) == (0, True)
    assert len(agent.control_plane.received("/logs")) == 1


def test_a_log_flow_of_50_mb_is_cut_and_marked(agent: AgentRig) -> None:
    """What is kept, on the node and at the control plane, is the limit and one line."""
    agent.ready()
    limit = 1_000_000
    outcome = agent.run("sh", "-c", f"head -c {FIFTY_MB} /dev/zero | tr '\\0' a", log_limit_bytes=limit)
    assert (outcome["exit_code"], outcome["log_truncated"]) == (0, True)
    line = f"\n[taskflow: output cut at {limit} bytes]\n".encode()
    assert agent.control_plane.output(SESSION) == b"a" * limit + line
    assert (agent.session_dir() / "output.log").stat().st_size == limit + len(line)


def test_the_names_of_changed_files_have_a_limit() -> None:
    """By number and by their length together."""
    short, long = b"\0".join(b"%d" % n for n in range(5000)), b"\0".join(b"x" * 4000 for _ in range(900))
    assert len(changed_files(short)) == CHANGED_FILES_MAX
    kept = changed_files(long)
    assert 0 < sum(map(len, kept)) <= CHANGED_FILES_BYTES_MAX
    assert changed_files(b"") == []


@pytest.mark.parametrize("outcome", [Advance("cleanup", {"big": "x" * FIFTY_MB}), Done({"big": "x" * FIFTY_MB})])
def test_a_step_result_of_50_mb_fails_the_step_and_is_stored_nowhere(make_rig: MakeRig, outcome: Outcome) -> None:
    """The error names size and limit; neither SQL nor Redis holds any of it."""
    rig = make_rig(toy(Step("one", lambda ctx: outcome)))
    run_id = rig.start()
    rig.run_alarms(turns=10)
    row = rig.row(run_id)
    assert row.error is not None and row.error["code"] == "result_too_large" and row.finished_at is not None
    assert str(rig.settings.result_max_bytes) in row.error["message"] and str(FIFTY_MB)[:3] in row.error["message"]
    with rig.database.read() as tx:
        stored = tx.execute(select(Event.data, ErrorRow.error).outerjoin(ErrorRow, ErrorRow.run_id == Event.run_id))
        assert len(json.dumps([list(one) for one in stored])) < 20_000
    assert len(json.dumps(dict(row.results))) < 1000


def test_an_error_of_50_mb_is_cut_wherever_it_is_stored(make_rig: MakeRig) -> None:
    """An exception that quotes its whole input: run, attempts and history hold its two ends."""

    def quotes(ctx: StepContext) -> Outcome:
        raise PermanentError("begin " + "x" * FIFTY_MB + " end", code="bad", detail={"input": "y" * FIFTY_MB})

    rig = make_rig(toy(Step("one", quotes)))
    run_id = rig.start()
    rig.run_alarms(turns=10)
    error = rig.row(run_id).error
    assert error is not None and error["message"].startswith("begin ") and error["message"].endswith(" end")
    assert len(error["message"]) < MESSAGE_MAX + 100 and len(json.dumps(error["detail"])) < DETAIL_BYTES_MAX
    with rig.database.read() as tx:
        events = [row.data for row in tx.execute(select(Event.data).where(Event.run_id == run_id))]
        errors = [row.error for row in tx.execute(select(ErrorRow.error).where(ErrorRow.run_id == run_id))]
    assert len(json.dumps([events, errors])) < 100_000
