"""``python -m tests.fleet --tasks N --provider fake-hetzner --seed S [--chaos] --json``: one JSON object, exit status 0
when every task completed, every server that was bought is gone, and nothing was bought twice or filled over its slots."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from tests.fleet.run import PROVIDERS, run_fleet


def main() -> int:
    """One fleet."""
    parser = argparse.ArgumentParser(prog="python -m tests.fleet", description=__doc__)
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--provider", choices=sorted(PROVIDERS), default="fake-hetzner")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--chaos", action="store_true", help="kill workers, break the provider, restart agents")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else")
    given = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="taskflow-fleet-"))
    keep = True
    try:
        report = run_fleet(root, tasks=given.tasks, provider=given.provider, seed=given.seed, chaos=given.chaos)
        wrong = ("leaked", "double_created", "over_capacity", "faults")
        well = (
            report["completed"] == report["tasks"]
            and report["servers_created"] == report["servers_destroyed"]
            and not any(report[name] for name in wrong)
        )
        keep = not well
        print(json.dumps(report) if given.json else json.dumps(report, indent=2))
        return 0 if well else 1
    finally:
        if keep:
            print(f"kept: {root}", file=sys.stderr)
        else:
            shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
