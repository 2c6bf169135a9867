"""The turn: fire, load, perform, apply, commit, continue, ring.

Load, then perform with no transaction open, then apply under the fence of ``rev``. The lease keeps workers out of each
other's way; the fence is what makes it safe: a worker that was paused past its lease can change nothing.

What survives a crash, by the line it happens at: before ``apply`` - the step runs again (its external calls carry
idempotency keys); between ``apply`` and ``commit`` - the index rings when the lease has run out and the row wins over
the control state; after ``commit`` - the index rings when the hint did not fire within the grace.

Each step is committed in SQL before the next begins. Redis is told where a turn parks, before a guarded step, and when
a quarter of the lease is over; in between the row is ahead of the control state, as it is after a death in ``apply``.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from taskflow.clock import Clock
from taskflow.engine.alarms import Ringer
from taskflow.engine.control import Alarm, Committed, Control, Fired, Standing, alarm_of
from taskflow.engine.failing import check_decision, error_of, fail_expired, unexpected, without_secrets
from taskflow.engine.lease import Renewer, new_token
from taskflow.engine.meter import SILENT, Meter, Told, outcome_name
from taskflow.engine.outcomes import Advance, AwaitSignal, Done, Outcome, Refused, Snooze
from taskflow.engine.pipeline import Pipeline, Step, StepContext, bounded_s
from taskflow.engine.retry import backoff_s
from taskflow.engine.store import CancelRequested, Change, Failure, RunRow, Signal, SignalArrived, Store, Superseded
from taskflow.errors import InfrastructureError, PermanentError, StepError, TransientError
from taskflow.ids import RunId
from taskflow.settings import Settings

log = structlog.get_logger(__name__)

#: A parked run without a deadline is looked at this often, so that no open run is without a due time.
IDLE_POLL_S = 3600.0
#: How soon a turn that could not use SQL is tried again.
STORE_RETRY_S = 2.0
#: A turn goes on without telling Redis of a step while its lease is younger than this part of its time. A step that
#: takes longer is renewed within a third of it, so a lease is never closer to its end than after a missed renewal.
_UNTOLD = 0.25
#: Decisions one step may fall back through (refused, then failed, then ...) before it is taken for a bug.
_FALLBACKS_MAX = 4


@dataclass
class _Turn:
    """What one turn knows: its lease, its clock and the row it read or wrote last."""

    run_id: RunId
    token: str
    fired_now: float
    began: float
    attempt: int
    fires: int
    lost: int
    row: RunRow
    signals: tuple[Signal, ...]
    #: When the lease was taken or extended last, at the earliest (monotonic).
    leased_at: float
    told: Told
    #: Ids of the signals that the step under way took; its apply marks them consumed.
    consumed: list[int] = field(default_factory=list)

    @property
    def seen_signal(self) -> int:
        """The newest signal that was read, 0 when there is none."""
        return max((signal.id for signal in self.signals), default=0)


class Runner:
    """Runs turns. One per process; thread-safe as far as its parts are."""

    def __init__(
        self,
        store: Store,
        control: Control,
        ringer: Ringer,
        renewer: Renewer,
        pipelines: Mapping[str, Pipeline],
        settings: Settings,
        clock: Clock,
        rng: random.Random | None = None,
        meter: Meter = SILENT,
    ) -> None:
        self._store = store
        self._control = control
        self._ringer = ringer
        self._renewer = renewer
        self._pipelines = pipelines
        self._settings = settings
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311
        self._meter = meter
        #: Called with a name at the places where a crash must be survivable; tests make it raise or kill.
        self.checkpoint: Callable[[str], None] = lambda name: None

    # --- fire

    def turn(self, run_id: RunId, generation: str = "", told: Told | None = None) -> str:
        """Run one turn for an alarm; the verdict says what became of it (for logs and tests).

        ``generation`` is the hint's; '' fires whatever is due. ``told`` is filled with what the turn did last.
        """
        token, leased_at = new_token(), self._clock.monotonic()
        fired = self._control.fire(run_id, generation, token)
        self.checkpoint("fired")
        if fired.verdict == "go":
            self._meter.alarm_fired(fired.now - fired.due, taken_over=fired.lost > 1)
            return self._lead(run_id, token, fired, leased_at, told or Told())
        if fired.verdict == "missing":
            self.revive(run_id)
        elif fired.verdict == "early" and fired.due - fired.now <= self._settings.near_window_s:
            # A hint that came before its time (another host's clock): send it on its way again.
            self._ringer.publish([Alarm(run_id, fired.generation, fired.due - fired.now, fired.name, fired.subject)])
        log.debug("alarm_dropped", run_id=run_id, why=fired.verdict)
        return fired.verdict

    def revive(self, run_id: RunId) -> None:
        """Rebuild the control state of an open run from its row, or delete what is left of a finished one."""
        loaded = self._store.load(run_id)
        if loaded is None or loaded[0].finished_at is not None:
            self._control.forget(run_id)
            return
        row, signals = loaded
        self._ringer.publish(self._control.ensure([row]))
        recorded = row.cancel_requested_at is not None or any(signal.name == row.awaiting for signal in signals)
        if row.wake_at is not None and recorded:
            # What it is parked for is there, and the wake-up was lost with the control state.
            self._ringer.ring([run_id])

    # --- load

    def _lead(self, run_id: RunId, token: str, fired: Fired, leased_at: float, told: Told) -> str:
        began = self._clock.monotonic()
        try:
            loaded = self._store.load(run_id)
            if loaded is None or loaded[0].finished_at is not None:
                self._control.forget(run_id)
                return "finished"
            row, signals = loaded
            same = row.rev == fired.rev
            turn = _Turn(
                run_id, token, fired.now, began,
                # SQL wins: counters of another rev belong to another step.
                attempt=fired.attempt if same else 0,
                fires=fired.fires if row.step == fired.step else 1,
                # Redis is not told of every step: a turn that was lost since was lost in this one, or just before it.
                lost=fired.lost if same else min(fired.lost, 2),
                row=row, signals=signals, leased_at=leased_at, told=told,
            )  # fmt: skip
            with structlog.contextvars.bound_contextvars(**{f"{row.subject_kind}_id": row.subject_id}):
                return self._steps(turn) if same else self._adopt(turn)
        except InfrastructureError as error:
            log.warning("store_unusable", run_id=run_id, error=str(error))
            in_s = STORE_RETRY_S * self._rng.uniform(0.5, 1.5)
            self._hand_over(token, Alarm(run_id, "", in_s, fired.name, fired.subject))
            return "store_unusable"

    def _adopt(self, turn: _Turn) -> str:
        """Bring the control state up to the row before the step runs.

        A worker died before it told Redis of what it had applied. Were the old ``rev`` left in place, the counters of
        every following turn would look like another step's, and a step that kills its worker would never be counted out.
        """
        turn.fires -= 1  # the same start, not one more
        committed = self._commit(turn, 0.0, True, lost=turn.lost)
        if committed.verdict != "kept":
            return self._leave(turn, committed)
        if committed.woke and not self._reload(turn):
            return "finished"
        return self._steps(turn)

    def _steps(self, turn: _Turn) -> str:
        """Step after step while the next one is due and the turn's budget lasts."""
        steps = 0
        while True:
            steps += 1
            try:
                committed = self._step(turn, steps)
            except Superseded:
                # Somebody else wrote: read again in a new turn, at once, instead of letting the lease run out.
                self._hand_over(turn.token, alarm_of(turn.row, "", 0.0))
                return "superseded"
            if committed is None:
                return "finished"
            if committed.verdict != "kept":
                return self._leave(turn, committed)
            if committed.woke and not self._reload(turn):
                return "finished"
            self.checkpoint("continued")

    def _step(self, turn: _Turn, steps: int) -> Committed | None:
        """One step, the ``steps``-th of this turn: decide, and make it true. None when the run is over."""
        told, ended = turn.told, self._meter.step_begins(turn.row, turn.attempt + 1)
        told.step, told.outcome = turn.row.step, "broken_off"
        try:
            outcome = self._decide(turn)
            in_time = self._clock.monotonic() - turn.began < self._settings.turn_max_s
            committed = self._settle(turn, outcome, keep=in_time and steps < self._settings.turn_max_steps)
            told.outcome = outcome_name(outcome, retried=turn.attempt > 0)
            return committed
        except Superseded:
            told.outcome = "superseded"
            raise
        finally:
            ended(told.outcome)

    def _reload(self, turn: _Turn) -> bool:
        """Something was recorded while the turn ran (a signal, a cancel): read it. False when the run is over."""
        loaded = self._store.load(turn.run_id)
        if loaded is None or loaded[0].finished_at is not None:
            self._control.forget(turn.run_id)
            return False
        turn.row, turn.signals = loaded
        return True

    def _leave(self, turn: _Turn, committed: Committed) -> str:
        if committed.verdict == "missing":
            # The store was emptied under this turn; what was applied is in SQL.
            self.revive(turn.run_id)
        elif committed.verdict == "parked":
            countdown_s = committed.due - committed.now
            if countdown_s <= self._settings.near_window_s:
                self._ringer.publish([alarm_of(turn.row, committed.generation, max(0.0, countdown_s))])
        return committed.verdict

    def _hand_over(self, token: str, alarm: Alarm) -> None:
        committed = self._control.commit(alarm.run_id, token, None, delay_s=alarm.countdown_s, keep=False)
        if committed.verdict == "parked":
            self._ringer.publish([replace(alarm, generation=committed.generation)])
        elif committed.verdict == "missing":  # the store was emptied
            self.revive(alarm.run_id)

    # --- perform

    def _decide(self, turn: _Turn) -> Outcome | StepError:
        """The decision of the current step, or the error it raised. No transaction is open."""
        row = turn.row
        pipeline = self._pipelines.get(row.pipeline)
        if pipeline is None or row.version > pipeline.version:
            # A newer release wrote this state (rolling deploy): leave it to the workers that know it.
            log.error("state_too_new", run_id=row.id, pipeline=row.pipeline, version=row.version)
            return Snooze(self._settings.newer_state_retry_s)
        context = StepContext(
            row, turn.signals, self._now(turn), turn.attempt + 1, turn.fires, pipeline,
            fence=lambda uncancelled: self._fence(turn, uncancelled),
        )  # fmt: skip
        turn.consumed = context.consumed
        step = pipeline.step(row.step)
        try:
            if step is None:
                raise PermanentError(f"{row.pipeline} has no step {row.step}", code="unknown_step")
            if row.cancel_requested_at is not None and step.name not in pipeline.closing:
                return pipeline.on_cancel(context)
            self._check_bounds(turn, step, pipeline)
            return self._perform(turn, step, context)
        except StepError as error:
            return error
        except (Superseded, InfrastructureError):
            raise
        except Exception as error:  # a bug in a step: worth a few attempts, never a lost run
            return unexpected(row, error)

    def _perform(self, turn: _Turn, step: Step, context: StepContext) -> Outcome:
        expired = turn.row.deadline_at is not None and context.now >= turn.row.deadline_at
        late = step.expired or (step.perform if context.answered_in_time else fail_expired)
        function = late if expired else step.perform
        if step.guarded and not self._control.renew(turn.run_id, turn.token):
            raise Superseded  # it would buy, create or start something, and somebody else may already own the run
        with self._renewer.hold(turn.run_id, turn.token, step.timeout_s, step.name):
            self.checkpoint(f"perform:{step.name}")
            outcome = function(context)
            self.checkpoint(f"performed:{step.name}")
            check_decision(step.name, outcome)
            return outcome

    def _fence(self, turn: _Turn, uncancelled: bool) -> float:
        """See ``StepContext.ensure_ours``. The lease first: whoever takes the run over after that reads the row later."""
        if not self._control.renew(turn.run_id, turn.token):
            raise Superseded
        loaded = self._store.load(turn.run_id)
        if loaded is None or loaded[0].rev != turn.row.rev or loaded[0].finished_at is not None:
            raise Superseded
        if uncancelled and loaded[0].cancel_requested_at is not None:
            raise Superseded
        return self._now(turn)

    def _check_bounds(self, turn: _Turn, step: Step, pipeline: Pipeline) -> None:
        settings = self._settings
        if turn.lost > settings.step_max_crashes:
            raise PermanentError(
                f"{step.name} took its worker down {turn.lost - 1} times", code="step_crashes",
                advice="look at the worker's log for the time of its last start",
            )  # fmt: skip
        if turn.fires > settings.step_max_fires and step.name not in pipeline.closing:
            raise PermanentError(f"{step.name} was started {turn.fires} times without an end", code="step_loops")
        if len(turn.signals) > settings.inbox_max and step.name not in pipeline.closing:
            raise PermanentError(f"{len(turn.signals)} signals wait for this run", code="inbox_full")

    # --- apply and commit

    def _settle(self, turn: _Turn, outcome: Outcome | StepError, *, keep: bool, depth: int = 0) -> Committed | None:
        """Make the decision true: SQL first, then Redis. None when the run is over."""
        if depth > _FALLBACKS_MAX:
            return self._stand(turn, PermanentError("no decision of it can be applied", code="no_decision_applies"))
        given_up = isinstance(outcome, StepError)
        if isinstance(outcome, StepError):
            outcome = without_secrets(outcome)
            retry_s = self._retry_delay(turn, outcome)
            self._record(turn, outcome, retry_s)
            if retry_s is not None:
                return self._commit(turn, retry_s, False, attempt=turn.attempt + 1)
            try:
                outcome = self._give_up(turn, outcome)
            except InfrastructureError:
                raise
            except Exception as error:
                return self._stand(turn, error if isinstance(error, StepError) else unexpected(turn.row, error))
        if isinstance(outcome, Snooze):
            return self._commit(turn, self._before_deadline(turn, outcome.seconds), keep)
        if (
            isinstance(outcome, AwaitSignal)
            and turn.row.awaiting == outcome.name
            and not (turn.consumed or outcome.effects)
        ):
            return self._commit(turn, self._await_delay(turn, outcome), keep)
        try:
            change = self._change(turn, outcome)
            row, rings = self._store.apply(turn.row, change)
        except Refused as refused:
            log.info("effect_refused", run_id=turn.run_id, step=turn.row.step, why=refused.reason)
            fallback = outcome.otherwise if isinstance(outcome, Advance) else None
            return self._settle(
                turn, fallback or PermanentError(refused.reason, code="refused"), keep=keep, depth=depth + 1
            )
        except (CancelRequested, SignalArrived):
            # Read again: who cancelled and why is in the row; what was given up has come after all.
            return self._commit(turn, 0.0, keep) if self._reload(turn) else None
        except PermanentError as error:
            return self._settle(turn, error, keep=keep, depth=depth + 1)
        except (Superseded, InfrastructureError):
            raise
        except Exception as error:  # a bug in an effect, or a value SQL can't hold: the same as one in the step
            bug = unexpected(turn.row, error)
            return self._stand(turn, bug) if given_up else self._settle(turn, bug, keep=keep, depth=depth + 1)
        return self._applied(turn, change, row, rings, keep)

    def _applied(
        self, turn: _Turn, change: Change, row: RunRow, rings: tuple[RunId, ...], keep: bool
    ) -> Committed | None:
        self.checkpoint(f"applied:{turn.row.step}")
        taken = set(turn.consumed)
        turn.signals = tuple(signal for signal in turn.signals if signal.id not in taken)
        if row.step != turn.row.step:
            turn.fires = 0
        turn.row, turn.attempt = row, 0
        self._ringer.ring(rings)
        if row.finished_at is not None:
            self._control.forget(turn.run_id)
            self._meter.run_ended(row)
            return None
        delay_s = 0.0 if row.wake_at is None else row.wake_at - self._now(turn)
        young = self._clock.monotonic() - turn.leased_at < self._control.lease_s * _UNTOLD
        if keep and delay_s <= 0 and young and not change.guarded:
            # Redis need not hear of every step. Should this process die, the row says where it was, as it does after a
            # death between apply and commit; who rings the run meanwhile is heard at the next commit, before it parks
            # and before a step that buys, creates or starts something.
            return self._go_on(turn, Committed("kept", self._now(turn)))
        return self._commit(turn, delay_s, keep)

    def _commit(self, turn: _Turn, delay_s: float, keep: bool, *, attempt: int = 0, lost: int = 1) -> Committed:
        turn.attempt, asked_at = attempt, self._clock.monotonic()
        standing = Standing(turn.row.step, turn.row.rev, attempt, turn.fires, lost)
        committed = self._control.commit(turn.run_id, turn.token, standing, delay_s=delay_s, keep=keep)
        self.checkpoint(f"committed:{turn.row.step}")
        if committed.verdict != "kept":
            return committed
        turn.leased_at = asked_at
        return self._go_on(turn, committed, lost=lost)

    def _go_on(self, turn: _Turn, committed: Committed, *, lost: int = 1) -> Committed:
        turn.fires += 1
        turn.lost = lost
        return committed

    def _stand(self, turn: _Turn, error: StepError) -> Committed:
        """What gives the run up fails as well, by a bug in it: the run stays where it is, and nothing of it is lost.

        The step is tried again, ever more rarely, until a release comes that mends it.
        """
        settings = self._settings
        retry_s = backoff_s(turn.attempt + 1, base_s=settings.retry_base_s, max_s=settings.retry_max_s, rng=self._rng)
        log.error("not_given_up", run_id=turn.run_id, step=turn.row.step, code=error.code, retry_in_s=round(retry_s, 1))
        self._record(turn, without_secrets(error), retry_s)
        return self._commit(turn, retry_s, False, attempt=turn.attempt + 1)

    def _retry_delay(self, turn: _Turn, error: StepError) -> float | None:
        """Seconds until the next attempt, None when there is nothing left to try."""
        step = self._pipelines[turn.row.pipeline].step(turn.row.step)
        allowed = self._settings.step_max_attempts
        if step is not None and step.max_attempts is not None:
            allowed = step.max_attempts
        attempt = turn.attempt + 1
        if not isinstance(error, TransientError) or (allowed and attempt >= allowed):
            return None
        retry_s = error.retry_after_s
        if retry_s is None:
            retry_s = backoff_s(
                attempt, base_s=self._settings.retry_base_s, max_s=self._settings.retry_max_s, rng=self._rng
            )
        return self._before_deadline(turn, retry_s)

    def _before_deadline(self, turn: _Turn, seconds: float) -> float:
        """The deadline is not slept past; once it is past, the step's own pace goes on."""
        seconds = bounded_s(seconds)
        to_deadline = None if turn.row.deadline_at is None else turn.row.deadline_at - self._now(turn)
        return seconds if to_deadline is None or to_deadline <= 0 else min(seconds, to_deadline)

    def _record(self, turn: _Turn, error: StepError, retry_s: float | None) -> None:
        failure = Failure(turn.row.step, turn.attempt + 1, error.as_dict(), self._now(turn), retry_s)
        self._store.record_failure(turn.row, failure)

    def _give_up(self, turn: _Turn, error: StepError) -> Outcome:
        pipeline = self._pipelines[turn.row.pipeline]
        context = StepContext(turn.row, turn.signals, self._now(turn), turn.attempt + 1, turn.fires, pipeline)
        return pipeline.on_failure(context, error)

    def _change(self, turn: _Turn, outcome: Outcome) -> Change:
        """The outcome as one write of the row."""
        row, now = turn.row, self._now(turn)
        if isinstance(outcome, Done):
            self._check_size(row.step, outcome.result)
            return Change(
                row.step, now, entered=False, deadline_at=row.deadline_at, finished=True, result=outcome.result,
                error=error_of(outcome.error), effects=outcome.effects, consumed=tuple(turn.consumed),
                seen_signal=turn.seen_signal,
            )  # fmt: skip
        if isinstance(outcome, AwaitSignal):
            return Change(
                row.step, now, entered=False, deadline_at=row.deadline_at, awaiting=outcome.name,
                wake_at=now + self._await_delay(turn, outcome), consumed=tuple(turn.consumed),
                effects=outcome.effects,
            )  # fmt: skip
        assert isinstance(outcome, Advance)
        self._check_size(row.step, {**row.results, **outcome.results})
        pipeline = self._pipelines[row.pipeline]
        target = pipeline.step(outcome.step)
        if target is None or target.skip:
            raise PermanentError(f"{row.pipeline} has no step {outcome.step} to go to", code="unknown_step")
        return Change(
            target.name, now, entered=True,
            deadline_at=target.deadline_after(replace(row, results={**row.results, **outcome.results}), now),
            results=outcome.results, error=error_of(outcome.error), guarded=target.guarded, effects=outcome.effects,
            consumed=tuple(turn.consumed), reason=outcome.reason, seen_signal=turn.seen_signal,
        )  # fmt: skip

    def _await_delay(self, turn: _Turn, outcome: AwaitSignal) -> float:
        deadline_at = turn.row.deadline_at
        delay_s = IDLE_POLL_S if outcome.poll_s is None else bounded_s(outcome.poll_s)
        if deadline_at is not None:
            to_deadline = max(0.0, deadline_at - self._now(turn))
            delay_s = to_deadline if outcome.poll_s is None else min(delay_s, to_deadline)
        return delay_s

    def _check_size(self, step: str, results: Mapping[str, Any]) -> None:
        try:
            size = len(json.dumps(results, separators=(",", ":"), allow_nan=False).encode())
        except (TypeError, ValueError) as error:
            raise PermanentError(f"{step}: its results are not JSON: {error}", code="result_not_json") from error
        if size > self._settings.result_max_bytes:
            raise PermanentError(
                f"{step}: the run's results would be {size} bytes, more than {self._settings.result_max_bytes}",
                code="result_too_large",
            )

    def _now(self, turn: _Turn) -> float:
        """Redis time: what ``fire`` said, plus the monotonic time since."""
        return turn.fired_now + (self._clock.monotonic() - turn.began)
