"""Faults of the control state: what the scripts keep in Redis, and who looks after it."""

from __future__ import annotations

from tests.mutants.mutant import Edit, Mutant

_RESCUE = "taskflow/engine/rescue.py"
_CONTROL = ("tests/engine/test_control.py",)
_TAKEOVER = ("tests/engine/test_takeover.py",)
_RESCUES = ("tests/engine/test_rescue.py",)


def _lua(script: str, old: str, new: str = "") -> Edit:
    return Edit(f"taskflow/engine/lua/{script}.lua", old, new)


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "no-grace-entry", "one lost hint, and the run is stuck until the rescue",
        (_lua(
            "commit", "if score <= now then score = due + tonumber(ARGV[12]) end",
            "if score <= now then redis.call('ZREM', KEYS[3], ARGV[1]) "
            "return {'parked', stamp, due_text, tostring(generation), woke and '1' or '0'} end",
        ),),
        _CONTROL,
    ),
    Mutant(
        "no-wake-and-no-sweep", "a signal that comes while a turn runs is found at the next poll at best",
        (
            _lua("signal", "  redis.call('HSET', KEYS[1], 'wake', '1')\n"),
            Edit(_RESCUE, "        self._ringer.ring(waiting, due_too=False)\n", ""),
        ),
        _CONTROL,
    ),
    Mutant(
        "wake-flag-unread", "a turn that was woken while it ran parks all the same",
        (_lua("commit", "if woke then due = now end\n"),), _CONTROL,
    ),
    Mutant(
        "commit-without-token", "a turn whose lease is somebody else's moves that one's alarm and drops its lease",
        (_lua("commit", "if redis.call('GET', KEYS[2]) ~= ARGV[2] then return {'fenced', stamp} end\n"),), _CONTROL,
    ),
    Mutant(
        "renew-without-token", "a worker that lost its lease goes on renewing the next one's",
        (_lua("renew", "if redis.call('GET', KEYS[1]) ~= ARGV[2] then return 0 end\n"),), _CONTROL,
    ),
    Mutant(
        "renewal-leaves-the-alarm", "a long step is rung again and again while its lease is renewed",
        (_lua(
            "renew",
            "redis.call('ZADD', KEYS[2], string.format('%.6f', now + tonumber(ARGV[3]) / 1000 + tonumber(ARGV[4])), "
            "ARGV[1])\n",
        ),),
        _CONTROL,
    ),
    Mutant(
        "lease-outlives-its-turn", "the next step waits until the lease of the last one has run out",
        (_lua("commit", "redis.call('DEL', KEYS[2])\nlocal generation", "local generation"),), _CONTROL,
    ),
    Mutant(
        "fire-without-lease-check", "two turns of one run at once",
        (_lua("fire", "if redis.call('EXISTS', KEYS[2]) == 1 then verdict = 'busy'\nelseif", "if"),), _CONTROL,
    ),
    Mutant(
        "fire-ignores-due", "an alarm fires before its time",
        (_lua("fire", "elseif tonumber(run[1]) > now then verdict = 'early' end", "end"),), _CONTROL,
    ),
    Mutant(
        "fire-takes-the-alarm-along", "a worker that dies in a step takes the alarm of its run with it",
        (_lua(
            "fire",
            "redis.call('ZADD', KEYS[3], string.format('%.6f', now + tonumber(ARGV[4]) / 1000 + tonumber(ARGV[5])), "
            "ARGV[1])",
            "redis.call('ZREM', KEYS[3], ARGV[1])",
        ),),
        ("tests/engine/test_crashes.py",),
    ),
    Mutant(
        "fire-leaves-the-alarm", "the index rings a run while its turn goes on, not when its lease ends",
        (_lua(
            "fire",
            "redis.call('ZADD', KEYS[3], string.format('%.6f', now + tonumber(ARGV[4]) / 1000 + tonumber(ARGV[5])), "
            "ARGV[1])",
        ),),
        _CONTROL,
    ),
    Mutant(
        "kept-lease-leaves-the-alarm", "after the first steps of a long turn the index rings it at every look",
        (_lua(
            "commit",
            "  redis.call('ZADD', KEYS[3], string.format('%.6f', "
            "now + tonumber(ARGV[10]) / 1000 + tonumber(ARGV[13])), ARGV[1])\n",
        ),),
        _CONTROL,
    ),
    Mutant(
        "crashes-not-counted", "a step that kills its worker does so for ever",
        (_lua("fire", "run[7] = tostring(redis.call('HINCRBY', KEYS[1], 'lost', 1))", "run[7] = '1'"),),
        ("tests/engine/test_failures.py",),
    ),
    Mutant(
        "loops-of-turns-not-counted", "a step that never ends, in turns of its own, is never seen as a loop",
        (_lua("fire", "run[6] = tostring(redis.call('HINCRBY', KEYS[1], 'fires', 1))", "run[6] = '1'"),),
        ("tests/engine/test_failures.py::test_a_step_that_never_ends_is_counted_out",),
    ),
    Mutant(
        "loops-in-a-turn-not-counted", "a step that never ends, within a turn, goes round many times the bound",
        (Edit("taskflow/engine/runner.py", "        turn.fires += 1\n", ""), _lua("commit", " + (kept and 1 or 0)")),
        ("tests/engine/test_failures.py::test_a_step_that_never_ends_is_counted_out",),
    ),
    Mutant(
        "repeated-ring-loses-its-place", "in a backlog a run that is rung again goes to the end of the queue",
        (_lua("signal", "if tonumber(run[3]) <= now then\n", "if false then\n"),),
        ("tests/overload/test_rescue_backlog.py",),
    ),
    Mutant(
        "pump-forgets-claims", "a claimed alarm whose hint is lost is never rung again",
        (_lua(
            "pump", "redis.call('ZADD', KEYS[1], string.format('%.6f', due + tonumber(ARGV[3])), id)",
            "redis.call('ZREM', KEYS[1], id)",
        ),),
        _CONTROL,
    ),
    Mutant(
        "pump-claims-nothing", "every pump rings every alarm that is due, at every tick",
        (_lua("pump", "  redis.call('ZADD', KEYS[1], string.format('%.6f', due + tonumber(ARGV[3])), id)\n"),), _CONTROL,
    ),
    Mutant(
        "pump-into-a-backlog", "a long queue is made longer at every tick",
        (Edit(
            "taskflow/engine/alarms.py", "room = max(0, self._backlog_max - self._publisher.backlog())",
            "room = self._batch",
        ),),
        _CONTROL,
    ),
    Mutant(
        "ensure-trusts-replicas", "a stale replica's state stands until its old alarm is due",
        (_lua("ensure", "local behind = run[1] and", "local behind = false and"),), (*_RESCUES, *_CONTROL),
    ),
    Mutant(
        "ensure-breaks-into-turns", "the rescue resets the counters of a turn between its apply and its commit",
        (_lua("ensure", " and redis.call('EXISTS', ARGV[1] .. ':lease:' .. id) == 0"),), _CONTROL,
    ),
    Mutant(
        "ensure-overlooks-the-index", "a run whose alarm was lost is never looked at again",
        (_lua("ensure", "if run[1] and indexed and not behind then", "if run[1] and not behind then"),), _CONTROL,
    ),
    Mutant(
        "rebuilt-means-due", "a parked run runs before its time after Redis was emptied",
        (_lua("ensure", "if wake_at ~= '' and tonumber(wake_at) > now then due = tonumber(wake_at) end"),), _RESCUES,
    ),
    Mutant(
        "keys-left-behind", "control state of ended runs piles up",
        (_lua(
            "forget", "return redis.call('DEL', KEYS[1], KEYS[2]) + redis.call('ZREM', KEYS[3], ARGV[1])", "return 0",
        ),),
        _CONTROL,
    ),
    Mutant(
        "reconciled-before-it-is", "a crash while rebuilding leaves the rest of the runs without control state",
        (Edit(
            _RESCUE, "        looked_at = rebuilt = rung = forgotten = 0\n",
            "        for shard, mark in marks.items():\n"
            '            self._store.write_incarnation(shard, f"{mark}@{server}", self._control.now())\n'
            "        looked_at = rebuilt = rung = forgotten = 0\n",
        ),),
        _RESCUES,
    ),
    Mutant(
        "loss-goes-unnoticed", "nobody sees that Redis was emptied",
        (Edit(
            _RESCUE, "        return all(\n            answer.incarnation and", "        return all(\n            True or",
        ),),
        _RESCUES,
    ),
    Mutant(
        "another-server-goes-unnoticed", "after a failover to a replica that lags, nobody looks",
        (Edit(_RESCUE, '== f"{answer.incarnation}@{self._server}"', '!= ""'),), _RESCUES,
    ),
    Mutant(
        "takeover-from-the-living", "a process that begins takes the runs of those that work on them",
        (Edit("taskflow/engine/lease.py", "return _has_ended(int(pid))", "return True"),), _TAKEOVER,
    ),
    Mutant(
        "takeover-not-from-the-unreaped", "whoever died is waited for until its parent takes note",
        (Edit("taskflow/engine/lease.py", "return _has_ended(int(pid))", "return False"),), _TAKEOVER,
    ),
    Mutant(
        "takeover-without-token", "a dead process's run is taken from who has it by now",
        (_lua("abandon", "if redis.call('GET', KEYS[2]) ~= ARGV[2] then return {'held'} end\n"),), _TAKEOVER,
    ),
    Mutant(
        "deadly-step-hurried", "a step that kills its workers runs twenty times in a few seconds and is given up",
        (_lua("abandon", " or tonumber(run[4]) > tonumber(ARGV[4])"),), _TAKEOVER,
    ),
    Mutant(
        "rescue-of-the-first-page", "of many runs, only those of the first page are ever rescued",
        (Edit(_RESCUE, 'cursor=rows[-1].id if len(rows) == self._page else "",', 'cursor="",'),), _RESCUES,
    ),
)  # fmt: skip
