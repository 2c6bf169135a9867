"""Pictures of measurements: ``python -m bench.plots FOLDER`` draws every ``<workload>.json`` of a folder beside it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pygal
from pygal.style import Style

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
    "celery": "Celery (nothing committed)",
    "dbos": "DBOS",
    "workerd": "workerd",
    "restate": "Restate",
}
_OURS, _OTHERS = "#2f6f9f", "#b9b4aa"
_STYLE = Style(
    background="white", plot_background="white", colors=(_OURS,), font_family="sans-serif", title_font_size=15,
    label_font_size=12, value_font_size=12, value_label_font_size=12,
)  # fmt: skip
#: Nothing is fetched or run by a picture, and the same measurement is the same file.
_PLAIN = {"js": (), "no_prefix": True, "pretty_print": True, "disable_xml_declaration": True, "show_legend": False}


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
    """A bar for each subject: the median, with the lowest and the highest round beside it."""
    found = {name: figures[figure] for name, figures in measured["median"].items() if figures.get(figure) is not None}
    names = list(reversed(found))
    chart = pygal.HorizontalBar(
        **_PLAIN, style=_STYLE, title=title, width=860, height=90 + 44 * len(names), print_values=True, margin_right=60,
    )  # fmt: skip
    chart.x_labels = [LABELS.get(name, name.replace("_", " ")) for name in names]
    chart.add("median", [_bar(found[name], measured["spread"][name][figure], name) for name in names])
    return str(chart.render(is_unicode=True))


def _bar(value: float, spread: Sequence[float], name: str) -> dict[str, Any]:
    said = f"{value:,.4g} ({spread[0]:,.4g} to {spread[1]:,.4g})" if spread[0] != spread[1] else f"{value:,.4g}"
    ours = name in LABELS and name.startswith("taskflow") or name not in LABELS
    return {"value": value, "formatter": lambda _: said, "color": _OURS if ours else _OTHERS}


def _growth(measured: Mapping[str, Any]) -> str:
    """A line for each operation, over the number of parked tasks."""
    figures, sizes = measured["median"]["taskflow"], measured["settings"]["sizes"]
    chart = pygal.Line(
        **{**_PLAIN, "show_legend": True}, style=Style(background="white", plot_background="white", font_family="sans-serif"),
        title="ms of an operation beside so many parked tasks", width=860, height=480, logarithmic=True, legend_at_bottom=True,
    )  # fmt: skip
    chart.x_labels = [f"{size:,}" for size in sizes]
    for name in sorted({key.split("_ms_")[0] for key in figures if "_ms_" in key}):
        chart.add(name.replace("_", " "), [figures[f"{name}_ms_{size}"] for size in sizes])
    return str(chart.render(is_unicode=True))


if __name__ == "__main__":
    sys.exit(main())
