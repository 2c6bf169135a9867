"""The command ``taskflow``: its subcommands, and the one place where an error becomes lines and an exit code."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import click

from taskflow import __version__
from taskflow.cli.problems import EXIT_CODES, OK, report

#: command -> (module, attribute), in the order of the help. Loaded when used: ``--version`` need not load a web stack.
COMMANDS = {
    "up": ("operate", "up"),
    "run": ("tasks", "run"),
    "submit": ("tasks", "submit"),
    "run-draft": ("tasks", "run_draft"),
    "list": ("tasks", "list_tasks"),
    "show": ("tasks", "show"),
    "logs": ("tasks", "logs"),
    "why": ("tasks", "why"),
    "events": ("history", "events"),
    "errors": ("history", "errors"),
    "runs": ("history", "task_runs"),
    "queue": ("history", "queue"),
    "top": ("top", "top"),
    "cancel": ("tasks", "cancel"),
    "rerun": ("tasks", "rerun"),
    "start": ("runs", "start"),
    "signal": ("runs", "send_signal"),
    "nodes": ("nodes", "nodes"),
    "providers": ("providers", "providers"),
    "usage": ("usage", "usage"),
    "quota": ("usage", "quota"),
    "login": ("accounts", "login"),
    "whoami": ("accounts", "whoami"),
    "token": ("accounts", "token"),
    "audit": ("accounts", "audit"),
    "db": ("operate", "db"),
    "sweeps": ("sweeps", "sweeps"),
    "doctor": ("doctor", "doctor"),
    "metrics": ("metrics", "metrics"),
    "settings": ("operate", "show_settings"),
    "completion": ("completion", "completion"),
    "agent": ("operate", "agent"),
    "nodehost": ("operate", "nodehost"),
}


class Root(click.Group):
    """Loads commands when they are used and reports every error in one shape."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f"taskflow.cli.{module}"), attribute)
        return command

    def main(  # type: ignore[override]  # one of the two shapes click declares
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> int:
        """Run the command; with ``standalone_mode`` exit with its code, else return it."""
        try:
            found = super().main(args, prog_name or "taskflow", complete_var, standalone_mode=False, **extra)
            code = found if isinstance(found, int) else OK
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            code = error.exit_code
        except (Exception, KeyboardInterrupt) as error:
            code = report(error)
        if standalone_mode:
            sys.exit(code)
        return code


@click.group(
    cls=Root, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="taskflow")
def cli() -> None:
    """Run long jobs that must not be lost.

    TASKFLOW_URL and TASKFLOW_TOKEN name a server; without them the stack that serves the data directory
    (TASKFLOW_DATA_DIR) is used. "taskflow settings" lists everything that can be set.
    """
