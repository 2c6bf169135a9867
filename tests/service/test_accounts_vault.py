"""Tokens and secrets: hashed or sealed at rest, and refused when they should be."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

from taskflow.db.models import Token
from taskflow.errors import Forbidden, InfrastructureError, NotFound, Unauthorized, UsageError
from taskflow.vault import Vault, hash_token
from tests.support.world import World

KEY = "a-key-that-is-long-enough"


def test_only_the_hash_of_a_token_is_stored(world: World) -> None:
    """Who reads the database can't call the API."""
    made = world.service.accounts.create_token(owner="ada", name="laptop")
    with world.app.database.read() as tx:
        row = tx.execute(select(Token.__table__).where(Token.id == made["id"])).one()
    assert row.token_hash == hash_token(made["token"])
    assert made["token"] not in str(tuple(row))
    assert made["token"] not in str(world.service.accounts.list_tokens())


def test_a_token_ends_with_its_time(world: World) -> None:
    """The moment of expiry is outside."""
    token = world.service.accounts.create_token(name="short", expires_s=60.0)["token"]
    world.travel.shift(59.9)
    assert world.service.accounts.authenticate(token, "api").name == "short"
    world.travel.shift(0.1)
    with pytest.raises(Unauthorized, match="expired"):
        world.service.accounts.authenticate(token, "api")


def test_a_revoked_token_is_refused_and_revoking_twice_says_so(world: World) -> None:
    """Revocation counts from the next request on."""
    made = world.service.accounts.create_token(name="lost")
    world.service.accounts.revoke_token(made["id"])
    with pytest.raises(Unauthorized):
        world.service.accounts.authenticate(made["token"], "api")
    with pytest.raises(NotFound):
        world.service.accounts.revoke_token(made["id"])


def test_a_token_is_good_for_its_scope_and_subject_alone(world: World) -> None:
    """A node's token is no user's, and not another node's."""
    world.finish(world.submit())
    token = world.agent.order.agent["callback_token"]
    with pytest.raises(Forbidden):
        world.service.accounts.authenticate(token, "api")
    caller = world.service.accounts.authenticate(token, "node")
    with pytest.raises(Forbidden):
        world.service.callbacks.node_heartbeat(caller, "node-other", world.agent.beat())
    with pytest.raises(Forbidden):
        world.service.callbacks.workspace_outcome(caller, world.agent.order.node_id, {})


@pytest.mark.parametrize("token", [None, "", "tf_wrong"])
def test_no_token_and_a_wrong_one_are_unauthorized(world: World, token: str | None) -> None:
    """Neither says which tokens exist."""
    with pytest.raises(Unauthorized):
        world.service.accounts.authenticate(token, "api")


def test_a_token_needs_a_name_and_a_future(world: World) -> None:
    """The error names the field."""
    with pytest.raises(UsageError) as nameless:
        world.service.accounts.create_token(name="  ")
    with pytest.raises(UsageError) as past:
        world.service.accounts.create_token(name="x", expires_s=0)
    assert [list(error.value.fields) for error in (nameless, past)] == [["name"], ["expires_s"]]


def test_derived_tokens_are_the_same_each_time_and_differ_by_scope_and_key() -> None:
    """A repeated request carries the same token; a workspace's is not a node's."""
    tokens = {
        Vault(key).derive_token(scope, "x-1") for key in (KEY, KEY + "2") for scope in ("node", "workspace", "agent")
    }
    assert len(tokens) == 6
    assert Vault(KEY).derive_token("node", "x-1") in tokens


def test_secrets_open_with_their_key_only() -> None:
    """Another key is said to be that, with the setting to look at."""
    sealed = Vault(KEY).encrypt({"TOKEN": "s3cret-value"})
    assert b"s3cret" not in sealed
    assert Vault(KEY).decrypt(sealed) == {"TOKEN": "s3cret-value"}
    with pytest.raises(InfrastructureError) as wrong:
        Vault(KEY + "2").decrypt(sealed)
    assert "TASKFLOW_SECRET_KEY" in str(wrong.value.advice)
    with pytest.raises(InfrastructureError):
        Vault("short")


def test_a_fingerprint_needs_the_key() -> None:
    """A weak secret can't be guessed from the stored hash of its request."""
    assert Vault(KEY).fingerprint({"a": 1, "b": 2}) == Vault(KEY).fingerprint({"b": 2, "a": 1})
    assert Vault(KEY).fingerprint({"a": 1}) != Vault(KEY + "2").fingerprint({"a": 1})
    assert Vault(KEY).fingerprint({"a": 1}) != Vault(KEY).fingerprint({"a": 2})


SAID = {
    "outcome": "exited", "exit_code": 1, "commit": "c0ffee", "output_branch": "taskflow/exited", "pushed": False,
    "changed_files": ["a.txt", "s3cret-one.txt"],
    "error": {"code": "push", "message": "s3cret-one-longer is not s3cret-one, no", "phase": "push"},
}  # fmt: skip


def test_an_outcome_is_kept_without_the_secrets_of_its_task() -> None:
    """In names of files and in what programs said; the longer of two first, short ones and the protocol's words not."""
    vault = Vault(KEY)
    sealed = vault.encrypt({"A": "s3cret-one", "B": " s3cret-one-longer\n", "C": "exited", "D": "no", "E": ""})
    masked = vault.mask_outcome(SAID, sealed)
    assert masked == {
        **SAID,
        "changed_files": ["a.txt", "***.txt"],
        "error": {"code": "push", "message": "*** is not ***, no", "phase": "push"},
    }
    assert vault.mask_outcome(masked, sealed) == masked
    assert vault.mask_outcome(SAID, None) == SAID
    assert SAID["changed_files"] == ["a.txt", "s3cret-one.txt"]


def test_an_outcome_whose_secrets_cannot_be_opened_counts_without_its_texts() -> None:
    """Another secret key than the one they were sealed with: how the command ended is known all the same."""
    masked = Vault(KEY + "2").mask_outcome(SAID, Vault(KEY).encrypt({"A": "s3cret-one"}))
    assert masked == {
        **SAID,
        "changed_files": ["***", "***"],
        "error": {"code": "push", "message": "***", "phase": "push"},
    }


def test_a_secret_reaches_the_session_and_nothing_else(world: World, tmp_path: Path) -> None:
    """Not the database, not events, errors, views or Redis; the command gets it."""
    secret = "s3cret-value-that-is-unique"
    world.plan.outcome = {"outcome": "exited", "exit_code": 1}
    task, _ = world.service.tasks.submit(
        world.caller, {"repository": "/r", "command": ["x"], "secrets": {"TOKEN": secret}}, idempotency_key="k"
    )
    world.at_step(task, "running")
    in_redis = [world.redis.hgetall(key) for key in world.redis.scan_iter() if world.redis.type(key) == b"hash"]
    done = world.finish(task)

    assert next(iter(world.agent.sessions.values()))["order"]["secrets"] == {"TOKEN": secret}
    assert done["has_secrets"] is True
    shown = [done, world.events(task["id"]), world.why(task["id"]), in_redis, world.service.tasks.list(world.caller)]
    assert secret not in str(shown)
    for file in tmp_path.glob("taskflow.db*"):
        assert secret.encode() not in file.read_bytes(), file
