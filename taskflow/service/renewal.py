"""Renewing the tokens of a node and of what lives on it, with the answers to its heartbeats."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row

from taskflow.db.tokens import delete_expired_tokens, insert_callback_token, newest_tokens
from taskflow.vault import Vault, hash_token


def renewed_tokens(
    tx: Connection, vault: Vault, node_id: str, *, seen: int, now: float, life_s: float
) -> dict[str, Any]:
    """What a heartbeat's answer says of tokens (``protocol.HeartbeatAnswerSchema``); ``seen``: the generation it came by.

    A token that is past half of its life gets a successor, which is told until the node is seen using it: an answer may
    be lost, and the old one is good for as long again. The caller holds the row of the node's run, so two heartbeats at
    once make one.
    """
    said: dict[str, Any] = {"callback_token": None, "workspace_tokens": {}}
    for row in newest_tokens(tx, node_id):
        generation = row.generation
        if _is_ageing(row, now):
            generation += 1
            delete_expired_tokens(tx, row.subject_id, now)
            insert_callback_token(
                tx, owner_id=row.owner_id, scope=row.scope, subject_id=row.subject_id, generation=generation, now=now,
                token_hash=hash_token(vault.derive_token(row.scope, row.subject_id, generation)),
                expires_at=now + life_s,
            )  # fmt: skip
        token = {"token": vault.derive_token(row.scope, row.subject_id, generation), "generation": generation}
        if row.scope == "workspace" and generation > 0:
            said["workspace_tokens"][row.subject_id] = token
        elif row.scope == "node" and generation > seen:
            said["callback_token"] = token
    return said


def _is_ageing(row: Row[Any], now: float) -> bool:
    return row.expires_at is not None and now >= (row.created_at + row.expires_at) / 2.0
