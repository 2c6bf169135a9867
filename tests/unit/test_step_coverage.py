"""Each step of each pipeline has a unit, an integration and a crash test. A step that is added without them fails here.

Nothing is declared: the unit tests are read (``decide(world, ..., "<step>")``), the walk through the whole system is
walked on virtual time, the crashes are the matrices and the recorded crash points themselves.
"""

from __future__ import annotations

import ast
from pathlib import Path

from sqlalchemy import select

from taskflow.db.models import Event, Run
from tests.crashpoints.points import listed, touched_steps
from tests.nodes.test_machine import STEPS as NODE_CRASHES
from tests.pipelines.test_crashes import MATRIX as TASK_CRASHES
from tests.support.world import World
from tests.support.world_fixtures import MakeWorld, make_world, migrated_file, world

__all__ = ["make_world", "migrated_file", "world"]

TESTS = Path(__file__).parents[1]
#: pipeline -> the file whose tests decide its steps one by one.
UNIT = {
    "agent_task": TESTS / "pipelines" / "test_decisions.py",
    "node": TESTS / "nodes" / "test_decisions.py",
}
CRASHES = {"agent_task": set(TASK_CRASHES), "node": set(NODE_CRASHES)}


def steps_of(world: World) -> set[str]:
    """Every step that a run can be in, as ``<pipeline>.<step>``."""
    return {
        f"{pipeline.name}.{step.name}"
        for pipeline in world.app.pipelines.values()
        for step in pipeline.steps
        if not step.skip
    }


def decided_steps(file: Path) -> set[str]:
    """Steps that the tests of ``file`` decide: the strings handed to ``decide``, or to its test as parameters."""
    found: set[str] = set()
    for test in ast.parse(file.read_text(encoding="utf-8")).body:
        if not isinstance(test, ast.FunctionDef) or not test.name.startswith("test_"):
            continue
        names: set[str] = set()
        for call in ast.walk(test):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "decide":
                found |= {
                    arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
                }
                names |= {arg.id for arg in call.args if isinstance(arg, ast.Name)}
        if names:
            found |= _listed_in_loops(test, names)
    return found


def _listed_in_loops(test: ast.FunctionDef, names: set[str]) -> set[str]:
    """The constants that a ``for`` of the test gives to one of ``names``."""
    return {
        item.value
        for loop in ast.walk(test)
        if isinstance(loop, ast.For) and isinstance(loop.target, ast.Name) and loop.target.id in names
        for item in ast.walk(loop.iter)
        if isinstance(item, ast.Constant) and isinstance(item.value, str)
    }


def test_every_step_has_a_unit_test(world: World) -> None:
    """Its decision is tested by itself."""
    decided = {f"{name}.{step}" for name, file in UNIT.items() for step in decided_steps(file)}
    assert steps_of(world) - decided == set()


def test_every_step_is_walked_through_the_whole_system(make_world: MakeWorld) -> None:
    """Two tasks on one slot walk every step of both tables, and leave nothing."""
    world = make_world(node_slots=1)
    first = world.submit()
    world.at_step(first, "running")
    world.finish(first, world.submit())
    world.node_is("destroyed")
    with world.app.database.read() as tx:
        rows = tx.execute(select(Run.pipeline, Event.step).join(Run, Run.id == Event.run_id)).all()
        ends = tx.execute(select(Run.pipeline, Run.step)).all()
    walked = {f"{row.pipeline}.{row.step}" for row in (*rows, *ends)}
    # The first step of each table is where its run begins; nothing enters it.
    begins = {f"{pipeline.name}.{pipeline.steps[0].name}" for pipeline in world.app.pipelines.values()}
    assert steps_of(world) - begins - walked == set()
    world.assert_settled()


def test_every_step_has_crash_tests(world: World) -> None:
    """In the matrix of its pipeline, and among the points where a real worker is killed."""
    in_matrix = {f"{pipeline}.{step}" for pipeline, steps in CRASHES.items() for step in steps}
    assert steps_of(world) - in_matrix == set()
    assert steps_of(world) - touched_steps(listed()) == set()


def test_a_step_without_a_unit_test_is_seen(tmp_path: Path) -> None:
    """The reader finds what is decided, and nothing else."""
    file = tmp_path / "test_some.py"
    file.write_text(
        'def test_a(world):\n    decide(world, "one")\n    for step in ("two",):\n        decide(world, step)\n'
        '    other("three")\n\n\ndef helper(world):\n    decide(world, "four")\n'
    )
    assert decided_steps(file) == {"one", "two"}
