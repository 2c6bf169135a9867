"""Faults of the turn: what the runner decides, and what its one SQL write guards."""

from __future__ import annotations

from tests.mutants.mutant import Edit, Mutant

_RUNNER = "taskflow/engine/runner.py"
_RUNS = "taskflow/db/runs.py"
_APPLY = "taskflow/db/apply.py"
_TURN = ("tests/engine/test_turn.py",)
_APPLIES = ("tests/db/test_apply.py",)
_FAILURES = ("tests/engine/test_failures.py",)

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "no-fence", "a paused worker writes over what another one wrote",
        (Edit(
            _APPLY,
            'AT_REV = (Run.id == bindparam("of_run"), Run.rev == bindparam("at_rev"), Run.finished_at.is_(None))',
            'AT_REV = (Run.id == bindparam("of_run"), Run.rev < bindparam("at_rev") + 1_000_000)',
        ),),
        _TURN,
    ),
    Mutant(
        "calls-without-its-lease", "who lost its lease between its look and its call calls all the same",
        (Edit(
            _RUNNER, "        if not self._control.renew(turn.run_id, turn.token):\n", "        if False:\n",
        ),),
        ("tests/engine/test_crashes.py",),
    ),
    Mutant(
        "calls-over-another-write", "who lost its run to another writer between its look and its call calls all the same",
        (Edit(_RUNNER, "loaded is None or loaded[0].rev != turn.row.rev or", "loaded is None or"),),
        ("tests/engine/test_crashes.py",),
    ),
    Mutant(
        "one-statement-despite-cancel", "on PostgreSQL something is bought or started after the cancel",
        (Edit(_APPLY, "(_APPLY_UNLESS_CANCELLED if guarded else _APPLY).values", "_APPLY.values"),), _APPLIES,
    ),
    Mutant(
        "one-statement-consumes-unfenced", "on PostgreSQL a worker that lost its run still takes its signals away",
        (Edit(_APPLY, "_CONSUME.where(exists(select(literal(1)).select_from(changed)))", "_CONSUME"),), _APPLIES,
    ),
    Mutant(
        "rev-stands-still", "a write leaves no trace by which a later one could be fenced",
        (Edit(_APPLY, '        "rev": run.rev + 1,\n', '        "rev": run.rev,\n'),), _TURN,
    ),
    Mutant(
        "results-overwritten", "a step's results are gone when the next one has some",
        (Edit(
            _APPLY, 'values["results"] = {**run.results, **change.results}',
            'values["results"] = dict(change.results)',
        ),),
        _TURN,
    ),
    Mutant(
        "waits-not-persisted", "after Redis was emptied a parked run runs before its time",
        (Edit(_APPLY, '        "wake_at": change.wake_at,\n', '        "wake_at": None,\n'),),
        ("tests/engine/test_rescue.py",),
    ),
    Mutant(
        "guarded-step-despite-cancel", "something is bought or started after the cancel",
        (Edit(_APPLY, "= _APPLY.where(Run.cancel_requested_at.is_(None))", "= _APPLY"),), _TURN,
    ),
    Mutant(
        "signals-never-consumed", "one signal is taken again and again",
        (Edit(_APPLY, "    if change.consumed:\n        tx.", "    if False:\n        tx."),), _TURN,
    ),
    Mutant(
        "signal-lost-to-a-failure", "an answer that was accepted is passed over by the failure decided just before",
        (Edit(_APPLY, "        raise SignalArrived\n", "        pass\n"),), _TURN,
    ),
    Mutant(
        "last-write-wins", "a second, contradictory callback changes what was answered",
        (Edit(
            _RUNS, "    return False, tx.execute(_STORED, signal).one().payload\n",
            "    tx.execute(update(SignalRow).where(SignalRow.run_id == run_id, SignalRow.name == name)"
            ".values(payload=dict(payload)))\n    return True, payload\n",
        ),),
        ("tests/db/test_guards.py", "tests/service/test_callbacks.py"),
    ),
    Mutant(
        "lease-grows-old-in-a-turn", "a turn of many short steps loses its lease, and another begins beside it",
        (Edit(_RUNNER, "turn.leased_at < self._control.lease_s * _UNTOLD", "turn.leased_at < 3600.0"),),
        _TURN,
    ),
    Mutant(
        "guarded-step-untold", "who rings or cancels just before something is bought is not heard",
        (Edit(_RUNNER, "and young and not change.guarded:", "and young:"),), _TURN,
    ),
    Mutant(
        "cancel-unseen", "a cancelled run goes on",
        (Edit(_RUNNER, "if row.cancel_requested_at is not None and step.name not in pipeline.closing:", "if False:"),),
        _TURN,
    ),
    Mutant(
        "deadlines-unseen", "a wait has no end",
        (Edit(
            _RUNNER, "expired = turn.row.deadline_at is not None and context.now >= turn.row.deadline_at",
            "expired = False",
        ),),
        _TURN,
    ),
    Mutant(
        "deadlines-slept-past", "a step is looked at long after its deadline",
        (Edit(
            _RUNNER, "return seconds if to_deadline is None or to_deadline <= 0 else min(seconds, to_deadline)",
            "return seconds",
        ),),
        _TURN,
    ),
    Mutant(
        "host-clock-decides", "a host whose clock is off fails steps that have time left",
        (Edit(
            _RUNNER, "        return turn.fired_now + (self._clock.monotonic() - turn.began)\n",
            "        return self._clock.now()\n",
        ),),
        _TURN,
    ),
    Mutant(
        "guarded-step-without-lease", "a worker that was paused buys what another one is buying",
        (Edit(_RUNNER, "if step.guarded and not self._control.renew(turn.run_id, turn.token):", "if False:"),),
        _FAILURES,
    ),
    Mutant(
        "superseded-keeps-its-lease", "after another writer the run waits until the lease has run out",
        (Edit(_RUNNER, "                self._hand_over(turn.token, alarm_of(turn.row, \"\", 0.0))\n", ""),), _TURN,
    ),
    Mutant(
        "ended-runs-keep-their-keys", "control state of a run stays after its end",
        (Edit(
            _RUNNER, "            self._control.forget(turn.run_id)\n            self._meter.run_ended(row)\n",
            "            self._meter.run_ended(row)\n",
        ),),
        _TURN,
    ),
    Mutant(
        "lost-state-not-revived", "a run without control state waits for the rescue",
        (Edit(_RUNNER, "            self.revive(run_id)\n        elif", "            pass\n        elif"),), _TURN,
    ),
    Mutant(
        "older-rev-not-adopted", "after a crash between apply and commit, a step that kills its worker is never seen",
        (Edit(_RUNNER, "return self._steps(turn) if same else self._adopt(turn)", "return self._steps(turn)"),), _FAILURES,
    ),
    Mutant(
        "older-release-runs-newer-state", "a worker of the last release acts on state it does not know",
        (Edit(_RUNNER, "if pipeline is None or row.version > pipeline.version:", "if pipeline is None:"),), _TURN,
    ),
    Mutant(
        "retried-for-ever", "a step that can't succeed is never given up",
        (Edit(_RUNNER, "or (allowed and attempt >= allowed)", ""),), _FAILURES,
    ),
    Mutant(
        "backoff-without-bound", "the tenth attempt comes after hours",
        (Edit(
            "taskflow/engine/retry.py", "min(max_s, base_s * 2 ** min(attempt - 1, 30))",
            "base_s * 2 ** (attempt - 1)",
        ),),
        _FAILURES,
    ),
    Mutant(
        "results-of-any-size", "one step fills the database",
        (Edit(_RUNNER, "if size > self._settings.result_max_bytes:", "if False:"),),
        ("tests/overload/test_large_results.py",),
    ),
    Mutant(
        "hung-step-keeps-its-lease", "a step that never returns holds its run for ever",
        (Edit("taskflow/engine/lease.py", "            elif now < one.stop_at:\n", "            else:\n"),), _FAILURES,
    ),
)  # fmt: skip
