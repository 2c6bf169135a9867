"""Generations of callback tokens, on both databases."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select

from taskflow.db.models import Token
from taskflow.db.own_runs import grant_callback
from taskflow.db.runs import get_run
from taskflow.db.tokens import insert_callback_token, newest_tokens
from taskflow.service.renewal import renewed_tokens
from taskflow.vault import Vault, hash_token
from tests.db.conftest import OWNER, World, race

VAULT = Vault("a secret key of these tests")


def _token(tx: Any, scope: str, subject_id: str, generation: int = 0) -> None:
    hashed = hash_token(VAULT.derive_token(scope, subject_id, generation))
    insert_callback_token(
        tx, owner_id=OWNER, scope=scope, subject_id=subject_id, token_hash=hashed, now=0.0, expires_at=100.0,
        generation=generation,
    )  # fmt: skip


def test_two_heartbeats_at_once_make_one_successor(world: World) -> None:
    """And both are told the same."""
    node_id = world.node()
    world.write(lambda tx: _token(tx, "node", node_id))

    def beat(_: int) -> dict[str, Any]:
        def work(tx: Any) -> dict[str, Any]:
            get_run(tx, f"run-{node_id}", lock=True)
            return renewed_tokens(tx, VAULT, node_id, seen=0, now=60.0, life_s=100.0)

        answer: dict[str, Any] = world.write(work)
        return answer

    answers = race(beat, 8)
    token = {"token": VAULT.derive_token("node", node_id, 1), "generation": 1}
    assert answers == [{"callback_token": token, "workspace_tokens": {}}] * 8
    with world.database.read() as tx:
        assert tx.execute(select(func.count()).select_from(Token)).scalar_one() == 2


def test_the_newest_of_a_node_are_its_own_only(world: World) -> None:
    """Not another node's, and no bootstrap token."""
    node_id, other = world.node(), world.node("node-2")

    def work(tx: Any) -> None:
        for scope, subject_id, generation in (
            ("node", node_id, 0), ("node", node_id, 1), ("node", other, 0), ("node", other, 3),
        ):  # fmt: skip
            _token(tx, scope, subject_id, generation)

    world.write(work)
    with world.database.read() as tx:
        assert [(row.subject_id, row.generation) for row in newest_tokens(tx, node_id)] == [(node_id, 1)]


def test_one_that_never_expires_is_never_renewed(world: World) -> None:
    """Those that an earlier release made."""
    node_id = world.node()

    def work(tx: Any) -> dict[str, Any]:
        insert_callback_token(
            tx, owner_id=OWNER, scope="node", subject_id=node_id, token_hash="h", now=0.0, expires_at=None
        )
        return renewed_tokens(tx, VAULT, node_id, seen=0, now=1e9, life_s=100.0)

    assert world.write(work) == {"callback_token": None, "workspace_tokens": {}}


def test_a_callback_of_a_run_is_only_lengthened_and_says_until_when_it_is_good(world: World) -> None:
    """On both databases, which have other words for the later of two times."""
    run = world.run("run-1", "own-1", "own")

    def until(expires_at: float) -> Any:
        return world.write(
            lambda tx: grant_callback(tx, run.id, "paid", token_hash="h", now=1.0, expires_at=expires_at)
        )

    assert [until(10.0), until(30.0), until(20.0)] == [10.0, 30.0, 30.0]
