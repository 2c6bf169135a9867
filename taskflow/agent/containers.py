"""Running a workspace's commands in a container, by podman or docker, as the workspace's user.

The engine's client runs with the agent's rights. So nothing that a task chose is in its environment (``LD_PRELOAD``
would be code of the task's in there), and no value is in its arguments or in the container's description, which the
engine writes to its disk: the variables reach the command through its standard input, which a shell reads first.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from taskflow.agent.confinement import COMMON, OPEN_FILES_MAX, Confinement
from taskflow.agent.problems import StartRefused

ENGINES = ("podman", "docker")
_CLIENT_NAMES = frozenset(("PATH", "HOME", "XDG_RUNTIME_DIR", "LANG"))
_CLIENT_PREFIXES = ("CONTAINERS_", "DOCKER_", "REGISTRY_")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_VERSION_LIMIT_S = 20.0
_END_LIMIT_S = 20.0
_ENTRY = 'eval "$(cat)"; exec "$@" </dev/null'


@dataclass(frozen=True)
class Launch:
    """What to start for a command: arguments, environment, an open standard input (close it), and what holds it."""

    argv: list[str]
    env: dict[str, str]
    stdin: int
    confinement: Confinement


def find_engine(environ: Mapping[str, str]) -> str:
    """The path of the engine to use. Raises ``StartRefused`` when none is there or it does not answer."""
    for name in ENGINES:
        path = shutil.which(name, path=environ.get("PATH"))
        if path is None:
            continue
        try:
            done = subprocess.run(
                [path, "version"], env=client_env(environ), capture_output=True, text=True, check=False,
                timeout=_VERSION_LIMIT_S, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            raise StartRefused(f"commands are to run in containers, and {path} does not answer: {error}") from error
        if done.returncode != 0:
            words = (done.stderr or done.stdout).strip()[-300:]
            raise StartRefused(f"commands are to run in containers, and {path} does not answer: {words}")
        return path
    raise StartRefused(
        f"commands are to run in containers, and neither {' nor '.join(ENGINES)} is installed here: install one, or"
        " order the node without container_image"
    )


def client_env(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of the engine's client: only what the agent's own environment says of the engine."""
    return {
        name: value for name, value in environ.items() if name in _CLIENT_NAMES or name.startswith(_CLIENT_PREFIXES)
    }


def launch(command: list[str], env: Mapping[str, str], cwd: str, confinement: Confinement) -> Launch:
    """How to start ``command`` under its confinement, in a container or not. Raises ``OSError``."""
    if confinement.image is None:
        return Launch(command, dict(env), os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), confinement)
    assert confinement.engine is not None
    assert confinement.name is not None
    end(confinement.engine, confinement.name)  # one that an earlier command's engine did not get to remove
    for name in env:
        if not _IDENTIFIER.match(name):
            raise OSError(errno.EINVAL, f"a container's shell can't set a variable called {name!r}")
    text = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in env.items())
    # In memory: it holds the secrets.
    stdin = os.memfd_create("environment", os.MFD_CLOEXEC)
    data = memoryview(text.encode("utf-8", "surrogateescape"))
    while data:
        data = data[os.write(stdin, data) :]
    os.lseek(stdin, 0, os.SEEK_SET)
    argv = [*_run_argv(confinement, cwd), "-c", _ENTRY, "sh", *command]
    return Launch(argv, client_env(os.environ), stdin, COMMON)


def _run_argv(confinement: Confinement, cwd: str) -> list[str]:
    user = f"{confinement.uid}:{confinement.uid}"
    options = [
        "--rm", "--interactive", "--init", "--name", str(confinement.name), "--network", "host", "--user", user,
        "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
        "--security-opt", "label=disable", "--entrypoint", "/bin/sh", "--workdir", cwd,
        "--pids-limit", str(confinement.processes), "--ulimit", f"nproc={confinement.processes}:{confinement.processes}",
        "--ulimit", f"nofile={OPEN_FILES_MAX}:{OPEN_FILES_MAX}", "--ulimit", "core=0:0",
    ]  # fmt: skip
    if confinement.memory_mb:
        options += ["--memory", f"{confinement.memory_mb}m"]
    if confinement.vcpus:
        options += ["--cpus", f"{confinement.vcpus:g}"]
    for path in (cwd, confinement.home, confinement.tmp):
        options += ["--volume", f"{path}:{path}"]
    return [str(confinement.engine), "run", *options, str(confinement.image)]


def end(engine: str, name: str) -> None:
    """Remove the container and all that runs in it. Missing is fine."""
    try:
        subprocess.run(
            [engine, "rm", "--force", name], env=client_env(os.environ), check=False, timeout=_END_LIMIT_S,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=Path("/"),
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        pass  # its user's processes are ended one by one as well, and the next look tries again
