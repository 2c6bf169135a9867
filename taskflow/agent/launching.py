"""Starting the agent's own helper processes, and the environments that helpers and commands get."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

import taskflow
from taskflow.agent.confinement import Confinement
from taskflow.agent.marks import AGENT_ROOT

#: What a session sees of the host besides what its task gives it. A short list: the host's own secrets often lie in
#: its environment.
_SESSION_ALLOWS = frozenset(
    ("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TERM", "SHELL", "TMPDIR", "SSH_AUTH_SOCK", "XDG_CONFIG_HOME")
)
#: Kept in every environment: leftovers are found by them.
_MARKS = frozenset(("TASKFLOW_DATA_DIR", AGENT_ROOT))
#: Of these, what leads to the agent's user's own: its keys, its configuration, its directories.
_AGENT_ONLY = ("SSH_AUTH_SOCK", "XDG_CONFIG_HOME", "TMPDIR")
_USER_NAME = "workspace"
#: Variables that would point git at some other repository than the one it is run in.
_GIT_DROPS = frozenset(
    (
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_OBJECT_DIRECTORY",
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_NAMESPACE",
        "GIT_PREFIX",
        "SSH_ASKPASS",
    )
)


def helper_argv(module: str, *arguments: str) -> list[str]:
    """The command line of one of the agent's own modules, run by the same Python."""
    return [sys.executable, "-m", f"taskflow.agent.{module}", *arguments]


def helper_env(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a helper: ``environ`` plus where this package was imported from (a directory or a zip)."""
    home = str(Path(next(iter(taskflow.__path__))).parent)
    return {**environ, "PYTHONPATH": home}


def session_env(environ: Mapping[str, str]) -> dict[str, str]:
    """What of the host's environment a session's command sees."""
    return {
        name: value
        for name, value in environ.items()
        if name in _SESSION_ALLOWS or name.startswith("LC_") or name in _MARKS
    }


def workspace_env(environ: Mapping[str, str], confinement: Confinement) -> dict[str, str]:
    """What set-up and sessions of a workspace see of the host: with a user of their own, nothing that is the agent's."""
    env = session_env(environ)
    if confinement.uid is None:
        return env
    for name in _AGENT_ONLY:
        env.pop(name, None)
    assert confinement.home is not None
    assert confinement.tmp is not None
    own = {"HOME": confinement.home, "TMPDIR": confinement.tmp, "SHELL": "/bin/sh"}
    env["PATH"] = os.pathsep.join(entry for entry in env.get("PATH", os.defpath).split(os.pathsep) if _is_open(entry))
    if confinement.image is not None:
        del env["PATH"], own["SHELL"]  # an image has its own
    return {**env, **own, "USER": _USER_NAME, "LOGNAME": _USER_NAME}


def _is_open(entry: str) -> bool:
    """Whether any user can use a directory of PATH. One that none can would make every missing program a forbidden one."""
    try:
        path = Path(entry).resolve()
        return all(directory.stat().st_mode & stat.S_IXOTH for directory in (path, *path.parents))
    except OSError:
        return False


def tree_git_env(environ: Mapping[str, str], confinement: Confinement) -> dict[str, str]:
    """The environment of git in a workspace's tree. As the agent's user it has that one's credentials, else none."""
    return git_env(environ if confinement.uid is None else workspace_env(environ, confinement))


def git_env(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment git runs in: the host's, so that credential helpers, agents and proxies work, but never a prompt.

    Our own variables are left out: among them are the stack's secrets.
    """
    env = {
        name: value
        for name, value in environ.items()
        if (name not in _GIT_DROPS and not name.startswith(("TASKFLOW_", "PYTHON"))) or name in _MARKS
    }
    env["GIT_TERMINAL_PROMPT"] = "0"
    env["GIT_ASKPASS"] = ""  # empty is "none", and unlike unset it does not fall back to core.askPass
    env["GCM_INTERACTIVE"] = "never"
    env["GIT_ALLOW_PROTOCOL"] = "file:git:http:https:ssh"  # not ext::, which runs a command
    env.pop("VIRTUAL_ENV", None)
    return env


def task_env(run: Mapping[str, object], workspace_id: str) -> dict[str, str]:
    """The variables that say for which task a process runs; leftovers are found by them."""
    return {
        "TASKFLOW_TASK_ID": str(run["task_id"]),
        "TASKFLOW_RUN_NUMBER": str(run["run_number"]),
        "TASKFLOW_WORKSPACE_ID": workspace_id,
    }
