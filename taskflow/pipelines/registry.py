"""Finding pipelines of one's own: those of the entry points ``taskflow.pipelines``, and those that the setting names."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from typing import NoReturn

from taskflow.engine.pipeline import Pipeline
from taskflow.errors import UsageError
from taskflow.pipelines.tools import Tools
from taskflow.settings import Settings

GROUP = "taskflow.pipelines"
SETTING = "TASKFLOW_PIPELINES"
#: Names of what is shipped.
SHIPPED = frozenset({"agent_task", "node"})
#: What a registered attribute is: a pipeline, or a function that makes one.
Declared = Pipeline | Callable[[Tools], Pipeline]

#: What a signal may be called.
SIGNAL = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,63}")


def declared(settings: Settings) -> list[tuple[str, object]]:
    """What is registered, imported, each with where it was named.

    Raises ``UsageError`` saying which can't be imported and why.
    """
    found: list[tuple[str, object]] = []
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        where = f"entry point {GROUP}: {point.name} = {point.value}"
        found.append((where, _imported(where, point.load)))
    for name in filter(None, (part.strip() for part in settings.pipelines.split(","))):
        where = f"{SETTING}: {name}"
        found.append((where, _imported(where, lambda name=name: named(name))))  # type: ignore[misc]
    return found


def own_pipelines(found: Iterable[tuple[str, object]], tools: Tools | None) -> list[Pipeline]:
    """The pipelines of ``declared``; without ``tools`` those that need none.

    Raises ``UsageError`` for what is none, and for a name that is taken.
    """
    made: dict[str, Pipeline] = {}
    sources: dict[str, str] = {}
    for where, what in found:
        pipeline = what
        if not isinstance(what, Pipeline) and callable(what):
            if tools is None:
                continue
            pipeline = _imported(where, lambda what=what: what(tools))  # type: ignore[misc]
        if not isinstance(pipeline, Pipeline):
            _refuse(where, f"is {type(pipeline).__name__}, not a Pipeline or a function that returns one")
        if not _NAME.fullmatch(pipeline.name):
            _refuse(
                where, f"the name {pipeline.name!r} must be lower case letters, digits, '_', '.' and '-', 64 at most"
            )
        if any(len(step.name) > 64 or step.name.startswith("$") for step in pipeline.steps):
            _refuse(where, "a step's name has 64 characters at most and does not begin with $")
        unsendable = sorted(name for name in pipeline.signals if not SIGNAL.fullmatch(name))
        if unsendable:
            _refuse(
                where, f"nobody can send the signal {unsendable[0]!r}: letters, digits, '_', '.' and '-', 64 at most"
            )
        if pipeline.name in SHIPPED:
            _refuse(where, f"the name {pipeline.name} is taskflow's own")
        if made.get(pipeline.name, pipeline) is not pipeline:
            _refuse(where, f"the name {pipeline.name} is taken by {sources[pipeline.name]}")
        made[pipeline.name] = pipeline
        sources[pipeline.name] = where
    return list(made.values())


def check(settings: Settings) -> None:
    """Raise ``UsageError`` for what no process could use, as far as that is known before there are stores."""
    own_pipelines(declared(settings), None)


def named(name: str) -> object:
    """What ``module:attribute`` names. Raises ``ValueError``, or whatever importing the module raises."""
    module, colon, path = name.partition(":")
    if not (module and colon and path):
        raise ValueError("must be module:attribute")
    found: object = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def _imported(where: str, load: Callable[[], object]) -> object:
    try:
        return load()
    except Exception as error:  # whatever somebody else's module raises
        _refuse(where, f"{type(error).__name__}: {error}", error)


def _refuse(where: str, why: str, cause: Exception | None = None) -> NoReturn:
    advice = f"mend or remove it in {SETTING}, or in the entry point of its distribution"
    if isinstance(cause, ModuleNotFoundError):
        advice = f"is the directory that holds it in PYTHONPATH, or its package installed for {sys.executable}?"
    raise UsageError(
        f"a pipeline can't be used: {where}: {why}", code="pipelines", fields={SETTING: why}, advice=advice
    ) from cause
