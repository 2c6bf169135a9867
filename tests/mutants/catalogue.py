"""The faults: what each breaks, how, and which tests should be the first to see it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Edit:
    """``old`` stands exactly once in ``file``; the mutant has ``new`` instead."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """One fault. ``tests`` are asked first; when they notice nothing, the whole suite is."""

    name: str
    breaks: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]


_LUA = "taskflow/engine/lua/"
_RUNS = "taskflow/db/runs.py"
_RUNNER = "taskflow/engine/runner.py"
_TURN = ("tests/engine/test_turn.py", "tests/engine/test_crashes.py")
_CONTROL = ("tests/engine/test_control.py",)

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "no-fence", "a paused worker writes over what another one wrote",
        (Edit(
            _RUNS,
            "update(Run).where(Run.id == run.id, Run.rev == run.rev, Run.finished_at.is_(None))\n    if change.guarded",
            "update(Run).where(Run.id == run.id)\n    if change.guarded",
        ),),
        _TURN,
    ),
    Mutant(
        "rev-stands-still", "a write leaves no trace by which a later one could be fenced",
        (Edit(_RUNS, '        "rev": run.rev + 1,\n', '        "rev": run.rev,\n'),), _TURN,
    ),
    Mutant(
        "no-grace-entry", "one lost hint, and the run is stuck until the rescue",
        (Edit(
            _LUA + "commit.lua", "if score <= now then score = due + tonumber(ARGV[10]) end",
            "if score <= now then redis.call('ZREM', KEYS[3], ARGV[1]) "
            "return {'parked', stamp, string.format('%.6f', due), tostring(generation), woke and '1' or '0', '0'} end",
        ),),
        _CONTROL,
    ),
    Mutant(
        "no-wake-and-no-sweep", "a signal that comes while a turn runs is found at the next poll at best",
        (
            Edit(_LUA + "signal.lua", "  redis.call('HSET', KEYS[1], 'wake', '1')\n", ""),
            Edit("taskflow/engine/rescue.py", "        self._ringer.ring(waiting, due_too=False)\n", ""),
        ),
        (*_CONTROL, *_TURN),
    ),
    Mutant(
        "no-tombstones", "a paused worker makes a workspace again that was deleted",
        (Edit(
            "taskflow/agent/workspaces.py",
            "            self._refuse_deleted(workspace_id)\n            content = digest",
            "            content = digest",
        ),),
        ("tests/agent/test_contract.py",),
    ),
    Mutant(
        "agent-ignores-fences", "a worker whose run went on elsewhere starts a session",
        (Edit(
            "taskflow/agent/workspaces.py",
            'if payload["fence"] < workspace.fence:', 'if payload["fence"] < -1:',
        ),),
        ("tests/agent/test_contract.py",),
    ),
    Mutant(
        "ring-before-commit", "the woken turn reads SQL before the answer is there, and nobody wakes it again",
        (Edit(
            "taskflow/service/callbacks.py", "        self._ringer.ring([self._database.write(work)])\n",
            '        with self._database.read() as tx:\n            found = get_workspace(tx, workspace_id)\n'
            "        self._ringer.ring([RunId(found.run_id)] if found else [])\n        self._database.write(work)\n",
        ),),
        ("tests/service/test_callbacks.py",),
    ),
    Mutant(
        "commit-without-token", "a turn whose lease is somebody else's moves that one's alarm and drops its lease",
        (Edit(
            _LUA + "commit.lua", "if redis.call('GET', KEYS[2]) ~= ARGV[2] then return {'fenced', stamp} end\n", "",
        ),),
        _CONTROL,
    ),
    Mutant(
        "renew-without-token", "a worker that lost its lease goes on renewing the next one's",
        (Edit(_LUA + "renew.lua", "if redis.call('GET', KEYS[1]) ~= ARGV[2] then return 0 end\n", ""),), _CONTROL,
    ),
    Mutant(
        "fire-without-lease-check", "two turns of one run at once",
        (Edit(_LUA + "fire.lua", "if redis.call('EXISTS', KEYS[2]) == 1 then verdict = 'busy'\nelseif", "if"),), _CONTROL,
    ),
    Mutant(
        "fire-ignores-due", "an alarm fires before its time",
        (Edit(_LUA + "fire.lua", "elseif tonumber(run[1]) > now then verdict = 'early' end", "end"),), _CONTROL,
    ),
    Mutant(
        "last-write-wins", "a second, contradictory callback changes what was answered",
        (Edit(
            _RUNS, "        return False, stored.payload\n",
            "        tx.execute(update(SignalRow).where(SignalRow.run_id == run_id, SignalRow.name == name)"
            ".values(payload=dict(payload)))\n        return True, payload\n",
        ),),
        ("tests/service/test_callbacks.py", "tests/db/test_guards.py"),
    ),
    Mutant(
        "cleanup-before-the-end", "the task's end waits for its cleanup, and is lost with it",
        (
            Edit(
                "taskflow/pipelines/agent_task/session.py",
                'effects=(ended, transition_effect(task_id, "completed", run_id=run_id, now=ctx.now, fields=fields)),',
                "effects=(ended,),",
            ),
            Edit(
                "taskflow/pipelines/agent_task/closing.py", "        return Done(effects=self._release(ctx))\n",
                "        end = transition_effect(ctx.run.subject_id, 'completed', run_id=ctx.run.id, now=ctx.now)\n"
                "        return Done(effects=(*self._release(ctx), end))\n",
            ),
        ),
        ("tests/pipelines/test_failures.py", "tests/pipelines/test_cancel.py"),
    ),
    Mutant(
        "any-status-from-any", "a status is left for one that does not follow it",
        (Edit(
            "taskflow/db/tasks.py", "    guard = [Task.id == task_id, Task.status.in_(allowed)]\n",
            "    guard = [Task.id == task_id]\n",
        ),),
        ("tests/db/test_guards.py",),
    ),
    Mutant(
        "old-run-writes-status", "a former run ends the task that its successor works on",
        (Edit("taskflow/db/tasks.py", "        guard.append(Task.run_id == run_id)\n", "        pass\n"),),
        ("tests/db/test_guards.py", "tests/pipelines/test_rerun.py"),
    ),
    Mutant(
        "guarded-step-despite-cancel", "something is bought or started after the cancel",
        (Edit(_RUNS, "    if change.guarded:\n", "    if False:\n"),), (*_TURN, "tests/pipelines/test_cancel.py"),
    ),
    Mutant(
        "slots-not-counted", "more workspaces on a node than it has slots",
        (Edit("taskflow/db/nodes.py", "        if live_count(tx, node_id) >= taken.slots:\n", "        if False:\n"),),
        ("tests/db/test_guards.py", "tests/pipelines/test_capacity.py"),
    ),
    Mutant(
        "bought-without-looking", "a crash after buying buys again",
        (Edit(
            "taskflow/nodes/machine.py", "provider.find_by_label(node.label) or provider.create(self._order(node))",
            "provider.create(self._order(node))",
        ),),
        ("tests/nodes/test_machine.py",),
    ),
    Mutant(
        "signals-never-consumed", "one signal is taken again and again",
        (Edit(_RUNS, "    if change.consumed:\n", "    if False:\n"),), _TURN,
    ),
    Mutant(
        "signal-lost-to-a-failure", "an answer that was accepted is passed over by the failure decided just before",
        (Edit(_RUNS, "        raise SignalArrived\n", "        pass\n"),), _TURN,
    ),
    Mutant(
        "outbox-forgets-failures", "a promise whose consumer failed counts as kept",
        (Edit(
            "taskflow/sweeps/drain_outbox.py",
            "        retry_at = now() + min(_RETRY_MAX_S, _RETRY_BASE_S * 2 ** min(row.attempts, 10))\n", "",
        ),),
        ("tests/db/test_sweeps.py",),
    ),
    Mutant(
        "pump-forgets-claims", "a claimed alarm whose hint is lost is never rung again",
        (Edit(
            _LUA + "pump.lua", "redis.call('ZADD', KEYS[1], string.format('%.6f', due + tonumber(ARGV[3])), id)",
            "redis.call('ZREM', KEYS[1], id)",
        ),),
        _CONTROL,
    ),
    Mutant(
        "ensure-trusts-replicas", "a stale replica's state stands until its old alarm is due",
        (Edit(_LUA + "ensure.lua", "local behind = run[1] and", "local behind = false and"),),
        (*_CONTROL, "tests/engine/test_rescue.py"),
    ),
    Mutant(
        "reconciled-before-it-is", "a crash while rebuilding leaves the rest of the runs without control state",
        (
            Edit(
                "taskflow/engine/rescue.py", "        looked_at = rebuilt = rung = forgotten = 0\n",
                "        for shard, mark in marks.items():\n"
                '            self._store.write_incarnation(shard, f"{mark}@{server}", self._control.now())\n'
                "        looked_at = rebuilt = rung = forgotten = 0\n",
            ),
        ),
        ("tests/engine/test_rescue.py",),
    ),
    Mutant(
        "keys-left-behind", "control state of ended runs piles up",
        (Edit(
            _LUA + "forget.lua", "return redis.call('DEL', KEYS[1], KEYS[2]) + redis.call('ZREM', KEYS[3], ARGV[1])",
            "return 0",
        ),),
        _CONTROL,
    ),
    Mutant(
        "crashes-not-counted", "a step that kills its worker does so for ever",
        (Edit(
            _LUA + "fire.lua", "run[7] = tostring(redis.call('HINCRBY', KEYS[1], 'lost', 1))", "run[7] = '1'",
        ),),
        ("tests/engine/test_failures.py", *_CONTROL),
    ),
    Mutant(
        "retried-for-ever", "a step that can't succeed is never given up",
        (Edit(_RUNNER, "or (allowed and attempt >= allowed)", ""),), ("tests/engine/test_failures.py",),
    ),
    Mutant(
        "older-release-runs-newer-state", "a worker of the last release acts on state it does not know",
        (Edit(_RUNNER, "if pipeline is None or row.version > pipeline.version:", "if pipeline is None:"),), _TURN,
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
        "hung-step-keeps-its-lease", "a step that never returns holds its run for ever",
        (Edit("taskflow/engine/lease.py", "            elif now < one.stop_at:\n", "            else:\n"),),
        ("tests/engine/test_failures.py", "tests/engine/test_crashes.py"),
    ),
    Mutant(
        "token-of-any-workspace", "a workspace reports for another one",
        (Edit(
            "taskflow/service/accounts.py", "        if self.scope != scope or self.subject_id != subject_id:\n",
            "        if self.scope != scope:\n",
        ),),
        ("tests/service/test_callbacks.py", "tests/web/test_callbacks.py"),
    ),
    Mutant(
        "writers-begin-late", "a writing transaction finds out at its end that another one wrote",
        (Edit("taskflow/db/session.py", '"BEGIN IMMEDIATE" if writes else "BEGIN"', '"BEGIN"'),),
        ("tests/db/test_databases.py", "tests/db/test_guards.py"),
    ),
)  # fmt: skip
