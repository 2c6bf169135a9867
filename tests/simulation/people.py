"""People: they submit, cancel, rerun, and repeat a request that was not answered."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from taskflow.errors import NotFound, UsageError
from taskflow.service import Service
from tests.simulation.fibers import Fiber
from tests.simulation.invariants import hold

if TYPE_CHECKING:
    from tests.simulation.world import Simulation

_RERUNS = 2


class People:
    """A few tasks over a short time, and what somebody does with them."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._chance = simulation.chance
        self._storage = simulation._storage
        self.tasks: dict[str, str] = {}
        self.under_way = 0
        self._reruns = 0
        self._destroying: set[str] = set()
        # Where the control plane is impatient, so are the people.
        self._time_limit_s = 600.0 if simulation.settings.session_grace_s > 10 else 6.0
        self._node_loss_reruns = self._chance.order.choice((0, 1, 3))
        self._wanted = self._chance.order.choice((1, 1, 1, 2, 2))
        for number in range(self._wanted):
            simulation.planner.after(self._chance.between(0.0, 4.0), partial(self._submit, f"key-{number}"))

    # --- what they do

    def _submit(self, key: str) -> None:
        spec = {
            "repository": "/srv/repo", "command": ["make", key], "time_limit_s": self._time_limit_s,
            "node_loss_reruns": self._node_loss_reruns,
        }  # fmt: skip

        def work(service: Service) -> Any:
            return service.tasks.submit(self._simulation.caller, spec, idempotency_key=key)[0]

        def answered(fiber: Fiber) -> None:
            if fiber.result is None:
                self._simulation.planner.after(self._chance.between(0.1, 3.0), lambda: self._submit(key))
                return
            task_id = fiber.result["id"]
            hold(self.tasks.setdefault(key, task_id) == task_id, f"{key} made two tasks")
            if self._chance.fault("cancel"):
                self._simulation.planner.after(self._chance.between(0.0, 15.0), lambda: self._cancel(task_id))

        self._simulation.ask(f"submit {key}", work, answered)

    def _cancel(self, task_id: str) -> None:
        self.under_way += 1

        def answered(fiber: Fiber) -> None:
            self.under_way -= 1
            if fiber.crashed or (fiber.error is not None and not isinstance(fiber.error, UsageError)):
                self._simulation.planner.after(self._chance.between(0.1, 3.0), lambda: self._cancel(task_id))

        self._simulation.ask(
            f"cancel {task_id}", lambda service: service.tasks.cancel(self._simulation.caller, task_id), answered
        )

    def _rerun(self, task_id: str) -> None:
        """One try: a rerun has no idempotency key, who repeats it blindly may run it twice."""
        self.under_way += 1

        def answered(fiber: Fiber) -> None:
            self.under_way -= 1

        self._simulation.ask(
            f"rerun {task_id}", lambda service: service.tasks.rerun(self._simulation.caller, task_id), answered
        )

    # --- what they wait for

    def satisfied(self) -> bool:
        """Every task was submitted and is over, its cleanup included."""
        if len(self.tasks) < self._wanted or self.under_way or self._storage.open_outbox("rerun_task"):
            return False
        rows = self._storage.connection.execute(
            "SELECT t.id, t.status, r.finished_at FROM tasks t JOIN runs r ON r.id = t.run_id"
        ).fetchall()
        over = [row for row in rows if row[2] is not None]
        for task_id, status, _ in over:
            if status in ("failed", "cancelled") and self._reruns < _RERUNS and self._chance.fault("rerun"):
                self._reruns += 1
                self._rerun(task_id)
                return False
        return len(over) == self._wanted

    def no_nodes(self) -> bool:
        """Every node was asked to go, and is gone."""
        rows = self._storage.connection.execute("SELECT id FROM nodes WHERE destroyed_at IS NULL").fetchall()
        for (node_id,) in rows:
            if node_id not in self._destroying:
                self._destroying.add(node_id)
                self._destroy(node_id)
        return not rows

    def _destroy(self, node_id: str) -> None:
        def answered(fiber: Fiber) -> None:
            if fiber.result is None and not isinstance(fiber.error, NotFound):
                self._destroying.discard(node_id)

        self._simulation.ask(
            f"destroy {node_id}", lambda service: service.nodes.drain(self._simulation.caller, node_id), answered
        )

    def check(self) -> None:
        """Each request made one task."""
        found = {row[0] for row in self._storage.connection.execute("SELECT id FROM tasks").fetchall()}
        hold(found == set(self.tasks.values()), f"submitted {sorted(self.tasks.values())}, found {sorted(found)}")
