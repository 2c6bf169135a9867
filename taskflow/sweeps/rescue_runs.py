"""Rescue: re-arm what lost its control state, ring what has a signal recorded, delete keys of what is over."""

from __future__ import annotations

from typing import Any

from taskflow.engine.control import Control
from taskflow.engine.rescue import Rescue
from taskflow.sweeps.ledger import Memory


def rescue_runs(rescue: Rescue, control: Control, memory: Memory) -> dict[str, Any]:
    """One page of open runs and some keys of a shard; the next call goes on from there."""
    done = rescue.page(memory.cursor)
    memory.cursor = done.cursor
    shard = int(memory.state.get("shard", 0)) % control.shards
    forgotten, keys = rescue.sweep_some_keys(shard, int(memory.state.get("keys", 0)))
    memory.state.update(keys=keys, shard=shard if keys else (shard + 1) % control.shards)
    return {"looked_at": done.looked_at, "rebuilt": done.rebuilt, "rung": done.rung, "forgotten": forgotten}
