"""Writes docs/reference/data-model.md and its picture from the models: ``python -m tests.support.data_model_docs``."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from sqlalchemy import CheckConstraint, Column, Table, UniqueConstraint
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Mapper

from taskflow.db.models import Base
from taskflow.engine import control

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "data-model.md"
PICTURE = PAGE.with_name("data-model.svg")
_DIALECT = postgresql.dialect()

_HEAD = """# Data model

SQL is the truth, Redis holds control state that can be lost ([why](../explanation/architecture.md)). Every `*_at` is in
seconds since the epoch; every table whose rows belong to somebody has `owner_id`, and every query of the product names it.

This page and its picture are made by `python -m tests.support.data_model_docs` from `taskflow/db/models.py` and
`taskflow/engine/control.py`; a test compares them.

![Which table refers to which; references to owners are left out](data-model.svg)

## Redis keys

`{prefix}` is `TASKFLOW_KEY_PREFIX`. The braces around the shard are part of the key: all keys of a shard are in one slot
of a cluster. When a run has ended none of its keys is left.

| key | type | holds |
|---|---|---|
"""
#: Keys outside of the engine's table, each with the module that makes it.
OTHER_KEYS = {
    "{prefix}:paused:<sweep>": ("string", "somebody paused this sweep", "taskflow/service/health.py"),
    "{prefix}:probe": ("string, PX", "gone a moment after readiness tried whether Redis takes writes",
                       "taskflow/service/health.py"),
    "{prefix}:celery:*": ("Celery's own", "queues and bindings, where Redis is the broker",
                          "taskflow/celery_settings.py"),
}  # fmt: skip


def engine_keys() -> list[tuple[str, str, str]]:
    """The key table that stands above the scripts: key, type, what it holds."""
    found = re.findall(r"^\| ``(\{prefix\}[^`]+)`` \| ([^|]+) \| ([^|]+) \|$", control.__doc__ or "", re.MULTILINE)
    return [(key, kind, holds.replace("``", "`")) for key, kind, holds in found]


def tables() -> list[tuple[Table, type]]:
    """Each table with its class, in the order of the files, and in each of its lines."""
    mappers: list[Mapper[object]] = [
        mapper for mapper in Base.registry.mappers if mapper.class_.__module__.startswith("taskflow.db.")
    ]
    # By their files first: two classes may begin at the same line of two files.
    mappers.sort(key=lambda mapper: (mapper.class_.__module__, inspect.getsourcelines(mapper.class_)[1]))
    return [(mapper.local_table, mapper.class_) for mapper in mappers if isinstance(mapper.local_table, Table)]


def render() -> str:
    """The page as it should be."""
    keys = [f"| `{key}` | {kind} | {holds} |\n" for key, kind, holds in engine_keys()]
    keys += [f"| `{key}` | {kind} | {holds} |\n" for key, (kind, holds, _) in OTHER_KEYS.items()]
    return _HEAD + "".join(keys) + "".join(_section(table, class_) for table, class_ in tables())


def _section(table: Table, class_: type) -> str:
    said = [" ".join(part.split()) for part in (inspect.getdoc(class_) or "").replace("``", "`").split("\n\n")]
    lines = ["", f"## {table.name}", "", *(line for part in said for line in (part, ""))]
    lines += ["| column | type | null | refers to |", "|---|---|---|---|"]
    lines += [_column(column) for column in table.columns]
    held = _indexes(table) + _checks(table)
    return "\n".join([*lines, *(["", *held] if held else [])]) + "\n"


def _column(column: Column[object]) -> str:
    name = f"**`{column.name}`**" if column.primary_key else f"`{column.name}`"
    refers = ", ".join(f"[{key.column.table.name}](#{key.column.table.name})" for key in column.foreign_keys)
    kind = column.type.compile(dialect=_DIALECT).lower()
    return f"| {name} | {kind} | {'yes' if column.nullable else ''} | {refers} |"


def _indexes(table: Table) -> list[str]:
    found: list[tuple[str, str]] = []
    for constraint in table.constraints:
        if isinstance(constraint, UniqueConstraint):
            found.append((_names(constraint.columns), "unique"))
    for index in table.indexes:
        where = index.dialect_options["postgresql"].get("where")
        kind = "unique" if index.unique else "index"
        found.append((_names(index.columns), kind if where is None else f"{kind} where `{where}`"))
    return [f"- {kind}: {columns}" for columns, kind in sorted(set(found), key=lambda one: (one[0], one[1]))]


def _names(columns: object) -> str:
    return ", ".join(f"`{column.name}`" for column in columns)  # type: ignore[attr-defined]


def _checks(table: Table) -> list[str]:
    return sorted(f"- check: `{one.sqltext}`" for one in table.constraints if isinstance(one, CheckConstraint))


# --- the picture

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 150, 34, 70, 16, 14
_STYLE = (
    "rect{fill:#fff;stroke:#555}text{font:13px sans-serif;text-anchor:middle;fill:#111}"
    "path{fill:none;stroke:#777;marker-end:url(#a)}"
)


def parents(table: Table) -> list[str]:
    """The tables that ``table`` refers to, without owners and itself."""
    found = {key.column.table.name for key in table.foreign_keys}
    return sorted(found - {"owners", table.name})


def picture() -> str:
    """The tables as boxes, each right of those it refers to, with arrows to them."""
    by_name = {table.name: table for table, _ in tables()}
    columns: dict[int, list[str]] = {}
    for name in by_name:
        columns.setdefault(_depth(name, by_name), []).append(name)
    places = {
        name: (_MARGIN + column * (_WIDTH + _GAP_X), _MARGIN + row * (_HEIGHT + _GAP_Y))
        for column, names in columns.items()
        for row, name in enumerate(names)
    }
    width = 2 * _MARGIN + len(columns) * (_WIDTH + _GAP_X) - _GAP_X
    height = 2 * _MARGIN + max(map(len, columns.values())) * (_HEIGHT + _GAP_Y) - _GAP_Y
    arrows = [_arrow(places[name], places[parent]) for name in by_name for parent in parents(by_name[name])]
    boxes = [_box(name, *place) for name, place in places.items()]
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f"<style>{_STYLE}</style>",
        '<defs><marker id="a" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<polyline points="0,0 8,4 0,8" fill="none" stroke="#777"/></marker></defs>',
        *arrows, *boxes, "</svg>",
    ]) + "\n"  # fmt: skip


def _depth(name: str, by_name: dict[str, Table]) -> int:
    return 1 + max((_depth(parent, by_name) for parent in parents(by_name[name])), default=-1)


def _arrow(child: tuple[int, int], parent: tuple[int, int]) -> str:
    x1, y1, x2, y2 = child[0], child[1] + _HEIGHT // 2, parent[0] + _WIDTH, parent[1] + _HEIGHT // 2
    return f'<path d="M{x1},{y1} C{x1 - 40},{y1} {x2 + 40},{y2} {x2},{y2}"/>'


def _box(name: str, x: int, y: int) -> str:
    return (
        f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="4"/>'
        f'<text x="{x + _WIDTH // 2}" y="{y + _HEIGHT // 2 + 5}">{name}</text>'
    )


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(render(), encoding="utf-8")
    PICTURE.write_text(picture(), encoding="utf-8")
