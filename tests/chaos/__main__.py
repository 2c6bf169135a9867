"""``python -m tests.chaos --tasks N --minutes M --seed S [--json]``: exit status 0 when every promise was kept."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos.session import run_chaos


def main() -> int:
    """Play one seed."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else")
    parser.add_argument(
        "--keep", action="store_true", help="leave logs and data where they are and name the place, as after a failure"
    )
    given = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="taskflow-chaos-"))
    keep = True
    # Its own links are served from this process: a thread that computes must not hold up what passes through them.
    sys.setswitchinterval(0.0005)
    try:
        report = run_chaos(root, tasks=given.tasks, minutes=given.minutes, seed=given.seed)
        keep = given.keep or not report["ok"]
        if given.json:
            print(json.dumps(report))
        else:
            print(json.dumps(report, indent=2))
        return 0 if report["ok"] else 1
    finally:
        if keep:
            print(f"kept: {root}", file=sys.stderr)
        else:
            shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
