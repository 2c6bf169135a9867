"""Lists that come in pages: the options that say how much of one is wanted, and reading that much."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from taskflow.cli.client import PAGE

F = TypeVar("F", bound=Callable[..., Any])


def page_options(command: F) -> F:
    """How many rows of a list, for a command that reads them with ``read``."""
    for option in (
        click.option("--all", "all_pages", is_flag=True, help="All of them."),
        click.option("--limit", type=click.IntRange(1, PAGE), default=20, show_default=True, help="How many."),
    ):
        command = option(command)
    return command


@dataclass(frozen=True)
class Rows:
    """Rows of a list. ``cursor``: of the page after them, None when there is none; ``page``: the last one that was read."""

    rows: list[dict[str, Any]]
    cursor: str | None
    page: Mapping[str, Any]


def read(ask: Callable[..., Mapping[str, Any]], name: str, *, limit: int, all_pages: bool) -> Rows:
    """The first ``limit`` rows, or all. ``ask``: ``limit`` and ``cursor`` -> the page, whose rows are called ``name``."""
    page = ask(limit=PAGE if all_pages else limit, cursor=None)
    rows = list(page[name])
    while all_pages and page["next_cursor"]:
        page = ask(limit=PAGE, cursor=page["next_cursor"])
        rows += page[name]
    return Rows(rows, page["next_cursor"], page)


def say_more(cursor: object) -> None:
    """Say on standard error that the list goes on, if it does."""
    if cursor:
        click.echo("there are more: --all", err=True)
