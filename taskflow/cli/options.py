"""Options and arguments that several commands have in the same form."""

from __future__ import annotations

import click

from taskflow.cli.offers import complete_nodes, complete_subjects, complete_tasks

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
task_argument = click.argument("task_id", metavar="ID", shell_complete=complete_tasks)
#: A task, or a run of a pipeline of one's own; and several of them.
thing_argument = click.argument("task_id", metavar="ID", shell_complete=complete_subjects)
things_argument = click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete_subjects)
node_argument = click.argument("node_id", metavar="ID", shell_complete=complete_nodes)


def json_goes_last(context: click.Context, as_json: bool) -> None:
    """Refuse a ``--json`` that stands before a subcommand, which would not see it. Raises ``click.UsageError``."""
    if as_json and context.invoked_subcommand is not None:
        raise click.UsageError(f"--json goes behind {context.invoked_subcommand}", ctx=context)
