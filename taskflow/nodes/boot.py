"""How far a bought server's first boot is, in words: what people need when its agent does not come up."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row

from taskflow.engine.pipeline import StepContext
from taskflow.errors import PermanentError
from taskflow.nodes.catalogue import ProviderSpec


def boot_said(node: Row[Any]) -> str:
    """What was heard of the boot of a node's server that reports it, with how long after the purchase."""
    if node.boot_stage is None:
        return "its server never said that it booted"
    since = node.created_at if node.bought_at is None else node.bought_at
    after_s = max(0.0, node.boot_stage_at - since)
    return f"last seen at boot stage {node.boot_stage}, {after_s:.0f} s after the server was bought"


def agent_late(node: Row[Any], spec: ProviderSpec | None, ctx: StepContext) -> PermanentError:
    """What a step raises that waited for a node's agent in vain; ``spec``: of the node's provider."""
    how_far = f"; {boot_said(node)}" if spec is not None and spec.needs_user_data else ""
    run = ctx.run
    return PermanentError(
        f"the node's agent did not come up within {ctx.now - run.step_entered_at:.0f} s{how_far}", code="step_timeout",
        detail={
            "step": run.step, "awaited": "agent_ready", "since": run.step_entered_at, "until": run.deadline_at,
            "boot_stage": node.boot_stage,
        },
    )  # fmt: skip
