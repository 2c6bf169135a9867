"""Callback tokens in SQL: a row for each generation. A renewal adds one; the one before stays good until it expires."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, String, bindparam, delete, insert, select, union_all

from taskflow.db.models import Token, Workspace

_HOLDERS = union_all(
    select(bindparam("of_node", type_=String)),
    select(Workspace.id).where(Workspace.node_id == bindparam("of_node"), Workspace.released_at.is_(None)),
)
_COLUMNS: tuple[Any, ...] = (
    Token.owner_id, Token.scope, Token.subject_id, Token.generation, Token.created_at, Token.expires_at,
)  # fmt: skip
_OF_NODE = (
    select(*_COLUMNS)
    .where(Token.subject_id.in_(_HOLDERS), Token.scope.in_(("node", "workspace")), Token.revoked_at.is_(None))
    .order_by(Token.generation)
)


def insert_callback_token(
    tx: Connection, *, owner_id: str, scope: str, subject_id: str, token_hash: str, now: float,
    expires_at: float | None, generation: int = 0,
) -> None:  # fmt: skip
    """A token of a node or workspace; ``expires_at`` None: never, and then it is never renewed."""
    tx.execute(
        insert(Token).values(
            id=f"token-{subject_id}-{generation}" if generation else f"token-{subject_id}", owner_id=owner_id,
            scope=scope, subject_id=subject_id, name=f"callbacks of {subject_id}", token_hash=token_hash,
            generation=generation, created_at=now, expires_at=expires_at,
        )
    )  # fmt: skip


def newest_tokens(tx: Connection, node_id: str) -> list[Row[Any]]:
    """The newest generation of the node's own token, and of that of each live workspace on it."""
    newest: dict[str, Row[Any]] = {row.subject_id: row for row in tx.execute(_OF_NODE, {"of_node": node_id}).all()}
    return list(newest.values())


def delete_expired_tokens(tx: Connection, subject_id: str, now: float) -> None:
    """Forget the generations of this node or workspace that are good for nothing any more."""
    tx.execute(delete(Token).where(Token.subject_id == subject_id, Token.expires_at <= now))
