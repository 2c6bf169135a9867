"""The repository of a task: what ``--repo`` means here, what its clone will lack, how the output is merged into it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from taskflow.errors import InfrastructureError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SCP_LIKE = re.compile(r"[^/\s]+@[^/\s:]+:\S")
_GIT_TIMEOUT_S = 30.0
#: Set inside hooks and aliases of git; they would make git look at another repository than the one named.
_LOCAL_TO_A_REPOSITORY = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR", "GIT_NAMESPACE", "GIT_PREFIX",
)  # fmt: skip


@dataclass(frozen=True)
class Repository:
    """What is submitted: ``address`` (absolute path or URL), ``branch``, and paths that the clone will not have."""

    address: str
    branch: str | None = None
    uncommitted: tuple[str, ...] = ()
    is_local: bool = False


def resolve(text: str, branch: str | None = None) -> Repository:
    """``--repo`` as it is submitted. A path that does not exist goes on as it is: the node's git says so.

    Raises ``click.BadParameter`` for a directory that is no repository, or has no commit.
    """
    if is_remote(text):
        return Repository(text, branch)
    path = Path(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100 - resolve() would follow symbolic links
    if not path.exists():
        return Repository(str(path), branch, is_local=True)
    if not path.is_dir():
        raise _bad(f"{path} is a file, not a git repository")
    status, top, said = _git(path, "rev-parse", "--show-toplevel")
    if status != 0:
        return _bare(path, branch, said)
    root = Path(top)
    _must_have_a_commit(root)
    return Repository(str(root), branch or _current_branch(root), _uncommitted(root), is_local=True)


def is_remote(text: str) -> bool:
    """True for a URL or git's user@host:path."""
    return bool(_URL.match(text) or _SCP_LIKE.match(text))


def merge_command(task: Mapping[str, Any]) -> str | None:
    """The command that merges the output of ``task`` into its repository; None when nothing was pushed."""
    result = task.get("result") or {}
    branch = result.get("output_branch")
    if not branch or not result.get("commit") or not result.get("pushed"):
        return None
    address = str(task["repository"])
    if is_remote(address):
        return f"git fetch origin {shlex.quote(branch)} && git merge FETCH_HEAD"
    path = Path(address)
    if path.is_dir() and not (path / ".git").exists():  # bare: nothing can be merged in there
        return f"git fetch {shlex.quote(address)} {shlex.quote(branch)} && git merge FETCH_HEAD"
    return f"git -C {shlex.quote(address)} merge {shlex.quote(branch)}"


def _bare(path: Path, branch: str | None, said: str) -> Repository:
    status, bare, _ = _git(path, "rev-parse", "--is-bare-repository")
    if status != 0 or bare != "true":
        why = said.splitlines()[-1] if said else "git does not know it"
        raise _bad(f"{path}: {why.removeprefix('fatal: ')}")
    root = Path(_git(path, "rev-parse", "--absolute-git-dir")[1])
    _must_have_a_commit(root)
    return Repository(str(root), branch or _current_branch(root), is_local=True)


def _must_have_a_commit(root: Path) -> None:
    if _git(root, "rev-list", "--all", "--max-count=1")[1] == "":
        raise _bad(f"{root} has no commit yet; a clone of it would be empty")


def _current_branch(root: Path) -> str | None:
    status, branch, _ = _git(root, "symbolic-ref", "--quiet", "--short", "HEAD")
    return branch if status == 0 and branch else None


def _uncommitted(root: Path) -> tuple[str, ...]:
    _, listed, _ = _git(root, "status", "--porcelain", "-z", strip=False)
    entries = iter(listed.split("\0"))
    found = []
    for entry in entries:
        if not entry:
            continue
        found.append(entry[3:])
        if entry[0] in "RC":  # followed by the name it had before
            next(entries, None)
    return tuple(found)


def _git(path: Path, *arguments: str, strip: bool = True) -> tuple[int, str, str]:
    environ = {k: v for k, v in os.environ.items() if k not in _LOCAL_TO_A_REPOSITORY}
    environ |= {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            ["git", "-C", str(path), *arguments],
            env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=_GIT_TIMEOUT_S, check=False,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise InfrastructureError("git is missing", advice="apt-get install git") from error
    except subprocess.TimeoutExpired as error:
        raise InfrastructureError(f"git {arguments[0]} in {path} took longer than {_GIT_TIMEOUT_S:g} s") from error
    out = os.fsdecode(done.stdout)
    return done.returncode, out.rstrip("\n") if strip else out, done.stderr.decode("utf-8", "replace").strip()


def _bad(message: str) -> click.BadParameter:
    return click.BadParameter(message, param_hint="'--repo'")
