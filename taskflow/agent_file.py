"""The node agent as one file that a bare Python runs, made of what is installed here.

In it is the agent, what it imports of this package, and the pure-Python half of what those need: nothing is installed
on the machine that runs it, and nothing of this machine's platform gets there. The oldest Python that will do is what
its parts say of themselves; an older one is refused with a sentence. The same installation gives the same bytes, and
the name says which: ``agent-<hash>.pyz``.

``python -m taskflow.agent_file OUT`` writes it.
"""

from __future__ import annotations

import ast
import hashlib
import io
import os
import secrets
import sys
import threading
import zipfile
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path, PurePosixPath

import structlog
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import taskflow
from taskflow.errors import InfrastructureError
from taskflow.file_lock import FileLock
from taskflow.files import sync_directory

log = structlog.get_logger(__name__)

_PACKAGE = "taskflow"
_AGENT = "taskflow.agent"
#: Pythons that the agent may run on. What one of them requires has to be in the file, whatever Python builds it.
_PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
#: What is taken of a distribution. A compiled module would be one of this machine's; each has a twin in Python.
_TAKEN = frozenset({".py", ".pem"})
_SHEBANG = b"#!/usr/bin/env python3\n"
_MAIN = '''\
"""Runs the node agent from this file."""

import os
import sys

if sys.version_info < {python}:
    sys.exit("taskflow agent: Python {text} or newer is needed; this is " + sys.version.split()[0])

# The agent's helpers are started in other directories and import from here too.
sys.path[0] = os.path.abspath(sys.path[0])

import logging  # noqa: E402

import certifi.core  # noqa: E402

from taskflow.agent.__main__ import main  # noqa: E402

status = main(sys.argv[1:])
logging.shutdown()
certifi.core.exit_cacert_ctx()  # the certificates were unpacked for this process
# Not sys.exit: threads may hang in a request; all state is on disk.
os._exit(status)
'''
#: What stands in for a compiled part that only an older Python needs and the agent makes no use of, by distribution.
#: marshmallow asks for a backport that teaches ``datetime.fromisoformat`` more forms: the wire format has no dates.
_STAND_INS: dict[str, dict[str, bytes]] = {
    "backports-datetime-fromisoformat": {
        "backports/__init__.py": b"",
        "backports/datetime_fromisoformat.py": (
            b"class MonkeyPatch:\n"
            b"    @staticmethod\n"
            b"    def patch_fromisoformat():\n"
            b'        """Nothing: what is sent and received here holds no dates."""\n'
        ),
    },
}
_BUILD_WAIT_S = 120.0


class AgentFile:
    """The file of this installation in ``directory``, made when it is first asked for, by one process at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._mutex = threading.Lock()
        self._path: Path | None = None

    def path(self) -> Path:
        """Where it is. Raises ``InfrastructureError`` when it can't be made."""
        with self._mutex:
            if self._path is None or not self._path.exists():
                self._path = agent_file(self._directory)
            return self._path


def agent_file(directory: Path) -> Path:
    """Make ``agent-<hash>.pyz`` in ``directory`` unless it is there. A crash leaves all of it or none.

    Raises ``InfrastructureError`` when the directory can't be written, or the installation lacks a part of it.
    """
    content = _content()
    path = directory / f"agent-{_fingerprint(content)}.pyz"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = FileLock(directory / ".agent.lock")
        if not lock.acquire(wait_s=_BUILD_WAIT_S):
            raise InfrastructureError(f"another process has been making {path.name} for {_BUILD_WAIT_S:.0f} s")
        try:
            if not path.exists():
                _write(path, _archive(content))
        finally:
            lock.release()
    except OSError as error:
        raise InfrastructureError(
            f"the agent's file can't be written to {directory}: {error}", advice="see that there is room, and access"
        ) from error
    return path


def _content() -> dict[str, bytes]:
    """All files by their names in the archive."""
    files = dict(_own_files())
    needed, absent = _closure(_imported(files.values()))
    for distribution in needed:
        files |= _files_of(distribution)
    for name in absent:
        files |= _STAND_INS.get(name, {})
    oldest = _oldest_python(needed)
    version = tuple(int(part) for part in oldest.split("."))
    files["__main__.py"] = _MAIN.replace("{python}", str(version)).replace("{text}", oldest).encode()
    return files


# --- our own modules


def _own_files() -> Iterator[tuple[str, bytes]]:
    """The agent, and what it imports of this package, and so on."""
    home = Path(next(iter(taskflow.__path__)))
    waiting = [f"{_PACKAGE}/__init__.py"]
    waiting += sorted(found.relative_to(home.parent).as_posix() for found in (home / "agent").rglob("*.py"))
    known: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in known:
            continue
        known.add(name)
        text = (home.parent / name).read_bytes()
        waiting += [found for module in _modules(text) if (found := _file_of(home.parent, module)) is not None]
        yield name, text


