"""``python -m tests.db.claimers URL NODE START RUN...``: one process of a race for the slots of a node.

It waits for the file START, then tries to take a slot for each run, in threads. Prints how many were given as JSON.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from taskflow.db.runs import get_run
from taskflow.db.session import Database, make_engine
from taskflow.db.workspaces import reserve_workspace_effect
from taskflow.engine.outcomes import Refused
from taskflow.ids import TaskId, WorkspaceId
from tests.support.waiting import wait_until


def main(url: str, node_id: str, start: str, run_ids: list[str]) -> None:
    """Race."""
    database = Database(make_engine(url))

    def claim(run_id: str) -> str:
        with database.read() as tx:
            run = get_run(tx, run_id)
        assert run is not None
        effect = reserve_workspace_effect(
            workspace_id=WorkspaceId(f"ws-{run_id}"), task_id=TaskId(run.subject_id), run=run, node_id=node_id,
            callback_token_hash=f"hash-{run_id}", now=2.0, vcpus=1.0,
        )  # fmt: skip
        try:
            database.write(effect)
        except Refused as refused:
            return refused.reason
        return run_id

    with ThreadPoolExecutor(5) as pool:
        pool.submit(lambda: None).result()
        Path(f"{start}.{run_ids[0]}").touch()
        wait_until(Path(start).exists, "the race begins", timeout_s=60, poll_s=0.005)
        answers = list(pool.map(claim, run_ids))
    print(json.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
