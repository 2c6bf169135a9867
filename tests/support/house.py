"""Reads the source of the house: its files, functions and statements, for the rules of ``tests/unit/test_house.py``."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeGuard

ROOT = Path(__file__).parents[2]
ROOMS = ("taskflow", "web")

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70

_SLEEP = re.compile(r"\bsleep\(")
_SQL_WRITES_TASKS = re.compile(r"\b(update\s+tasks\b|insert\s+into\s+tasks\b)", re.IGNORECASE)


def python_files(root: Path = ROOT, rooms: Iterable[str] = ROOMS) -> list[Path]:
    """The Python files of the rooms below ``root``."""
    return sorted(file for room in rooms for file in (root / room).rglob("*.py"))


def too_long(file: Path) -> list[str]:
    """What in ``file`` passes the limits: ``path: what it has``. A migration is a list of statements of any length."""
    text = file.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    found = [f"{file}: {lines} lines"] if lines > FILE_LINES_MAX else []
    if file.parent.name == "versions":
        return found
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno is not None:
            length = node.end_lineno - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                found.append(f"{file}:{node.lineno}: {node.name} has {length} lines")
    return found


def undocumented(file: Path) -> list[str]:
    """Public functions and classes of the module's top level without a docstring."""
    return [
        f"{file}:{node.lineno}: {node.name}"
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        and not node.name.startswith("_")
        and ast.get_docstring(node) is None
    ]


def lua_without_header(file: Path) -> list[str]:
    """What the comment at the top of a script fails to name."""
    header: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("--"):
            break
        header.append(line)
    said = "\n".join(header)
    return [f"{file}: its first comment does not name {word}" for word in ("KEYS", "ARGV") if word not in said]


def unexplained_sleeps(file: Path) -> list[str]:
    """Calls of ``sleep`` without a comment on their line that says why polling can't do."""
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        match = _SLEEP.search(line)
        if match and "#" not in line[match.end() :]:
            found.append(f"{file}:{number}: {line.strip()}")
    return found


def task_writes(file: Path) -> list[str]:
    """Statements that can write ``tasks.status``: ``insert(Task)``, ``Task(...)``, an ``update(Task)`` that does not
    spell out its columns or has status among them, the same in SQL text, ``task.status = ...``.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return [f"{file}:{line}: {what}" for line, what in sorted(_task_writes(tree))]


def _task_writes(tree: ast.AST) -> Iterator[tuple[int, str]]:
    harmless = {
        id(update)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and _last_name(call.func) == "values" and _spares_status(call)
        for update in ast.walk(call.func)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = _last_name(node.func)
            if name == "Task":
                yield node.lineno, "a Task is made"
            elif name == "insert" and _about_tasks(node):
                yield node.lineno, "insert(Task)"
            elif name == "update" and _about_tasks(node) and id(node) not in harmless:
                yield node.lineno, "update(Task) of the status, or of columns that are not spelled out"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if _SQL_WRITES_TASKS.search(node.value):
                yield node.lineno, "SQL text that writes tasks"
        elif _assigns_task_status(node):
            yield node.lineno, "assignment to a task's status"


def _assigns_task_status(node: ast.AST) -> TypeGuard[ast.Attribute]:
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and node.attr == "status"
        and "task" in _last_name(node.value).lower()
    )


def _spares_status(values: ast.Call) -> bool:
    """Whether ``.values(...)`` names every column it writes and the status is none of them."""
    return not values.args and all(keyword.arg not in (None, "status") for keyword in values.keywords)


def _about_tasks(call: ast.Call) -> bool:
    """``update(Task)``, ``update(models.Task)``, ``update(Task.__table__)`` or ``Task.__table__.update()``."""
    said = [call.args[0]] if call.args else []
    if isinstance(call.func, ast.Attribute):
        said.append(call.func.value)
    return any(_last_name(node) == "Task" or ast.unparse(node).endswith("Task.__table__") for node in said)


def _last_name(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ""
