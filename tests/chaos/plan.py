"""What the monkey will do and which tasks are submitted: both are a function of the seed and the sizes, nothing else."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.chaos.proxy import MODES

LINKS = ("worker-valkey", "worker-postgres", "web-valkey", "web-postgres", "agent-web", "worker-agent")
#: (kind, how often relative to the others)
KILLS = (
    ("child", 46), ("worker", 7), ("worker-2", 7), ("web", 9), ("beat", 6), ("nodehost", 6), ("agent", 11),
    ("valkey", 4), ("postgres", 4),
)  # fmt: skip
OTHERS = (
    ("cut", 52), ("flushall", 12), ("stale_alarms", 12), ("duplicate_alarms", 12), ("valkey_restart", 3),
    ("valkey_wipe", 4), ("postgres_restart", 5),
)  # fmt: skip
#: The whole machine of the supervisor, with its nodes: what was running there is lost, and is allowed to be.
SUPERVISOR_EVERY_S = 200.0
_KILL_EVERY_S = (1.5, 5.5)
_OTHER_EVERY_S = (3.0, 8.0)


@dataclass(frozen=True, order=True)
class Fault:
    """One thing the monkey does ``at_s`` after it began; ``lasts_s`` until it is undone. ``pick`` chooses among equals."""

    at_s: float
    kind: str
    target: str = ""
    mode: str = ""
    lasts_s: float = 0.0
    pick: float = 0.0

    def __str__(self) -> str:
        words = [f"{self.at_s:7.1f} s", self.kind, self.target, self.mode]
        return " ".join(word for word in words if word) + (f" for {self.lasts_s:.1f} s" if self.lasts_s else "")


def faults(seed: int, seconds: float) -> list[Fault]:
    """The monkey's plan, in order of time."""
    dice = random.Random(f"faults {seed}")
    made: list[Fault] = []
    at = dice.uniform(1, 3)
    while at < seconds:
        target = _choose(dice, KILLS)
        lasts = dice.uniform(0.2, 4) if target in ("valkey", "postgres") else 0.0
        made.append(Fault(at, "kill", target, lasts_s=lasts, pick=dice.random()))
        at += dice.uniform(*_KILL_EVERY_S)
    at = dice.uniform(2, 5)
    while at < seconds:
        kind = _choose(dice, OTHERS)
        if kind == "cut":
            made.append(Fault(at, kind, dice.choice(LINKS), dice.choice(MODES[1:]), dice.uniform(0.5, 7)))
        else:
            lasts = dice.uniform(0.2, 4) if kind.startswith(("valkey", "postgres")) else 0.0
            made.append(Fault(at, kind, lasts_s=lasts, pick=dice.random()))
        at += dice.uniform(*_OTHER_EVERY_S)
    # Dice may forget a store; a long run hurts each of them.
    for target, every_s in (("postgres", 150.0), ("valkey", 170.0)):
        at = every_s * dice.uniform(0.4, 0.8)
        while at < seconds * 0.95:
            made.append(Fault(at, "kill", target, lasts_s=dice.uniform(0.2, 4)))
            at += every_s
    at = SUPERVISOR_EVERY_S * dice.uniform(0.5, 0.9)
    while at < seconds * 0.9:
        made.append(Fault(at, "kill", "supervisor"))
        at += SUPERVISOR_EVERY_S
    # The rolling restart: one worker, the web process, the other worker; in between old and new run side by side.
    for part, target in ((0.25, "worker-2"), (0.35, "web"), (0.55, "worker")):
        made.append(Fault(seconds * part, "roll", target))
    return sorted(made)


def _choose(dice: random.Random, weighted: tuple[tuple[str, int], ...]) -> str:
    return dice.choices([name for name, _ in weighted], [weight for _, weight in weighted])[0]


@dataclass(frozen=True)
class Job:
    """One task of the workload. ``kind``: works, fails, cancelled, rerun. ``cancel_after_s`` counts from its submission."""

    number: int
    at_s: float
    kind: str
    cancel_after_s: float = 0.0
    prints_canary: bool = False
    seconds: float = 0.0


def jobs(seed: int, count: int, seconds: float) -> list[Job]:
    """The workload, spread over the first nine tenths of the monkey's time."""
    dice = random.Random(f"jobs {seed}")
    made = []
    for number in range(count):
        kind = dice.choices(("works", "fails", "cancelled", "rerun"), (82, 6, 7, 5))[0]
        made.append(
            Job(
                number,
                at_s=seconds * 0.9 * number / count,
                kind=kind,
                cancel_after_s=dice.uniform(0, 15),
                prints_canary=dice.random() < 0.2,
                seconds=dice.choice((0, 0, 0, 0.5, 3)),
            )
        )
    return made
