"""``taskflow completion``: the script by which a shell completes what is typed."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from taskflow.cli import render
from taskflow.cli.options import json_option
from taskflow.cli.problems import OK

SHELLS = ("bash", "zsh", "fish")
#: How the script asks the program.
VARIABLE = "_TASKFLOW_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@json_option
def completion(shell: str, as_json: bool) -> int:
    """Print the script that lets SHELL complete commands, options, and ids of tasks, runs and nodes.

    \b
    bash:  taskflow completion bash > ~/.local/share/bash-completion/completions/taskflow
    zsh:   taskflow completion zsh > ~/.zfunc/_taskflow       (with ~/.zfunc in fpath, before compinit)
    fish:  taskflow completion fish > ~/.config/fish/completions/taskflow.fish
    """
    from taskflow.cli.app import cli

    found = get_completion_class(shell)
    assert found is not None  # click knows the three
    script = found(cli, {}, "taskflow", VARIABLE)
    # Not ``source()``: for bash that starts a bash to look at its version, and the script may be for another machine.
    source = script.source_template % script.source_vars()
    click.echo(render.to_json({"shell": shell, "script": source}) if as_json else source)
    return OK
