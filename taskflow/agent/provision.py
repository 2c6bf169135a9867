"""Preparing a workspace: clone, output branch, setup command. Runs in a job process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskflow.addresses import AddressRefused, check_resolved, repository_host
from taskflow.agent.confinement import COMMON, Confinement
from taskflow.agent.containers import launch
from taskflow.agent.git import Deadline, Git, JobFailure, run
from taskflow.agent.handover import give
from taskflow.agent.places import private_directory, remove_tree


@dataclass(frozen=True)
class ProvisionOrder:
    """What to prepare. The three ``env`` are whole environments: of the agent's git, of the tree's git, of the set-up.

    ``clean`` is where an isolated workspace's clone is kept from it; None where tree and clone are one.
    """

    repo: str
    repository: str
    branch: str | None
    output_branch: str
    setup_command: list[str] | None
    git_env: dict[str, str]
    setup_env: dict[str, str]
    timeout_s: float
    private_hosts: bool = True
    clean: str | None = None
    tree_env: dict[str, str] | None = None
    confinement: Confinement = COMMON


def provision(order: ProvisionOrder) -> dict[str, Any]:
    """Make the working tree anew and return base_commit, origin_url, cloned_branch and default_branch.

    Raises ``JobFailure``. A half-made tree of an earlier attempt is removed first.
    """
    repo, clean = Path(order.repo), Path(order.clean or order.repo)
    deadline = Deadline(order.timeout_s)
    if clean == repo:
        private_directory(repo.parent)
    for earlier in {repo, clean}:
        remove_tree(earlier)
    _check_host(order.repository, order.private_hosts)
    found = _clone(order, clean, deadline)
    tree = Git(repo, order.git_env, deadline)
    if order.confinement.uid is not None:
        # Nothing is checked out with the agent's rights: filters that the commits name run as the workspace's user.
        give(clean, repo, order.confinement.uid)
        tree = Git(repo, order.tree_env or {}, deadline, order.confinement)
    tree.must("checkout", "--quiet", "--no-track", "-B", order.output_branch, phase="branch")
    if order.setup_command:
        _set_up(order.setup_command, repo, order.setup_env, deadline, order.confinement)
    return found


def _clone(order: ProvisionOrder, clean: Path, deadline: Deadline) -> dict[str, Any]:
    git = Git(clean, order.git_env, deadline)
    options = ["--quiet"] if order.branch is None else ["--quiet", "--branch", order.branch]  # its progress is no cause
    if order.clean is not None:
        private_directory(clean)
        options.append("--no-checkout")
    git.must("clone", *options, "--", order.repository, str(clean), phase="clone", cwd=clean.parent)
    return {
        "base_commit": git.must("rev-parse", "--verify", "HEAD^{commit}", phase="clone").text,
        "origin_url": git.must("config", "remote.origin.url", phase="clone").text,
        "cloned_branch": git.ask("symbolic-ref", "--quiet", "--short", "HEAD").text or None,
        "default_branch": git.ask("symbolic-ref", "--quiet", "--short", "refs/remotes/origin/HEAD").text.removeprefix(
            "origin/"
        )
        or None,
    }


def _check_host(repository: str, private: bool) -> None:
    """Refuse to fetch from where a node must not be sent. A name may resolve otherwise a moment later: see SECURITY.md."""
    host = repository_host(repository)
    try:
        if host:
            check_resolved(host, private=private)
    except AddressRefused as error:
        raise JobFailure("repository_refused", f"the repository's host {host} {error}", "clone") from error


def _set_up(
    command: list[str], repo: Path, env: Mapping[str, str], deadline: Deadline, confinement: Confinement
) -> None:
    before = confinement.memory_kills()
    try:
        how = launch(command, env, str(repo), confinement)
    except OSError as error:
        raise JobFailure("not_started", f"{command[0]}: {error.strerror}", "setup") from error
    try:
        done = run(
            how.argv, cwd=repo, env=how.env, deadline=deadline, phase="setup", merge=True, stdin=how.stdin,
            confinement=how.confinement,
        )  # fmt: skip
    finally:
        os.close(how.stdin)
    if done.code != 0 and confinement.memory_kills() > before:
        raise JobFailure("out_of_memory", f"{command[0]}: {confinement.memory_message()}\n{done.err}".strip(), "setup")
    if done.code != 0:
        end = f"ended with status {done.code}" if done.code > 0 else f"was killed by signal {-done.code}"
        raise JobFailure("setup_failed", f"{command[0]} {end}\n{done.err}".strip(), "setup")
