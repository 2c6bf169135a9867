"""The meter that traces, by OpenTelemetry: one trace for each run, across web, worker and agent.

A run's trace follows from its id, so nothing has to be stored or handed on: every process that has the run has its trace.
Only imported where ``TASKFLOW_TRACING`` is on; needs the extra ``otel``. Where spans are sent to is said by OpenTelemetry's
own variables (``OTEL_EXPORTER_OTLP_ENDPOINT`` and its like).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from contextvars import ContextVar

import structlog
from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from taskflow.engine.meter import Ended, Silent
from taskflow.engine.store import RunRow

_BAD = frozenset({"failed", "broken_off", "error"})
#: The trace and span that the next span without a parent is to be.
_planned: ContextVar[tuple[int, int] | None] = ContextVar("planned", default=None)


def trace_of(run_id: str) -> tuple[int, int]:
    """The trace of a run, and the span that all others of it are below: its submission."""
    digest = hashlib.sha256(b"taskflow.trace:" + run_id.encode()).digest()
    return int.from_bytes(digest[:16], "big") or 1, int.from_bytes(digest[16:24], "big") or 1


class _Ids(RandomIdGenerator):
    """Random, unless it is said what the next ones are."""

    def generate_trace_id(self) -> int:
        """See ``IdGenerator``."""
        planned = _planned.get()
        return super().generate_trace_id() if planned is None else planned[0]

    def generate_span_id(self) -> int:
        """See ``IdGenerator``."""
        planned = _planned.get()
        return super().generate_span_id() if planned is None else planned[1]


class Tracing(Silent):
    """Spans of submissions, steps, requests to agents and reports. ``ratio``: the part of all runs that is traced."""

    def __init__(self, role: str, *, ratio: float = 1.0, processor: SpanProcessor | None = None) -> None:
        self._provider = TracerProvider(
            # By the trace's id alone: every process decides the same of a run.
            sampler=TraceIdRatioBased(min(1.0, ratio)),
            resource=Resource.create({SERVICE_NAME: f"taskflow-{role}"}),
            id_generator=_Ids(),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(processor or BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("taskflow")
        self._propagator = TraceContextTextMapPropagator()

    def run_submitted(self, run: RunRow, took_s: float) -> None:
        """See ``Meter``."""
        now = time.time_ns()
        planned = _planned.set(trace_of(run.id))
        try:
            span = self._tracer.start_span(
                "submit", context=contexts.Context(), kind=trace.SpanKind.SERVER, attributes=_said(run),
                start_time=now - int(took_s * 1e9),
            )  # fmt: skip
        finally:
            _planned.reset(planned)
        span.end(now)

    def step_begins(self, run: RunRow, attempt: int) -> Ended:
        """See ``Meter``."""
        span = self._tracer.start_span(
            f"{run.pipeline}.{run.step}", _below_submission(run.id),
            attributes={**_said(run), "taskflow.step": run.step, "taskflow.attempt": attempt},
        )  # fmt: skip
        bound = structlog.contextvars.bind_contextvars(trace_id=f"{trace_of(run.id)[0]:032x}")
        ended = _under_way(span)

        def step_ended(became: str) -> None:
            ended(became)
            structlog.contextvars.reset_contextvars(**bound)

        return step_ended

    def callback(self, kind: str, outcome: str, *, run_id: str, took_s: float) -> None:
        """See ``Meter``. Only what ends a wait: heartbeats and pieces of a log would be most of a trace."""
        if not run_id:
            return
        now = time.time_ns()
        span = self._tracer.start_span(
            f"callback.{kind}", _below_submission(run_id), kind=trace.SpanKind.SERVER,
            attributes={"run.id": run_id, "taskflow.outcome": outcome}, start_time=now - int(took_s * 1e9),
        )  # fmt: skip
        if outcome in _BAD:
            span.set_status(trace.StatusCode.ERROR)
        span.end(now)

    def call_begins(self, what: str) -> Ended:
        """See ``Meter``."""
        return _under_way(self._tracer.start_span(f"agent.{what}", kind=trace.SpanKind.CLIENT))

    def call_headers(self) -> Mapping[str, str]:
        """See ``Meter``: the W3C header ``traceparent``."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return carrier

    def close(self) -> None:
        """Send what is still held."""
        self._provider.shutdown()


def _below_submission(run_id: str) -> contexts.Context:
    """Where every span of a run is, whichever process makes it."""
    trace_id, root = trace_of(run_id)
    parent = trace.SpanContext(trace_id, root, is_remote=True, trace_flags=trace.TraceFlags(1))
    return trace.set_span_in_context(trace.NonRecordingSpan(parent), contexts.Context())


def _said(run: RunRow) -> dict[str, str | int]:
    return {f"{run.subject_kind}.id": run.subject_id, "run.id": run.id, "run.number": run.number}


def _under_way(span: trace.Span) -> Ended:
    """Let ``span`` be the one that others are below, until it is over."""
    token = contexts.attach(trace.set_span_in_context(span))

    def ended(became: str) -> None:
        span.set_attribute("taskflow.outcome", became)
        if became in _BAD:
            span.set_status(trace.StatusCode.ERROR)
        span.end()
        contexts.detach(token)

    return ended
