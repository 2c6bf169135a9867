"""Where things are in the drawings; templates make SVG of it. No style attributes: the policy allows none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Charts stretch to the width of the page, so their units mean nothing.
CHART_WIDTH, CHART_HEIGHT = 240, 100
_STACK = ("completed", "failed", "cancelled")
_BOX_WIDTH, _BOX_HEIGHT, _GAP_X, _GAP_Y = 200, 40, 36, 30
#: Letters that fit in a box.
_NAME_MAX = 22
#: What tells the state of a step to who can't tell the colours.
_SIGNS = {
    "done": "\N{CHECK MARK}",
    "now": "\N{BLACK RIGHT-POINTING TRIANGLE}",
    "failed": "\N{MULTIPLICATION SIGN}",
    "cancelled": "\N{EN DASH}",
}
#: Boxes side by side where there is room, and on a phone.
WIDE, NARROW = 4, 2


@dataclass(frozen=True)
class Rect:
    """A bar: where, how large, and of which class."""

    x: float
    y: float
    width: float
    height: float
    kind: str


@dataclass(frozen=True)
class Box:
    """A step in the diagram. ``state``: done, now, failed, cancelled, skipped or ahead."""

    name: str
    x: float
    y: float
    state: str

    @property
    def label(self) -> str:
        """What is written in the box: a sign of the state, and the name as far as there is room."""
        words = self.name.replace("_", " ")
        short = words if len(words) <= _NAME_MAX else words[: _NAME_MAX - 1] + "\N{HORIZONTAL ELLIPSIS}"
        return f"{_SIGNS.get(self.state, '')} {short}".strip()


@dataclass(frozen=True)
class Diagram:
    """The steps of a pipeline in rows, with lines from each to the next."""

    width: int
    height: int
    box_width: int
    box_height: int
    boxes: tuple[Box, ...]
    lines: tuple[str, ...]


def stacked(hours: Sequence[Mapping[str, Any]]) -> tuple[list[Rect], int]:
    """What ended in each hour as bars on each other, and the number that the full height stands for."""
    most = max((sum(hour[kind] for kind in _STACK) for hour in hours), default=0)
    step, found = CHART_WIDTH / max(1, len(hours)), []
    for number, hour in enumerate(hours):
        top = float(CHART_HEIGHT)
        for kind in _STACK:
            height = CHART_HEIGHT * hour[kind] / most if most else 0.0
            top -= height
            if height:
                found.append(Rect(_round(number * step + 1), _round(top), _round(step - 2), _round(height), kind))
    return found, most


def lengths(hours: Sequence[Mapping[str, Any]]) -> tuple[list[Rect], float]:
    """The longest and the mean duration of each hour as bars, and the seconds that the full height stands for."""
    most = max((hour["longest_s"] or 0.0 for hour in hours), default=0.0)
    step, found = CHART_WIDTH / max(1, len(hours)), []
    for number, hour in enumerate(hours):
        for kind, inset in (("longest", 1.0), ("mean", 3.0)):
            height = CHART_HEIGHT * (hour[f"{kind}_s"] or 0.0) / most if most else 0.0
            if height:
                x, width = number * step + inset, step - 2 * inset
                found.append(Rect(_round(x), _round(CHART_HEIGHT - height), _round(width), _round(height), kind))
    return found, most


def diagrams(steps: Sequence[Mapping[str, Any]], states: Mapping[str, str]) -> dict[str, Diagram]:
    """The table of steps as it is drawn on a wide screen and on a phone; ``states``: see ``diagram``."""
    return {"wide": diagram(steps, states, WIDE), "narrow": diagram(steps, states, NARROW)}


def diagram(steps: Sequence[Mapping[str, Any]], states: Mapping[str, str], columns: int) -> Diagram:
    """The table of steps in rows; ``states``: step -> done, now, failed or cancelled, of those that were entered."""
    boxes, lines = [], []
    for number, step in enumerate(steps):
        row, column = divmod(number, columns)
        x, y = column * (_BOX_WIDTH + _GAP_X) + 1, row * (_BOX_HEIGHT + _GAP_Y) + 1
        state = states.get(step["name"], "skipped" if step["skip"] else "ahead")
        boxes.append(Box(step["name"], x, y, state))
        if number == 0:
            continue
        middle = y + _BOX_HEIGHT / 2
        if column:
            lines.append(f"M{x - _GAP_X} {middle:g}H{x - 6}")
        else:  # from the end of the row above, between the rows, to the beginning of this one
            end = (columns - 1) * (_BOX_WIDTH + _GAP_X) + 1 + _BOX_WIDTH / 2
            lines.append(f"M{end:g} {y - _GAP_Y}V{y - _GAP_Y / 2:g}H{x + _BOX_WIDTH / 2:g}V{y - 6}")
    rows = -(-len(steps) // columns)
    width = columns * (_BOX_WIDTH + _GAP_X) - _GAP_X + 2
    height = rows * (_BOX_HEIGHT + _GAP_Y) - _GAP_Y + 2
    return Diagram(width, height, _BOX_WIDTH, _BOX_HEIGHT, tuple(boxes), tuple(lines))


def _round(value: float) -> float:
    return round(value, 2)
