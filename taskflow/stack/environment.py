"""The environment of the stack's processes: the settings in force, where they live, their lifeline."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from taskflow.settings import SET_BY_STACK, Settings, table

DATA_DIR = "TASKFLOW_DATA_DIR"
LIFELINE = "TASKFLOW_LIFELINE"
READY_FILE = "TASKFLOW_READY_FILE"
WORKSPACE_ID = "TASKFLOW_WORKSPACE_ID"


def child_environment(
    settings: Settings, lifeline: Path, environ: Mapping[str, str] | None = None, *, with_secrets: bool = True
) -> dict[str, str]:
    """The whole environment of a child that shall see exactly ``settings``.

    ``environ`` (default: this process') gives everything else. Without ``with_secrets`` the secret settings are left
    out, also those of ``environ``: a node's sessions run other people's commands.
    """
    child = dict(os.environ if environ is None else environ)
    given = {name for name, value in child.items() if value}
    for row in table():
        child.pop(row.env, None)
        value = getattr(settings, row.name)
        if value != row.default and (with_secrets or not row.secret):
            child[row.env] = _text(value)
    child[DATA_DIR] = str(settings.data_path.expanduser().absolute())
    child[SET_BY_STACK] = ",".join(row.env for row in table() if row.env in child and row.env not in given)
    child[LIFELINE] = str(lifeline)
    child["PYTHONUNBUFFERED"] = "1"
    if child.get("PYTHONPATH"):
        child["PYTHONPATH"] = _anchored(child["PYTHONPATH"])
    # Children run in a directory of ours; nothing that lies in the user's may be imported in place of a package.
    child.pop("PYTHONSTARTUP", None)
    return child


def anchored_database_url(url: str) -> str:
    """``url`` with a relative SQLite path made absolute: the stack's processes run in another directory."""
    scheme, separator, path = url.partition(":///")
    if not separator or not scheme.startswith("sqlite") or not path or path.startswith(("/", ":", "file:")):
        return url
    return f"{scheme}:///{Path(path).absolute()}"


def _anchored(paths: str) -> str:
    """A list of directories made absolute, an empty one too: it means the directory in which it was typed."""
    return os.pathsep.join(str(Path(entry).absolute()) for entry in paths.split(os.pathsep))


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    return repr(value) if isinstance(value, float) else str(value)
