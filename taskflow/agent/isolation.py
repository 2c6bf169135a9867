"""Keeps workspaces apart from the node and from each other: gives each its confinement, and takes it back.

The confinement of a workspace is written into its directory before it is used. So an agent that is killed at any
moment finds it again: the user whose processes have to be ended, the control group that has to go.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import stat
from pathlib import Path
from typing import Any

from taskflow.agent import users
from taskflow.agent.cgroups import Cgroups
from taskflow.agent.confinement import PROCESSES_MAX, Confinement
from taskflow.agent.containers import find_engine
from taskflow.agent.killing import end_all, give_back
from taskflow.agent.places import Places, private_directory, read_json, remove_tree, write_json
from taskflow.agent.problems import StartRefused

log = logging.getLogger(__name__)

#: Others may pass through to what is theirs, and see nothing on the way.
_PASSAGE = 0o711


class Isolation:
    """The confinements of this node's workspaces. Its callers hold the lock of the workspace, or run before any does."""

    def __init__(self, places: Places, *, isolate: bool, image: str | None = None) -> None:
        """Look what this machine can do. Raises ``StartRefused`` when isolation is ordered and can't be had."""
        self._places = places
        self._isolate = isolate
        self._image = image
        root = os.geteuid() == 0
        if isolate:
            if not root:
                raise StartRefused(
                    "the node's order says isolate, and only root can give each workspace a user of its own: run the"
                    " agent as root, or order the node without it"
                )
            _open_passage(places.root)
        if image is not None and not isolate:
            raise StartRefused(
                "the node's order says container_image without isolate: a container needs a user to run as"
            )
        self._engine = find_engine(os.environ) if image is not None else None
        self._cgroups = Cgroups.find() if root else None
        if isolate and self._cgroups is None and image is None:
            log.warning(
                "no control groups (version 2) with memory and pids can be made here: a workspace's memory is not"
                " limited, its number of processes only by the user's limit"
            )

    def prepare(self, workspace_id: str, limits: dict[str, Any] | None) -> Confinement:
        """Make the workspace's directory and its confinement, or make it again after an attempt that was cut short.

        Raises ``NoUserLeft``, ``OSError``.
        """
        directory = private_directory(self._places.workspace(workspace_id))
        path = self._places.confinement(workspace_id)
        given = limits or {}
        made = Confinement(
            processes=given.get("processes") or PROCESSES_MAX,
            vcpus=given.get("vcpus") or 0.0,
            memory_mb=given.get("memory_mb") or 0,
        )
        if self._image is not None:
            made = dataclasses.replace(made, engine=self._engine, image=self._image, name=f"taskflow-{workspace_id}")
        if self._isolate:
            made = self._with_user(workspace_id, made)
            directory.chmod(_PASSAGE)
        write_json(path, dataclasses.asdict(made))
        # A container's limits are its engine's to hold.
        if self._cgroups is not None and self._image is None and (self._isolate or any(given.values())):
            group = self._cgroups.make(
                workspace_id, vcpus=made.vcpus, memory_mb=made.memory_mb, processes=made.processes
            )
            made = dataclasses.replace(made, cgroup=str(group))
            write_json(path, dataclasses.asdict(made))
        return made

    def of(self, workspace_id: str) -> Confinement:
        """The confinement a workspace was prepared with; that of everybody when it has none of its own."""
        return Confinement.of(read_json(self._places.confinement(workspace_id)))

    def end(self, workspace_id: str) -> None:
        """End all that runs in the workspace. Raises ``OSError`` when something can't be ended."""
        if left := end_all(self.of(workspace_id)):
            raise OSError(f"workspace {workspace_id}: processes {left} can't be ended")

    def release(self, workspace_id: str) -> None:
        """Take back what the workspace had outside its directory, once nothing runs in it. Raises ``OSError``."""
        give_back(self.of(workspace_id))

    def _with_user(self, workspace_id: str, made: Confinement) -> Confinement:
        path = self._places.confinement(workspace_id)
        home, tmp = self._places.home(workspace_id), self._places.tmp(workspace_id)

        def held_by(uid: int) -> Confinement:
            return dataclasses.replace(made, uid=uid, home=str(home), tmp=str(tmp))

        earlier = self.of(workspace_id).uid
        if earlier is None:
            earlier = users.take(path, lambda uid: write_json(path, dataclasses.asdict(held_by(uid))))
        for own in (home, tmp):
            remove_tree(own)
            own.mkdir(mode=0o700)
            os.chown(own, earlier, earlier)
        return held_by(earlier)


def _open_passage(root: Path) -> None:
    """Let users reach their workspaces under ``root``. What lies beside them is for the agent alone.

    Raises ``StartRefused``: above the root nothing is changed.
    """
    for parent in root.parents:
        if not parent.stat().st_mode & stat.S_IXOTH:
            raise StartRefused(
                f"users of workspaces can't reach {root}: {parent} lets nobody pass; choose another directory for the"
                f" agent, or: chmod o+x {parent}"
            )
    for directory in (root, root / "workspaces"):
        directory.chmod(_PASSAGE)
    for entry in root.iterdir():
        if entry.is_file() and not entry.is_symlink():
            entry.chmod(0o600)
