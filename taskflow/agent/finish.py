"""After a session's command: commit what changed, say what changed, push it. Runs in a job process.

Each part looks first whether it was done already, so the whole can be repeated after a crash at any point.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskflow.agent.confinement import COMMON, Confinement
from taskflow.agent.git import Deadline, Git, JobFailure
from taskflow.agent.handover import WORK_BYTES_MAX, take

CHANGED_FILES_MAX = 1000
#: Of all names together: a path may have 4096 bytes, and a list of such names is of no use to anybody.
CHANGED_FILES_BYTES_MAX = 256 * 1024
_PUSH_WAITS_S = (0.5, 1.0, 2.0)  # before the second, third and fourth attempt
_OUR_IDENTITY = ("user.name=taskflow", "user.email=taskflow@localhost")


@dataclass(frozen=True)
class FinishOrder:
    """What to finish. ``timeout_s`` bounds the local part and the push separately.

    ``clean`` is the clone that an isolated workspace can't reach, ``tree_env`` the environment of git in its tree.
    """

    repo: str
    clone: dict[str, Any]  # what provisioning returned
    output_branch: str
    commit_message: str
    push: bool
    git_env: dict[str, str]
    timeout_s: float
    clean: str | None = None
    tree_env: dict[str, str] | None = None
    confinement: Confinement = COMMON
    work_bytes_max: int = WORK_BYTES_MAX


def finish(order: FinishOrder) -> dict[str, Any]:
    """Returns commit, output_branch, changed_files, pushed and error, as they stand in a session's outcome."""
    result: dict[str, Any] = {
        "commit": None,
        "output_branch": None,
        "changed_files": [],
        "pushed": False,
        "error": None,
    }
    try:
        deadline = Deadline(order.timeout_s)
        own = Git(Path(order.clean or order.repo), order.git_env, deadline)
        tree = own
        if order.confinement.uid is not None:
            tree = Git(Path(order.repo), order.tree_env or {}, deadline, order.confinement)
        _commit(tree, own, order.commit_message)
        head = tree.must("rev-parse", "--verify", "HEAD^{commit}", phase="commit").text
        base = order.clone["base_commit"]
        if head == base:
            return result
        if tree is not own:
            take(tree, own, base, head, bytes_max=order.work_bytes_max)
        result["commit"], result["output_branch"] = head, order.output_branch
        names = own.must("diff", "--name-only", "--no-ext-diff", "-z", base, head, phase="commit").out
        result["changed_files"] = changed_files(names)
        if order.push:
            _push(Git(own.repo, order.git_env, Deadline(order.timeout_s)), order, head)
            result["pushed"] = True
    except JobFailure as failure:
        result["error"] = failure.as_dict()
    return result


def changed_files(names: bytes) -> list[str]:
    """The first of git's NUL-separated ``names``, no more than the two limits allow."""
    found, left = [], CHANGED_FILES_BYTES_MAX
    for name in names.split(b"\0")[:CHANGED_FILES_MAX]:
        left -= len(name)
        if name and left >= 0:
            found.append(name.decode("utf-8", "replace"))
    return found


def _identity(git: Git) -> tuple[str, ...]:
    """Who commits where the tree's configuration names nobody: whom the agent's user is configured to be, else we."""
    found = [(name, git.ask("config", name, phase="commit").text) for name in ("user.name", "user.email")]
    return tuple(f"{name}={value}" for name, value in found) if all(value for _, value in found) else _OUR_IDENTITY


def _commit(git: Git, own: Git, message: str) -> None:
    """Commit the whole working tree on whatever branch it is, unless it is clean. ``own`` is the agent's git."""
    if not (git.repo / ".git").exists():
        raise JobFailure("git_failed", "the clone's .git is gone; nothing can be committed", "commit")
    # The command and all its children are dead: a lock that is still there belongs to nobody.
    # As whoever git runs as: where the path leads is the session's to say.
    if (git.repo / ".git").is_dir():
        git.run(["rm", "-f", "--", ".git/index.lock", ".git/HEAD.lock"], phase="commit")
    if not git.must("status", "--porcelain", "-z", phase="commit").out:
        return
    git.must("add", "--all", phase="commit")
    if git.ask("diff", "--cached", "--quiet", "--no-ext-diff", phase="commit").code == 0:
        return  # only what a commit can't hold, like changes inside a submodule
    known = all(git.ask("config", f"user.{part}", phase="commit").text for part in ("name", "email"))
    git.must(
        "commit",
        "--quiet",
        "--no-verify",
        "--message",
        message,
        phase="commit",
        config=() if known else _identity(own),
    )


def _push(git: Git, order: FinishOrder, head: str) -> None:
    """Push ``head`` to the output branch and to nothing else, never by force.

    To the URL that was cloned, not to the remote's name: the command may have turned that elsewhere.
    """
    if order.output_branch in (order.clone["cloned_branch"], order.clone["default_branch"]):
        raise JobFailure(
            "branch_refused", f"{order.output_branch} is a branch of the origin itself; it is never pushed to", "push"
        )
    url, target = order.clone["origin_url"], f"refs/heads/{order.output_branch}"
    arguments = ("push", "--no-verify", "--no-follow-tags", "--recurse-submodules=no", "--", url, f"{head}:{target}")
    for wait_s in (*_PUSH_WAITS_S, None):
        try:
            git.must(*arguments, phase="push")
            return
        except JobFailure as failure:
            if failure.code == "timeout":
                raise
            there = git.ask("ls-remote", "--", url, target, phase="push")
            if there.code == 0 and there.text.split()[:1] == [head]:
                return  # an earlier attempt arrived, only its answer did not
            if wait_s is None:
                raise
            time.sleep(wait_s)
