"""The pipeline ``export``: count what would leave, ask for approval, write it page by page, and delete it after a week.

Large results don't belong into a run: its pages are files, the run remembers how far it is.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from marshmallow import Schema, fields, validate

from taskflow.pipelines import Advance, AwaitSignal, Done, Outcome, PermanentError, Pipeline, Step, StepContext

APPROVE_WITHIN_S = 3 * 86_400.0
KEEP_S = 7 * 86_400.0
PAGE = 1000


class ExportInput(Schema):
    """What to export, and for whom."""

    table = fields.String(required=True, validate=validate.Regexp(r"[a-z_]{1,40}\Z", error="must be a table's name"))
    requested_by = fields.Email(required=True)


class Source(Protocol):
    """Where the rows come from."""

    def count(self, table: str) -> int:
        """How many there are."""

    def page(self, table: str, after: int, limit: int) -> Sequence[Sequence[str]]:
        """Rows number ``after`` + 1 and following."""


class Sample:
    """Rows to try it with."""

    def count(self, table: str) -> int:
        """See ``Source``."""
        return 2500

    def page(self, table: str, after: int, limit: int) -> Sequence[Sequence[str]]:
        """See ``Source``."""
        return [(str(number), f"{table} {number}") for number in range(after + 1, min(after + limit, 2500) + 1)]


class Export:
    """The steps."""

    def __init__(self, source: Source, directory: Path) -> None:
        self._source = source
        self._directory = directory

    def measure(self, ctx: StepContext) -> Outcome:
        """Say to who approves how much would leave."""
        rows = self._source.count(ctx.input["table"])
        if rows == 0:
            raise PermanentError(f"{ctx.input['table']} is empty", code="nothing_to_export")
        return Advance(ctx.next_step, {"rows": rows, "done": 0})

    def await_approval(self, ctx: StepContext) -> Outcome:
        """A person decides; nobody who asked for it."""
        said = ctx.take("approval")
        while said is not None and said.payload.get("by") == ctx.input["requested_by"]:
            said = ctx.take("approval")  # it may still come from somebody else
        if said is None:
            return AwaitSignal("approval")
        if not said.payload.get("approved"):
            raise PermanentError(f"refused by {said.payload.get('by')}", code="refused")
        return Advance(ctx.next_step, {"approved_by": said.payload.get("by")})

    def write(self, ctx: StepContext) -> Outcome:
        """One page, and again from the start of the step until all are there. A page that is written twice is the same."""
        done = ctx.results["done"]
        rows = self._source.page(ctx.input["table"], done, PAGE)
        if not rows:
            return Advance(ctx.next_step, {"deleted_at": ctx.now + KEEP_S})
        folder = self._folder(ctx)
        folder.mkdir(parents=True, exist_ok=True)
        aside = folder / f".{done:09}"
        with aside.open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        aside.rename(folder / f"{done:09}.csv")
        return Advance("write", {"done": done + len(rows)})

    def keep(self, ctx: StepContext) -> Outcome:
        """Leave it there for a week, or until somebody is done with it."""
        left_s = ctx.results["deleted_at"] - ctx.now
        if left_s <= 0 or ctx.take("downloaded") is not None:
            return Advance(ctx.next_step)
        return AwaitSignal("downloaded", poll_s=left_s)

    def delete(self, ctx: StepContext) -> Outcome:
        """Nothing of an export outlives its run, however that ended."""
        folder = self._folder(ctx)
        for file in folder.glob("*") if folder.exists() else ():
            file.unlink(missing_ok=True)
        if folder.exists():
            folder.rmdir()
        return Done({"rows": ctx.results.get("done", 0)})

    def _folder(self, ctx: StepContext) -> Path:
        return self._directory / ctx.run.id


def export(source: Source, directory: Path) -> Pipeline:
    """The table."""
    steps = Export(source, directory)
    return Pipeline(
        name="export",
        version=1,
        steps=(
            Step("measure", steps.measure),
            Step("await_approval", steps.await_approval, limit_s=APPROVE_WITHIN_S),
            Step("write", steps.write, guarded=True, limit_s=3600.0),
            Step("keep", steps.keep),
            Step("delete", steps.delete, max_attempts=0, limit_s=86_400.0),
        ),
        closing=frozenset({"delete"}),
        input_schema=ExportInput,
        signals=frozenset({"approval", "downloaded"}),
    )


#: Registered as ``TASKFLOW_PIPELINES=examples.export.pipeline:EXPORT``.
EXPORT = export(Sample(), Path(os.environ.get("EXPORT_DIR", "exports")))
