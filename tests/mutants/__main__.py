"""``python -m tests.mutants``: a control run without any fault, then each mutant; exit status 0 when all are caught."""

from __future__ import annotations

import argparse
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.catalogue import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
#: Asked, in this order, when a mutant's own tests notice nothing.
EVERYTHING = (
    "tests/engine", "tests/db", "tests/pipelines", "tests/nodes", "tests/service", "tests/web", "tests/agent",
    "tests/simulation", "tests/overload", "tests/integration", "tests/stack", "tests/cli", "tests/unit", "tests/tour",
)  # fmt: skip
_NOTICED = re.compile(r"^(?:FAILED|ERROR) (\S+::\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Verdict:
    """``by``: the test that noticed, '' when none did. ``trouble``: why the run says nothing."""

    mutant: Mutant
    by: str
    seconds: float
    trouble: str = ""

    def line(self) -> str:
        """For people."""
        said = f"caught by {self.by}" if self.by else self.trouble or "SURVIVED"
        return f"{self.mutant.name:<32} {self.seconds:5.0f} s  {said}"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 when a mutant survived or could not be judged."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", action="append", metavar="NAME", help="this mutant alone; may be repeated")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutants at once (default: one a core)")
    parser.add_argument("--list", action="store_true", help="name the mutants and what each breaks")
    args = parser.parse_args(argv)
    unknown = set(args.only or ()) - {mutant.name for mutant in MUTANTS}
    if unknown:
        parser.error(f"no such mutant: {', '.join(sorted(unknown))}")
    chosen = [mutant for mutant in MUTANTS if not args.only or mutant.name in args.only]
    if args.list:
        print("\n".join(f"{mutant.name:<32} {mutant.breaks}" for mutant in chosen))
        return 0
    with tempfile.TemporaryDirectory(prefix="taskflow-mutants-") as folder:
        return _run(chosen, Path(folder), max(1, args.jobs))


def _run(chosen: Sequence[Mutant], folder: Path, jobs: int) -> int:
    trees: queue.Queue[Path] = queue.Queue()
    for number in range(jobs):
        trees.put(_copy(folder / f"tree-{number}"))
    control = _control(chosen, trees)
    print(control or "without a fault every test passes", flush=True)
    if control:
        return 1
    with ThreadPoolExecutor(jobs) as pool:
        caught = 0
        for verdict in pool.map(lambda mutant: _in_a_tree(mutant, trees), chosen):
            caught += bool(verdict.by)
            print(verdict.line(), flush=True)
    print(f"caught {caught}/{len(chosen)}")
    return 0 if caught == len(chosen) else 1


def _copy(tree: Path) -> Path:
    """The files of the checkout, without what git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    found = subprocess.run(
        [sys.executable, "-c", "import taskflow; print(taskflow.__file__)"],
        cwd=tree, env=_environ(tree), check=True, capture_output=True, text=True,
    )  # fmt: skip
    if not Path(found.stdout.strip()).is_relative_to(tree.resolve()):
        raise RuntimeError(f"the tests would import {found.stdout.strip()}, not the copy")
    return tree


def _environ(tree: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}


def _pytest(tree: Path, targets: Iterable[str]) -> tuple[int, str]:
    argv = [sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "--tb=no", "--timeout=90", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*argv, "-m", "not e2e and not crashpoints", *targets],
        cwd=tree, env=_environ(tree), check=False, capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def _control(chosen: Sequence[Mutant], trees: queue.Queue[Path]) -> str:
    tree = trees.get()
    status, output = _pytest(tree, sorted({test for mutant in chosen for test in mutant.tests}))
    trees.put(tree)
    return "" if status == 0 else f"without any fault the tests fail already:\n{output[-3000:]}"


def _in_a_tree(mutant: Mutant, trees: queue.Queue[Path]) -> Verdict:
    tree = trees.get()
    try:
        return _judge(mutant, tree)
    finally:
        trees.put(tree)


def _judge(mutant: Mutant, tree: Path) -> Verdict:
    began = time.monotonic()
    before = {edit.file: (tree / edit.file).read_text() for edit in mutant.edits}
    try:
        for edit in mutant.edits:
            text = (tree / edit.file).read_text()
            if text.count(edit.old) != 1:
                return Verdict(mutant, "", 0.0, f"NO LONGER APPLIES to {edit.file}")
            (tree / edit.file).write_text(text.replace(edit.old, edit.new))
        for targets in (mutant.tests, *((one,) for one in EVERYTHING if (tree / one).exists())):
            status, output = _pytest(tree, targets)
            noticed = _NOTICED.search(output)
            if noticed is not None:
                return Verdict(mutant, noticed.group(1), time.monotonic() - began)
            if status not in (0, 5):  # 5: nothing was collected
                return Verdict(mutant, "", time.monotonic() - began, f"BROKEN: {output.strip()[-300:]}")
        return Verdict(mutant, "", time.monotonic() - began)
    finally:
        for name, text in before.items():
            (tree / name).write_text(text)


if __name__ == "__main__":
    sys.exit(main())
