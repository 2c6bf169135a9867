"""Two releases of the product: ``newer`` is the same with the version of every pipeline raised by one.

A process is newer when the file ``$CHAOS_DIR/newer-<name>`` exists at its start, with ``<name>`` from ``$CHAOS_PROCESS``.
What an older process does to a run of a newer version is noted in ``$CHAOS_DIR/meddled``.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from taskflow.bootstrap import App
from taskflow.engine.outcomes import Snooze

DIRECTORY = Path(os.environ["CHAOS_DIR"])
IS_NEWER = (DIRECTORY / f"newer-{os.environ['CHAOS_PROCESS']}").exists()


def released(wired: App) -> App:
    """``wired`` as this process' release, watched for steps of runs that are too new for it."""
    if getattr(wired, "chaos_released", False):
        return wired
    wired.chaos_released = True  # type: ignore[attr-defined]
    if IS_NEWER:
        for name, pipeline in list(wired.pipelines.items()):
            wired.pipelines[name] = dataclasses.replace(pipeline, version=pipeline.version + 1)
    decide = wired.runner._decide

    def deciding(turn: Any) -> Any:
        decision = decide(turn)
        known = wired.pipelines[turn.row.pipeline].version
        if turn.row.version > known and not isinstance(decision, Snooze):
            with (DIRECTORY / "meddled").open("a") as notes:
                notes.write(f"{turn.row.id} of version {turn.row.version} was stepped by version {known}\n")
        return decision

    wired.runner._decide = deciding  # type: ignore[method-assign]
    return wired
