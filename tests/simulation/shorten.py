"""A failing run made small: which of its faults are needed, found by leaving out more and more of the others."""

from __future__ import annotations

from collections.abc import Callable

from tests.simulation.play import Played, play


def shorten(failed: Played, *, tries: int = 60, again: Callable[[int, frozenset[int]], Played] = play) -> Played:
    """The same seed with as few of its faults as still break something (delta debugging, at most ``tries`` runs)."""
    kept = [fault.number for fault in failed.injected]
    best, parts = failed, 2
    while len(kept) > 1 and tries > 0 and parts <= len(kept):
        size = -(-len(kept) // parts)
        for start in range(0, len(kept), size):
            rest = kept[:start] + kept[start + size :]
            tries -= 1
            tried = again(failed.seed, frozenset(rest))
            if tried.failure:
                kept, best, parts = [fault.number for fault in tried.injected], tried, max(2, parts - 1)
                break
            if tries <= 0:
                break
        else:
            if parts >= len(kept):
                break
            parts = min(len(kept), 2 * parts)
    return best


def describe(failed: Played, *, lines: int = 80) -> str:
    """What a person needs to understand a failure and to repeat it."""
    numbers = ",".join(str(fault.number) for fault in failed.injected)
    replay = f"python -m tests.simulation --seed {failed.seed}" + (f" --only {numbers}" if numbers else " --only ''")
    faults = ", ".join(f"{fault.number}:{fault.kind}" for fault in failed.injected) or "none"
    tail = "\n".join(failed.trace[-lines:])
    return f"seed {failed.seed}: {failed.failure}\nfaults that are needed: {faults}\n{tail}\nrepeat it with: {replay}"
