"""A child process that runs git for the agent: ``python -m taskflow.agent.job PARENT_PID``, the order on stdin.

A process of its own, so that everything it starts ends with the agent (however that ends) and a hanging git can be
ended without touching anything else. It answers with one JSON object on
stdout: ``{"result": ...}`` or ``{"error": ...}``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

from taskflow.agent.confinement import Confinement
from taskflow.agent.finish import FinishOrder, finish
from taskflow.agent.git import JobFailure
from taskflow.agent.killing import end_all
from taskflow.agent.processes import become_subreaper, kill_descendants, set_parent_death_signal
from taskflow.agent.provision import ProvisionOrder, provision


def _on_term(*_: object) -> None:
    raise SystemExit(143)


def _perform(order: dict[str, Any]) -> dict[str, Any]:
    kind = order.pop("kind")
    try:
        result = provision(ProvisionOrder(**order)) if kind == "provision" else finish(FinishOrder(**order))
    except JobFailure as failure:
        return {"error": failure.as_dict()}
    return {"result": result}


def main(argv: list[str]) -> int:
    """Do one job; the agent's death or SIGTERM ends it and all it started."""
    signal.signal(signal.SIGTERM, _on_term)
    become_subreaper()
    set_parent_death_signal(signal.SIGTERM)
    if os.getppid() != int(argv[0]):
        return 143  # the agent ended before the tie was made
    answer: dict[str, Any] | None = None
    order = json.load(sys.stdin)
    confinement = order["confinement"] = Confinement.of(order["confinement"])
    try:
        answer = _perform(order)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        end_all(confinement)
        kill_descendants(os.getpid())
    json.dump(answer, sys.stdout)
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
