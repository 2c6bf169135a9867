"""Writes docs/reference/cli.md from the commands' own help: ``python -m tests.support.cli_docs``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from taskflow.cli.app import cli

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"

_HEAD = """# Commands

`taskflow COMMAND --help` says the same. Commands that print data take `--json`. Exit codes: 0 done (of a
task that was run or followed with `-f`: completed), 1 such a task failed or was cancelled, or the command could not be
carried out, 2 wrong usage, 3 no server, 4 not found, 130 interrupted.

The commands talk to the server of `TASKFLOW_URL` with `TASKFLOW_TOKEN`, else to the stack that serves the data directory.

`token`, `sweeps list` and `providers check` go to the server of `TASKFLOW_URL` too, unless it is the stack that serves the
data directory, or `TASKFLOW_DATABASE_URL` or `TASKFLOW_REDIS_URL` names a store: then they work on the stores. These always
do, and run on a host of the installation, because they are about every owner's things, which no owner's token reaches, or
need what the web processes have not:

| command | why |
|---|---|
| `up`, `nodehost`, `agent` | they are the processes |
| `db` | it changes the schema under all of them |
| `quota` | who operates the installation says what each owner may use |
| `sweeps pause`, `sweeps resume` | a job that is stopped is stopped for every owner |
| `audit --all-owners` | the trail of every owner |
| `nodes audit` | servers and prices of every owner; it asks the providers with their credentials |
| `doctor` | it looks at this host's settings, processes and credentials too |
| `metrics` | over HTTP they have a token of their own, `GET /metrics` |
| `settings` | it shows this environment; those of a server are in `GET /api/settings` |

This page is made by `python -m tests.support.cli_docs` from the commands' own help; a test compares the two.

| command | what it does |
|---|---|
"""


def commands() -> Iterator[tuple[str, click.Command]]:
    """Each command with its words, groups before what is in them."""
    yield from _below("taskflow", cli, click.Context(cli, info_name="taskflow"))


def _below(path: str, group: click.Group, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        if command.hidden:
            continue
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from _below(f"{path} {name}", command, click.Context(command, info_name=name, parent=context))


def render() -> str:
    """The page as it should be."""
    found = list(commands())
    index = "".join(f"| [`{path}`](#{_anchor(path)}) | {_cell(_first(command))} |\n" for path, command in found)
    return _HEAD + index + "".join(_section(path, command) for path, command in found)


def _anchor(path: str) -> str:
    return path.replace(" ", "-")


def _first(command: click.Command) -> str:
    return _paragraphs(command)[0] if command.help else ""


def _paragraphs(command: click.Command) -> list[str]:
    # What stands between \b and the next empty line keeps its lines in a terminal; here it is a paragraph like others.
    text = (command.help or "").replace("\b", "").replace("\f", "")
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip()) if part.strip()]


def _section(path: str, command: click.Command) -> str:
    context = click.Context(command, info_name=path)
    usage = " ".join(" ".join(command.collect_usage_pieces(context)).split())
    lines = ["", f"## {path}", "", f"`{path} {usage}`".replace(" `", "`"), ""]
    lines += [line for part in _paragraphs(command) for line in (_text(part), "")]
    rows = [record for record in _records(command, context) if record[0] not in ("-h, --help", "--help")]
    if rows:
        lines += ["| option | what it does |", "|---|---|"]
        lines += [f"| `{_cell(names)}` | {_cell(said)} |" for names, said in rows] + [""]
    return "\n".join(lines[:-1]) + "\n"


def _records(command: click.Command, context: click.Context) -> list[tuple[str, str]]:
    found = (param.get_help_record(context) for param in command.get_params(context))
    return [(names, said) for names, said in (record for record in found if record)]


def _cell(text: str) -> str:
    return _text(text).replace("|", "\\|")


def _text(text: str) -> str:
    return re.sub(r"(?<!`)<([^<>`]+)>", r"`<\1>`", text).replace("*", "\\*")


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(render(), encoding="utf-8")
