"""``python -m tests.simulation``: many seeds, or one of them again."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tests.simulation.chance import FAULTS
from tests.simulation.play import Played, collect_rarely, play
from tests.simulation.shorten import describe, shorten


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 when every invariant held in every run."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--first-seed", type=int, default=1, help="first seed of the range (default 1)")
    parser.add_argument("--seeds", type=int, default=200, help="how many (default 200)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one for each core)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else on stdout")
    parser.add_argument("--seed", type=int, help="run this one seed again and print its trace")
    parser.add_argument("--only", help="with --seed: inject these of its numbered faults alone (1,5,7)")
    args = parser.parse_args(argv)
    if args.seeds < 1 or args.jobs < 1:
        parser.error("--seeds and --jobs must be at least 1")
    if args.seed is not None:
        return _once(args.seed, args.only)
    return _many(range(args.first_seed, args.first_seed + args.seeds), args.jobs, as_json=args.json)


def _once(seed: int, only: str | None) -> int:
    numbers = None if only is None else frozenset(int(one) for one in only.split(",") if one.strip())
    played = play(seed, numbers)
    print("\n".join(played.trace))
    print(f"seed {seed}: {played.failure or 'every invariant held'} ({played.events} events, {played.faults})")
    return 1 if played.failure else 0


def _many(seeds: range, jobs: int, *, as_json: bool) -> int:
    began = time.monotonic()
    total: dict[str, Any] = {"first_seed": seeds.start, "seeds": len(seeds), "failed": 0, "events": 0}
    faults: Counter[str] = Counter(dict.fromkeys(FAULTS, 0))
    failed: list[int] = []
    with multiprocessing.get_context("spawn").Pool(jobs, initializer=collect_rarely) as pool:
        for done, played in enumerate(pool.imap_unordered(play, seeds, chunksize=4), start=1):
            total["events"] += played.events
            faults.update(played.faults)
            if played.failure:
                failed.append(played.seed)
                _report(played)
            _progress(done, len(seeds), len(failed), began)
    total |= {"failed": len(failed), "failed_seeds": sorted(failed), "faults": dict(faults)}
    total["seconds"] = round(time.monotonic() - began, 1)
    print(json.dumps(total) if as_json else _table(total))
    return 1 if failed else 0


def _report(played: Played) -> None:
    """Tell a failure as it is found, shortened, on standard error."""
    print(f"\nseed {played.seed} failed; looking for the faults that are needed ...", file=sys.stderr)
    print(describe(shorten(played)), file=sys.stderr, flush=True)


def _progress(done: int, of: int, failed: int, began: float) -> None:
    if sys.stderr.isatty() or done % 100 == 0 or done == of:
        end = "\r" if sys.stderr.isatty() and done < of else "\n"
        print(
            f"{done}/{of} seeds, {failed} failed, {time.monotonic() - began:.0f} s",
            end=end,
            file=sys.stderr,
            flush=True,
        )


def _table(total: dict[str, Any]) -> str:
    lines = [f"{name:<24}{count:>10}" for name, count in sorted(total["faults"].items())]
    summary = f"{total['seeds']} seeds, {total['failed']} failed, {total['events']} events, {total['seconds']} s"
    return "\n".join([*lines, summary])


if __name__ == "__main__":
    # Sets and dicts of strings are ordered by their hashes: only a fixed seed makes a run the same everywhere.
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(
            sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]], {**os.environ, "PYTHONHASHSEED": "0"}
        )  # fmt: skip
    sys.exit(main())
