"""``python -m taskflow.agent --root DIR --control-plane-url URL``: run the node agent."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

from taskflow.agent.processes import set_parent_death_signal


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="taskflow agent", description="The taskflow node agent.")
    parser.add_argument("--root", required=True, type=Path, help="its directory; holds order.json")
    parser.add_argument("--control-plane-url", required=True, help="where callbacks go")
    parser.add_argument("--lifeline", help="a file that the supervisor keeps locked; end when it lets go")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0: the earlier one, or any free one")
    parser.add_argument("--ca-file", help="CA certificates by which the control plane is trusted; else the machine's")
    parser.add_argument("--die-with-parent", action="store_true", help="end when the process that started this ends")
    return parser


def main(argv: list[str]) -> int:
    """Run the agent until SIGTERM, SIGINT, or the loss of its supervisor or of its node. Returns the exit status."""
    options = _parser().parse_args(argv)
    if options.die_with_parent:
        parent = os.getppid()
        set_parent_death_signal(signal.SIGTERM)
        if os.getppid() != parent:
            return 1
    logging.basicConfig(
        level=os.environ.get("TASKFLOW_LOG_LEVEL", "INFO").upper(),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    # Imported late: a wrong command line is answered without loading the web stack.
    from taskflow.agent.node import Node
    from taskflow.agent.problems import StartRefused

    try:
        node = Node(
            options.root,
            options.control_plane_url,
            lifeline_file=options.lifeline,
            port=options.port,
            ca_file=options.ca_file,
        )
        node.stop_on(signal.SIGTERM, signal.SIGINT)
        node.run()
    except StartRefused as error:
        print(f"taskflow agent: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    logging.shutdown()
    # Not sys.exit: threads may hang in a request; all state is on disk.
    os._exit(status)
