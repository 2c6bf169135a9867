"""The node agent: runs on a node, prepares workspaces, runs sessions in them, reports to the control plane.

Of the package it imports ``taskflow.protocol`` and nothing else, so that it can be sent to a bare node.

    __main__  start and stop            api         the HTTP routes
    node      wires the parts           workspaces  provisioning and deletion
    store     the one SQLite file       sessions    starting, following and finishing a session
    outbox    durable callbacks         shipping    log chunks
    shim      keeps one command         job         a child process that runs git: provision, finish
    isolation gives each workspace its confinement: users, cgroups, containers; handover moves work in and out of it
"""

from __future__ import annotations


def main(argv: list[str]) -> int:
    """Run the node agent, see ``taskflow.agent.__main__``. Returns the exit status."""
    from taskflow.agent.__main__ import main as run

    return run(argv)
