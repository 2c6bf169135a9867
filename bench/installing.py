"""Peers that are not packages of ours: installed once, pinned, into a cache outside the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.subjects import Missing

_TIMEOUT_S = 600.0


def cache() -> Path:
    """Where they are kept: ``$XDG_CACHE_HOME/taskflow-bench``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "taskflow-bench"


def python_of(name: str, packages: Mapping[str, str]) -> Path:
    """The interpreter of a virtual environment with ``packages`` (name -> version). Raises ``Missing``."""

    def install(folder: Path) -> None:
        pins = [f"{package}=={version}" for package, version in packages.items()]
        _run([sys.executable, "-m", "venv", str(folder)], name)
        _run([str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *pins], name)

    return _installed(name, packages, install) / "bin" / "python"


def npm_folder(name: str, packages: Mapping[str, str]) -> Path:
    """The folder whose ``node_modules`` holds ``packages`` (name -> version). Raises ``Missing``."""

    def install(folder: Path) -> None:
        if shutil.which("npm") is None:
            raise Missing(f"{name} comes from the npm registry, and there is no npm here")
        pins = [f"{package}@{version}" for package, version in packages.items()]
        _run(["npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", str(folder), *pins], name)

    return _installed(name, packages, install)


def _installed(name: str, packages: Mapping[str, str], install: Callable[[Path], None]) -> Path:
    """A folder named after what is in it. One that was not finished is not taken for one that was."""
    folder = cache() / "-".join([name, *packages.values()])
    done = folder / "installed"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        print(f"installing {name} into {folder}", file=sys.stderr, flush=True)
        install(folder)
        done.touch()
    return folder


def _run(argv: Sequence[str], name: str) -> None:
    with tempfile.TemporaryFile("w+") as said:
        try:
            failed = subprocess.run(argv, stdout=said, stderr=said, timeout=_TIMEOUT_S, check=False).returncode
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Missing(f"{name} can't be installed: {error}") from error
        if failed:
            said.seek(0)
            raise Missing(f"{name} can't be installed: {' '.join(said.read().split())[-300:]}")
