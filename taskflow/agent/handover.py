"""Work that changes hands: a clean clone to a workspace's user, and what that user committed back, as bytes.

git runs programs that a repository's own configuration names. So the agent's git works in the clean clone alone, which
no session can reach, and the workspace's git, as its user, in the tree alone. What passes from there to here is one
bundle, written into a file that the agent opened and named: no link, no pipe and no size beyond the limit gets in.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from taskflow.agent.git import Git, JobFailure

WORK_BYTES_MAX = 2 * 2**30  # of all that one session commits, packed
_OBJECT = re.compile(r"[0-9a-f]{40,64}\Z")
_TAKEN = "refs/taskflow/work"


def give(clean: Path, repo: Path, uid: int) -> None:
    """Make ``repo`` a clone like ``clean``, nothing checked out, that belongs to the user. Nothing of it runs yet."""
    repo.mkdir(mode=0o700)
    shutil.copytree(clean / ".git", repo / ".git", symlinks=True)
    os.chown(repo, uid, uid)
    for directory, names, files in os.walk(repo):
        for name in (*names, *files):
            os.chown(Path(directory) / name, uid, uid, follow_symlinks=False)


def take(tree: Git, clean: Git, base: str, head: str, *, bytes_max: int = WORK_BYTES_MAX) -> None:
    """Bring the commit ``head`` and what leads to it from ``base`` into ``clean``. Raises ``JobFailure``.

    ``head`` is what the tree's git says. What counts is what arrives: another commit than that is an error.
    """
    if not _OBJECT.match(head):
        raise JobFailure("git_failed", "the workspace's HEAD is not a commit", "commit")
    if clean.ask("cat-file", "-e", f"{head}^{{commit}}", phase="commit").code == 0:
        return
    path = clean.repo / "work.bundle"
    with _new_file(path) as file:
        tree.must(
            "bundle", "create", "--quiet", "-", "HEAD", f"^{base}",
            phase="commit", into=file, into_bytes_max=bytes_max,
        )  # fmt: skip
        clean.must(
            "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance",
            "--recurse-submodules=no", "--", str(path), f"+HEAD:{_TAKEN}", phase="commit",
        )  # fmt: skip
    came = clean.must("rev-parse", "--verify", f"{_TAKEN}^{{commit}}", phase="commit").text
    if came != head:
        raise JobFailure("git_failed", f"the workspace's HEAD is {head}, what it handed over is {came}", "commit")


@contextmanager
def _new_file(path: Path) -> Iterator[IO[bytes]]:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w+b") as file:
        try:
            yield file
        finally:
            path.unlink(missing_ok=True)