def _file_of(root: Path, module: str) -> str | None:
    """The file of one of our own modules; None when the name is another's, or one inside of a module."""
    if module.partition(".")[0] != _PACKAGE:
        return None
    stem = module.replace(".", "/")
    return next((name for name in (f"{stem}.py", f"{stem}/__init__.py") if (root / name).is_file()), None)


def _modules(text: bytes) -> Iterator[str]:
    """What a source file imports, inside of functions too. ``from a import b`` may mean the module ``a.b``."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


# --- what they need


def _imported(sources: Iterable[bytes]) -> list[str]:
    """The distributions that these files import from, without the standard library."""
    tops = {module.partition(".")[0] for text in sources for module in _modules(text)}
    providers = metadata.packages_distributions()
    foreign = sorted(tops - set(sys.stdlib_module_names) - {_PACKAGE})
    return [name for top in foreign for name in providers.get(top, [top])]


def _closure(names: Iterable[str]) -> tuple[list[metadata.Distribution], list[str]]:
    """These distributions and all that they require on some Python that the agent runs on; and which of the latter are
    not installed, because this Python does not need them."""
    found: dict[str, metadata.Distribution] = {}
    absent: set[str] = set()
    waiting = [(name, True) for name in names]
    while waiting:
        name, needed_here = waiting.pop()
        if canonicalize_name(name) in found:
            continue
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            if needed_here:
                raise InfrastructureError(f"{name}, which the node agent needs, is not installed") from None
            absent.add(canonicalize_name(name))
            if canonicalize_name(name) not in _STAND_INS:
                log.warning("agent_file_lacks", distribution=name)  # some older or newer Python would need it
            continue
        found[canonicalize_name(name)] = distribution
        for requirement in map(Requirement, distribution.requires or ()):
            marker = requirement.marker
            if marker is None or any(marker.evaluate(_environment(python)) for python in _PYTHONS):
                waiting.append((requirement.name, marker is None or marker.evaluate({"extra": ""})))
    return [found[name] for name in sorted(found)], sorted(absent)


def _environment(python: str) -> dict[str, str]:
    return {
        "extra": "", "python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux",
        "platform_system": "Linux", "os_name": "posix", "implementation_name": "cpython",
    }  # fmt: skip


def _oldest_python(distributions: Iterable[metadata.Distribution]) -> str:
    """The oldest Python that all of them run on."""
    said = [found.metadata for found in distributions]
    wanted = [SpecifierSet(about["Requires-Python"]) for about in said if "Requires-Python" in about]
    for python in _PYTHONS:
        if all(specifier.contains(f"{python}.99") for specifier in wanted):  # the last of its line
            return python
    raise InfrastructureError("no Python runs all that the node agent needs as it is installed here")


def _files_of(distribution: metadata.Distribution) -> dict[str, bytes]:
    if distribution.files is None:
        raise InfrastructureError(f"{distribution.metadata['Name']} was installed without a list of its files")
    taken = {}
    for file in distribution.files:
        name = PurePosixPath(file)
        about = name.parts[0].endswith(".dist-info")
        wanted = name.name == "METADATA" or "LICENSE" in name.name.upper() if about else name.suffix in _TAKEN
        if wanted and ".." not in name.parts and not name.is_absolute():
            taken[name.as_posix()] = Path(str(file.locate())).read_bytes()
    return taken


# --- the archive


def _fingerprint(content: dict[str, bytes]) -> str:
    whole = hashlib.sha256()
    for name in sorted(content):
        whole.update(f"{name}\0{hashlib.sha256(content[name]).hexdigest()}\n".encode())
    return whole.hexdigest()[:16]


def _archive(content: dict[str, bytes]) -> bytes:
    """The archive. Neither times nor the order of a directory are in it.

    Directories have entries of their own: without them older Pythons find no namespace package in an archive.
    """
    directories = {f"{parent}/" for name in content for parent in PurePosixPath(name).parents if parent.name}
    buffer = io.BytesIO()
    buffer.write(_SHEBANG)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(directories | set(content)):
            entry = zipfile.ZipInfo(name)  # its time is that of 1980
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            entry.external_attr = (0o40755 << 16) | 0x10 if name.endswith("/") else 0o100644 << 16
            archive.writestr(entry, content.get(name, b""))
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with aside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.chmod(0o644)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    sync_directory(path.parent)


def main(argv: list[str]) -> int:
    """Write the agent's file to the path that is given. Returns the exit status."""
    if len(argv) != 1 or argv[0].startswith("-"):
        print("usage: python -m taskflow.agent_file OUT", file=sys.stderr)
        return 2
    out = Path(argv[0])
    out.parent.mkdir(parents=True, exist_ok=True)
    _write(out, _archive(_content()))
    print(f"{out}: {out.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
