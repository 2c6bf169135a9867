"""``python -m taskflow.agent --root DIR --control-plane-url URL``: run the node agent.

``... keep --root DIR --control-plane-url URL`` keeps one alive in the background, ``... uninstall --root DIR`` ends and
removes all of it.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

from taskflow.agent.processes import set_parent_death_signal


def _parser(prog: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--root", required=True, type=Path, help="its directory; holds order.json")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--control-plane-url", help="where callbacks go")
    where.add_argument(
        "--bootstrap",
        type=Path,
        metavar="FILE",
        help="says where callbacks go, and fetches order.json if it is missing",
    )
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0: the earlier one, or any free one")
    parser.add_argument("--ca-file", help="CA certificates by which the control plane is trusted; else the machine's")
    return parser


def _keep(argv: list[str]) -> int:
    parser = _parser("taskflow agent keep", "Keep a node agent alive in the background; returns once its keeper runs.")
    options = parser.parse_args(argv)
    # The keeper works in another directory: what is named relative to this one is named in full.
    arguments = ["--port", str(options.port)]
    if options.bootstrap:
        arguments += ["--bootstrap", str(options.bootstrap.resolve())]
    else:
        arguments += ["--control-plane-url", options.control_plane_url]
    if options.ca_file:
        arguments += ["--ca-file", str(Path(options.ca_file).resolve())]
    from taskflow.agent.keeping import keep
    from taskflow.agent.problems import StartRefused

    try:
        print(keep(options.root, arguments), flush=True)  # the process ends without tidying up
    except StartRefused as error:
        print(f"taskflow agent keep: {error}", file=sys.stderr)
        return 1
    return 0


def _uninstall(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="taskflow agent uninstall",
        description="End the keeper, the agent, its sessions and whatever they left, and remove the directory.",
    )
    parser.add_argument("--root", required=True, type=Path, help="the agent's directory")
    options = parser.parse_args(argv)
    from taskflow.agent.uninstalling import uninstall

    left = uninstall(options.root)
    for what in left:
        print(f"taskflow agent uninstall: left: {what}", file=sys.stderr)
    return 1 if left else 0


def main(argv: list[str]) -> int:
    """Run the agent until SIGTERM, SIGINT, or the loss of its supervisor or of its node. Returns the exit status."""
    if argv[:1] == ["keep"]:
        return _keep(argv[1:])
    if argv[:1] == ["uninstall"]:
        return _uninstall(argv[1:])
    return _run(argv)


def _run(argv: list[str]) -> int:
    parser = _parser("taskflow agent", "The taskflow node agent. First argument keep or uninstall: see their --help.")
    parser.add_argument("--lifeline", help="a file that the supervisor keeps locked; end when it lets go")
    parser.add_argument("--die-with-parent", action="store_true", help="end when the process that started this ends")
    options = parser.parse_args(argv)
    if options.die_with_parent:
        parent = os.getppid()
        set_parent_death_signal(signal.SIGTERM)
        if os.getppid() != parent:
            return 1
    # Imported late: a wrong command line is answered without loading the web stack.
    from taskflow.agent.bootstrap import fetch_order
    from taskflow.agent.dead_man import power_off
    from taskflow.agent.node import Node
    from taskflow.agent.problems import StartRefused, Unwanted
    from taskflow.agent.tail import Tail
    from taskflow.protocol import AGENT_LOG_BYTES_MAX, AGENT_UNWANTED

    tail = Tail(AGENT_LOG_BYTES_MAX)
    logging.basicConfig(
        level=os.environ.get("TASKFLOW_LOG_LEVEL", "INFO").upper(),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        handlers=[logging.StreamHandler(sys.stderr), tail],
    )
    try:
        url, ca_file = options.control_plane_url, options.ca_file
        if options.bootstrap:
            contact = fetch_order(options.root, options.bootstrap)
            url, ca_file = contact.control_plane_url, ca_file or contact.ca_file
        node = Node(
            options.root,
            url,
            lifeline_file=options.lifeline,
            port=options.port,
            ca_file=ca_file,
            log_end=tail.text,
        )
        node.stop_on(signal.SIGTERM, signal.SIGINT)
        node.run()
    except Unwanted as error:
        print(f"taskflow agent: {error}", file=sys.stderr)
        power_off("the control plane has no use for this server")
        return AGENT_UNWANTED
    except StartRefused as error:
        print(f"taskflow agent: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    logging.shutdown()
    # Not sys.exit: threads may hang in a request; all state is on disk.
    os._exit(status)
