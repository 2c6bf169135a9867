"""Preparing a workspace: clone, output branch, setup command. Runs in a job process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskflow.addresses import AddressRefused, check_resolved, repository_host
from taskflow.agent.git import Deadline, Git, JobFailure, run
from taskflow.agent.places import private_directory, remove_tree


@dataclass(frozen=True)
class ProvisionOrder:
    """What to prepare. ``git_env`` and ``setup_env`` are whole environments."""

    repo: str
    repository: str
    branch: str | None
    output_branch: str
    setup_command: list[str] | None
    git_env: dict[str, str]
    setup_env: dict[str, str]
    timeout_s: float
    private_hosts: bool = True


def provision(order: ProvisionOrder) -> dict[str, Any]:
    """Make the working tree anew and return base_commit, origin_url, cloned_branch and default_branch.

    Raises ``JobFailure``. A half-made tree of an earlier attempt is removed first.
    """
    repo = Path(order.repo)
    deadline = Deadline(order.timeout_s)
    private_directory(repo.parent)
    remove_tree(repo)
    _check_host(order.repository, order.private_hosts)
    git = Git(repo, order.git_env, deadline)
    asked = ["--branch", order.branch] if order.branch is not None else []
    git.must("clone", *asked, "--", order.repository, str(repo), phase="clone", cwd=repo.parent)
    base = git.must("rev-parse", "--verify", "HEAD^{commit}", phase="clone").text
    found = {
        "base_commit": base,
        "origin_url": git.must("config", "remote.origin.url", phase="clone").text,
        "cloned_branch": git.ask("symbolic-ref", "--quiet", "--short", "HEAD").text or None,
        "default_branch": git.ask("symbolic-ref", "--quiet", "--short", "refs/remotes/origin/HEAD").text.removeprefix(
            "origin/"
        )
        or None,
    }
    git.must("checkout", "--quiet", "--no-track", "-B", order.output_branch, phase="branch")
    if order.setup_command:
        _set_up(order.setup_command, repo, order.setup_env, deadline)
    return found


def _check_host(repository: str, private: bool) -> None:
    """Refuse to fetch from where a node must not be sent. A name may resolve otherwise a moment later: see SECURITY.md."""
    host = repository_host(repository)
    try:
        if host:
            check_resolved(host, private=private)
    except AddressRefused as error:
        raise JobFailure("repository_refused", f"the repository's host {host} {error}", "clone") from error


def _set_up(command: list[str], repo: Path, env: Mapping[str, str], deadline: Deadline) -> None:
    done = run(command, cwd=repo, env=env, deadline=deadline, phase="setup", merge=True)
    if done.code != 0:
        how = f"ended with status {done.code}" if done.code > 0 else f"was killed by signal {-done.code}"
        raise JobFailure("setup_failed", f"{command[0]} {how}\n{done.err}".strip(), "setup")
