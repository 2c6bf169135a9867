"""A run is one trace: its submission, each attempt of its steps in order, and what was asked of its node's agent."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence

import pytest
import structlog
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from taskflow.bootstrap import make_meter
from taskflow.engine.meter import Meters, Silent
from taskflow.errors import Forbidden, Gone, InfrastructureError
from taskflow.ids import workspace_id_of
from taskflow.observe.tracing import Tracing, trace_of
from tests.support.world import World


class Traced:
    """A world whose processes trace, and the spans they sent."""

    def __init__(self, world: World, ratio: float = 1.0) -> None:
        self._exporter = InMemorySpanExporter()
        self.world = world
        self.ratio = ratio
        self.restart()

    def restart(self) -> None:
        """Another process, with nothing of the one before but the stores."""
        tracing = Tracing("worker", ratio=self.ratio, processor=SimpleSpanProcessor(self._exporter))
        self.world.meter = Meters((Silent(), tracing))
        self.world.start_worker()

    def spans(self, run_id: str) -> list[ReadableSpan]:
        """The spans of a run's trace, in the order in which they were over."""
        trace_id, _ = trace_of(run_id)
        found: Sequence[ReadableSpan] = self._exporter.get_finished_spans()
        return [span for span in found if span.context.trace_id == trace_id]


@pytest.fixture
def traced(world: World) -> Traced:
    """A world in which every run is traced."""
    return Traced(world)


def test_a_run_is_one_trace_of_its_steps_in_order(traced: Traced) -> None:
    """Every span of it is below the submission, whichever process made it."""
    world = traced.world
    task = world.submit()
    world.at_step(task, "workspace_ready")
    traced.restart()
    world.finish(task)
    spans = traced.spans(task["run_id"])
    submit = [span for span in spans if span.name == "submit"]
    assert [(span.context.span_id, span.parent) for span in submit] == [(trace_of(task["run_id"])[1], None)]
    attempts = [span for span in spans if span.name.startswith("agent_task.")]
    assert all(span.parent is not None and span.parent.span_id == submit[0].context.span_id for span in attempts)
    walked = [span.attributes["taskflow.step"] for span in attempts if span.attributes is not None]
    in_order = [step for at, step in enumerate(walked) if at == 0 or walked[at - 1] != step]
    assert in_order == ["node_selection", *world.steps(task["id"])]
    assert {span.attributes["task.id"] for span in attempts if span.attributes is not None} == {task["id"]}
    assert {len({span.context.span_id for span in spans})} == {len(spans)}


def test_what_is_asked_of_an_agent_is_below_its_step_and_says_so(traced: Traced) -> None:
    """The header names the very span of the request, and a node's log can be found by it."""
    world = traced.world
    task = world.submit()
    world.finish(task)
    spans = traced.spans(task["run_id"])
    steps = {span.context.span_id: span for span in spans if span.name.startswith("agent_task.")}
    calls = {span.context.span_id: span for span in spans if span.name.startswith("agent.")}
    assert {span.name for span in calls.values()} >= {"agent.put", "agent.delete"}
    assert all(span.parent is not None and span.parent.span_id in steps for span in calls.values())
    sent = [headers["traceparent"] for headers in world.wire.headers if "traceparent" in headers]
    named = {
        int(header.split("-")[2], 16) for header in sent if int(header.split("-")[1], 16) == spans[0].context.trace_id
    }
    assert named == set(calls)
    assert all(re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[13]", header) for header in sent)


def test_the_callbacks_that_end_a_wait_are_of_the_trace(traced: Traced) -> None:
    """Beside the steps, as often as they came; not those of a caller who has nothing to do with the run."""
    world = traced.world
    task, other = world.submit(), world.submit()
    world.finish(task, other)

    def callbacks() -> list[tuple[str, object]]:
        spans = [span for span in traced.spans(task["run_id"]) if span.name.startswith("callback.")]
        assert {span.parent.span_id for span in spans if span.parent} == {trace_of(task["run_id"])[1]}
        return [(span.name, (span.attributes or {})["taskflow.outcome"]) for span in spans]

    came = [("callback.workspace_outcome", "recorded"), ("callback.session_outcome", "recorded")]
    assert callbacks() == came
    ours, theirs = (str(workspace_id_of(one["run_id"])) for one in (task, other))
    token = world.app.tools.vault.derive_token
    verbs, known = world.service.callbacks, world.service.accounts
    with pytest.raises(Gone):
        verbs.workspace_outcome(known.authenticate(token("workspace", ours), "workspace"), ours, {"outcome": "ready"})
    with pytest.raises(Forbidden):
        verbs.workspace_outcome(known.authenticate(token("workspace", theirs), "workspace"), ours, {"outcome": "ready"})
    assert callbacks() == [*came, ("callback.workspace_outcome", "gone")]


def test_a_step_that_fails_is_marked(traced: Traced) -> None:
    """With what became of it."""
    world = traced.world
    world.wire.before = lambda method, path: (422, {"code": "invalid", "message": "no"}) if method == "PUT" else None
    task = world.submit()
    world.run_until(lambda: world.task(task["id"])["status"] == "failed", "it fails")
    bad = [span for span in traced.spans(task["run_id"]) if span.status.status_code == StatusCode.ERROR]
    assert [(span.name, span.attributes["taskflow.outcome"]) for span in bad if span.attributes is not None] == [
        ("agent_task.workspace_dispatch", "failed")
    ]


def test_the_lines_of_a_step_carry_its_trace(traced: Traced) -> None:
    """And its task; afterwards neither is left for the next."""
    seen: list[dict[str, object]] = []
    world = traced.world
    world.at_checkpoint = lambda run_id, name: seen.append(
        {"run": run_id, "at": name, **structlog.contextvars.get_contextvars()}
    )
    task = world.submit()
    world.finish(task)
    performed = [line for line in seen if line["run"] == task["run_id"] and str(line["at"]).startswith("perform:")]
    assert performed
    assert {(line["task_id"], line["trace_id"]) for line in performed} == {
        (task["id"], f"{trace_of(task['run_id'])[0]:032x}")
    }
    assert not {"task_id", "trace_id"} & set(structlog.contextvars.get_contextvars())


def test_a_run_is_traced_whole_or_not_at_all(make_world: Callable[..., World]) -> None:
    """With a ratio every process decides the same, by the id alone."""
    none = Traced(make_world(), ratio=0.0)
    task = none.world.submit()
    none.world.finish(task)
    assert none.spans(task["run_id"]) == []


def test_traces_without_the_extra_are_refused_at_the_start(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks for what is not installed is told what to install."""
    world = make_world(tracing=True, metrics=False)
    monkeypatch.delitem(sys.modules, "taskflow.observe.tracing", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(InfrastructureError, match="OpenTelemetry is missing") as caught:
        make_meter(world.settings, "worker")
    assert "taskflow-engine[otel]" in str(caught.value.advice)
