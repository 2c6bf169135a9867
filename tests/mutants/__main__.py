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

from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import Mutant

ROOT = Path(__file__).parents[2]
#: Asked first, and in this order, when a mutant's own tests notice nothing; every other folder follows.
_FIRST = (
    "tests/engine", "tests/db", "tests/pipelines", "tests/nodes", "tests/service", "tests/simulation", "tests/web",
    "tests/agent", "tests/overload", "tests/integration",
)  # fmt: skip
#: What judges the form of the code sees every edit, and understands none.
_FORM = ("tests/mutants", "tests/unit/test_house.py")
#: A fault that makes a test wait for ever is noticed after this many seconds.
_TEST_LIMIT_S = 60
_NOTICED = re.compile(r"^(?:FAILED|ERROR) (\S+::.+?)(?: - .*)?$", re.MULTILINE)
_NOTHING_COLLECTED = 5


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
    parser.add_argument("--own", action="store_true", help="ask each mutant's own tests alone, not all of them")
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
        return _run(chosen, Path(folder), max(1, args.jobs), own=args.own)


def rooms_of_tests(tree: Path) -> list[str]:
    """Every folder of ``tests`` with a test in it that judges what the code does, the quickest nets first."""
    found = {path.relative_to(tree).parts[1] for path in (tree / "tests").rglob("test_*.py")}
    rooms = {f"tests/{name}" for name in found} - {*_FORM}
    return [room for room in _FIRST if room in rooms] + sorted(rooms - {*_FIRST})


def _run(chosen: Sequence[Mutant], folder: Path, jobs: int, *, own: bool) -> int:
    trees: queue.Queue[Path] = queue.Queue()
    for number in range(jobs):
        trees.put(_copy(folder / f"tree-{number}"))
    with ThreadPoolExecutor(jobs) as pool:
        control = _control(chosen, trees, pool, jobs)
        print(control or "without a fault every one of the tests asked first passes", flush=True)
        if control:
            return 1
        caught = 0
        for verdict in pool.map(lambda mutant: _in_a_tree(mutant, trees, own=own), chosen):
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
        cwd=tree.parent, env=_environ(tree), check=True, capture_output=True, text=True,
    )  # fmt: skip
    if not Path(found.stdout.strip()).is_relative_to(tree.resolve()):
        raise RuntimeError(f"the tests would import {found.stdout.strip()}, not the copy")
    return tree


def _environ(tree: Path) -> dict[str, str]:
    # No bytecode: it is told apart by size and second, and a mutant may share both with what it replaces.
    return {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}


def _pytest(tree: Path, targets: Iterable[str]) -> tuple[int, str]:
    argv = [sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "--tb=no", f"--timeout={_TEST_LIMIT_S}"]
    argv += ["-p", "no:cacheprovider", *(f"--ignore={path}" for path in _FORM)]
    done = subprocess.run(
        [*argv, "-m", "not e2e and not crashpoints", *targets],
        cwd=tree, env=_environ(tree), check=False, capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def _control(chosen: Sequence[Mutant], trees: queue.Queue[Path], pool: ThreadPoolExecutor, jobs: int) -> str:
    """'' when the tests that are asked first pass without a fault, else what they say."""
    asked = {test for mutant in chosen for test in mutant.tests}
    # A single test of a file that is asked anyway needs no asking of its own.
    wanted = sorted(test for test in asked if test.partition("::")[0] == test or test.partition("::")[0] not in asked)

    def ask(share: Sequence[str]) -> tuple[int, str]:
        tree = trees.get()
        try:
            return _pytest(tree, share)
        finally:
            trees.put(tree)

    for status, output in pool.map(ask, filter(None, (wanted[number::jobs] for number in range(jobs)))):
        if status:
            return f"without any fault the tests fail already:\n{output[-3000:]}"
    return ""


def _in_a_tree(mutant: Mutant, trees: queue.Queue[Path], *, own: bool) -> Verdict:
    tree = trees.get()
    began = time.monotonic()
    try:
        by, trouble = _judge(mutant, tree, own=own)
        if by and not any(by.startswith(test) for test in mutant.tests) and _pytest(tree, [by])[0]:
            by, trouble = "", f"BROKEN: {by} fails without the fault, too"
        return Verdict(mutant, by, time.monotonic() - began, trouble)
    finally:
        trees.put(tree)


def _judge(mutant: Mutant, tree: Path, *, own: bool) -> tuple[str, str]:
    """The test that noticed, and what is wrong with the mutant itself; the tree is left as it was."""
    before = {edit.file: (tree / edit.file).read_text() for edit in mutant.edits}
    try:
        for edit in mutant.edits:
            text = (tree / edit.file).read_text()
            if text.count(edit.old) != 1:
                return "", f"NO LONGER APPLIES to {edit.file}"
            (tree / edit.file).write_text(text.replace(edit.old, edit.new))
        for targets in (mutant.tests, *((room,) for room in rooms_of_tests(tree) if not own)):
            status, output = _pytest(tree, targets)
            noticed = _NOTICED.search(output)
            if noticed is not None:
                return noticed.group(1), ""
            if status not in (0, _NOTHING_COLLECTED):
                return "", f"BROKEN: {output.strip()[-300:]}"
        return "", ""
    finally:
        for name, text in before.items():
            (tree / name).write_text(text)


if __name__ == "__main__":
    sys.exit(main())
