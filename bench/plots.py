"""Pictures of measurements: ``python -m bench.plots FOLDER`` draws every ``<workload>.json`` of a folder beside it."""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.figure import Figure

from bench.subjects import PEERS

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

#: workload -> figure -> what it is. Each is a picture; shorter bars are better unless it says otherwise.
BARS: Mapping[str, Mapping[str, str]] = {
    "chain": {
        "steps_per_s": "steps a second, a thousand tasks of seven steps at once (longer is better)",
        "task_p50_ms": "ms for a task of seven steps that is alone",
    },
    "alarms": {"late_p99_ms": "ms that an alarm is late, 99th percentile of a thousand over twenty seconds"},
    "burst": {"late_last_ms": "ms until the last of a thousand alarms that are due at one instant"},
    "signals": {
        "signal_p50_ms": "ms from a signal to the next step, one by one",
        "burst_p50_ms": "ms from a signal to the next step, two hundred at once",
    },
    "scale": {"steps_per_s": "steps a second while a backlog is drained, by who drains it (longer is better)"},
}
LABELS = {
    "taskflow": "taskflow",
    "taskflow_sqlite": "taskflow on SQLite",
    "taskflow_by_step": "taskflow, a turn a step",
    "taskflow_sqlite_by_step": "taskflow on SQLite, a turn a step",
    "celery": "Celery",
    "dbos": "DBOS",
    "workerd": "workerd",
    "restate": "Restate",
    "procrastinate": "procrastinate",
}
_OURS, _OTHERS = "#2f6f9f", "#b9b4aa"
#: The same measurement is the same file, and its text is text.
_PLAIN: dict[RcKeyType, Any] = {
    "svg.hashsalt": "taskflow",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10.0,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Draw what is in the folder; names each file that was written."""
    parser = argparse.ArgumentParser(prog="python -m bench.plots", description="draw the measurements of a folder")
    parser.add_argument("folder", type=Path, help="where the answers of `python -m bench WORKLOAD --json` are")
    folder = parser.parse_args(argv).folder
    sources = sorted(folder.glob("*.json"))
    if not sources:
        parser.error(f"there is no *.json in {folder}")
    for source in sources:
        for name, picture in pictures(json.loads(source.read_text(encoding="utf-8"))):
            (folder / name).write_text(picture, encoding="utf-8")
            print(folder / name)
    return 0


def pictures(measured: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """File name and SVG of each picture of one measurement."""
    workload = measured["workload"]
    for figure, title in BARS.get(workload, {}).items():
        yield f"{workload}-{figure.replace('_', '-')}.svg", _bars(measured, figure, title)
    if workload == "grow":
        yield "grow.svg", _growth(measured)


def _bars(measured: Mapping[str, Any], figure: str, title: str) -> str:
    """A bar for each subject: the median, with a line from the lowest to the highest round."""
    found = {name: figures[figure] for name, figures in measured["median"].items() if figures.get(figure) is not None}
    spread = [measured["spread"][name][figure] for name in found]
    labels = [LABELS.get(name, name.replace("_", " ")) for name in found]
    with matplotlib.rc_context(_PLAIN):
        picture = Figure(figsize=(8.6, 0.9 + 0.42 * len(found)), layout="constrained")
        axes = picture.subplots()
        bars = axes.barh(labels, list(found.values()), color=[color(name) for name in found], height=0.62)
        for bar, value, (low, high) in zip(bars, found.values(), spread, strict=True):
            middle = bar.get_y() + bar.get_height() / 2
            axes.plot([low, high], [middle, middle], color="#333333", linewidth=1.2)
            axes.annotate(f"{value:,.4g}", (high, middle), xytext=(6, 0), textcoords="offset points", va="center")
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlim(0, 1.15 * max(high for _, high in spread))
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
        return _svg(picture)


def color(name: str) -> str:
    """Of a bar: peers look different from ours."""
    return _OTHERS if name in PEERS else _OURS


def _growth(measured: Mapping[str, Any]) -> str:
    """A line for each operation, over the number of parked tasks."""
    figures, sizes = measured["median"]["taskflow"], measured["settings"]["sizes"]
    with matplotlib.rc_context(_PLAIN):
        picture = Figure(figsize=(8.6, 4.8), layout="constrained")
        axes = picture.subplots()
        for name in sorted({key.split("_ms_")[0] for key in figures if "_ms_" in key}):
            axes.plot(sizes, [figures[f"{name}_ms_{size}"] for size in sizes], marker="o", label=name.replace("_", " "))
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title("ms of an operation beside so many parked tasks", loc="left", fontsize=11)
        axes.grid(visible=True, which="major", color="#dddddd")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        return _svg(picture)


def _svg(picture: Figure) -> str:
    drawn = io.StringIO()
    picture.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in drawn.getvalue().splitlines()) + "\n"


if __name__ == "__main__":
    sys.exit(main())
