"""``python -m bench WORKLOAD``."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence

from bench.subjects import PEERS

WORKLOADS = {
    "alarms": "a thousand alarms due over twenty seconds: how late",
    "burst": "a thousand alarms due at one instant: how late, and the last",
    "chain": "tasks of seven empty steps: a thousand at once, then one at a time",
    "parked": "tasks that wait for a far alarm: how fast they get there, what each takes up",
    "submit": "tasks accepted over HTTP (no peer)",
    "signals": "a signal to a parked task until its next step: one by one, then two hundred at once",
    "recovery": "how long until work goes on after a worker, the broker, its data, beat or an agent died",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, then print a table, or one JSON object and nothing else."""
    listed = "\n".join(f"  {name:<12}{what}" for name, what in WORKLOADS.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=f"workloads:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workload", choices=sorted(WORKLOADS))
    parser.add_argument(
        "--peer", action="append", choices=sorted(PEERS), help="beside whom; may be repeated (default: celery)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often (default 3)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else on stdout")
    args = parser.parse_args(argv)
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    peers = list(dict.fromkeys(args.peer or [peer for peer in ["celery"] if args.workload in PEERS[peer]]))
    for peer in peers:
        if args.workload not in PEERS[peer]:
            parser.error(f"--peer {peer} does not offer {args.workload}; it offers {', '.join(sorted(PEERS[peer]))}")
    measured = importlib.import_module(f"bench.workloads.{args.workload}").measure(args.rounds, peers)
    print(json.dumps(measured.as_dict()) if args.json else measured.table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
