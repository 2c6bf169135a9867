"""``python -m bench WORKLOAD``."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Sequence

import structlog

from bench.report import Measured
from bench.subjects import PEERS

WORKLOADS = {
    "chain": "tasks of seven empty steps: a thousand at once, then one at a time",
    "alarms": "a thousand alarms due over twenty seconds: how late",
    "burst": "a thousand alarms due at one instant: how late, and the last",
    "signals": "a signal to a parked task until its next step: one by one, then two hundred at once",
    "callbacks": "reports over the real HTTP route, one by one (no peer)",
    "mixed": "tasks, alarms and signals at once, at a fixed rate",
    "parked": "tasks that wait for a far alarm: how fast they get there, what each takes up",
    "submit": "tasks accepted over HTTP (no peer)",
    "pages": "the dashboard and the API beside ten thousand tasks (no peer)",
    "recovery": "how long until work goes on after a worker, the broker, its data, beat or an agent died",
}
#: Those that take long and have no peer: asked for by name.
ALONE = {
    "scale": "a backlog drained by one, two and four worker processes, and by two hosts",
    "grow": "what each operation costs beside a thousand to a million parked tasks",
    "soak": "half an hour of everything at once: what grows, and whether lateness does",
}
ALL = "all"
_ROUNDS = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, then print a table, or one JSON object and nothing else."""
    args = _parse(argv)
    rounds = args.rounds or (_ROUNDS if args.workload in WORKLOADS else 1)
    chosen = list(WORKLOADS) if args.workload == ALL else [args.workload]
    found: dict[str, Measured] = {}
    for workload in chosen:
        peers = [peer for peer in dict.fromkeys(args.peer) if workload in PEERS[peer]]
        began = time.monotonic()
        module = importlib.import_module(f"bench.workloads.{workload}")
        measure = getattr(module, "look", module.measure) if args.workload == ALL else module.measure
        found[workload] = measure(rounds, peers)
        print(f"{workload} took {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        if not args.json:
            print(found[workload].table() + "\n", flush=True)
    if args.json:
        each = {workload: measured.as_dict() for workload, measured in found.items()}
        print(json.dumps({"workload": ALL, "each": each} if args.workload == ALL else each[args.workload]))
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    listed = "\n".join(f"  {name:<12}{what}" for name, what in (WORKLOADS | ALONE).items())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=f"workloads:\n{listed}\n  {ALL:<12}each but {', '.join(ALONE)}, one round: a look, not a measurement",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workload", choices=[*WORKLOADS, *ALONE, ALL])
    parser.add_argument("--peer", action="append", choices=sorted(PEERS), help="beside whom; may be repeated")
    parser.add_argument("--rounds", type=int, help=f"how often (default {_ROUNDS}; {ALL} and {', '.join(ALONE)}: 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else on stdout")
    args = parser.parse_args(argv)
    if args.rounds is not None and args.rounds < 1:
        parser.error("--rounds must be at least 1")
    for peer in args.peer or ():
        if args.workload in WORKLOADS and args.workload not in PEERS[peer]:
            parser.error(f"--peer {peer} does not offer {args.workload}; it offers {', '.join(sorted(PEERS[peer]))}")
    args.peer = args.peer or ["celery"]
    return args


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for the answer
    sys.exit(main())
