"""The faults: what each breaks, how, and which tests should be the first to see it."""

from __future__ import annotations

from tests.mutants import of_agents, of_control, of_face, of_nodes, of_product, of_turn
from tests.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    *of_control.MUTANTS, *of_turn.MUTANTS, *of_product.MUTANTS, *of_nodes.MUTANTS, *of_agents.MUTANTS,
    *of_face.MUTANTS,
)  # fmt: skip
