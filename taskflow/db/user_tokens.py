"""Users' tokens in SQL: made, listed, revoked. Only their hashes are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from taskflow.db.models import Owner, Token
from taskflow.db.roles import ROLES
from taskflow.errors import NotFound, UsageError
from taskflow.ids import new_token_id
from taskflow.vault import hash_token, new_api_token

NAME_MAX = 200
#: A hundred years.
EXPIRES_MAX_S = 100 * 365 * 86_400.0


@dataclass(frozen=True)
class NewToken:
    """A user's token that is being made."""

    id: str
    token: str
    name: str
    role: str
    created_at: float
    expires_at: float | None

    def __repr__(self) -> str:
        return f"NewToken(id={self.id!r})"

    @classmethod
    def make(cls, name: str, role: str, expires_s: float | None, now: float) -> NewToken:
        """One that is in no table yet. Raises ``UsageError`` naming the field that is wrong."""
        if not name.strip():
            raise UsageError("a token needs a name", fields={"name": "must not be empty"})
        if len(name) > NAME_MAX:
            raise UsageError("the name is too long", fields={"name": f"must not be longer than {NAME_MAX} characters"})
        if role not in ROLES:
            raise UsageError(f"there is no role {role!r}", fields={"role": f"one of {', '.join(ROLES)}"})
        if expires_s is not None and not expires_s > 0:  # nan is no time either
            raise UsageError("a token must expire in the future", fields={"expires_s": "must be positive"})
        if expires_s is not None and expires_s > EXPIRES_MAX_S:
            raise UsageError(
                "a token can't expire so late; leave the time out for one that does not",
                fields={"expires_s": f"must not be above {EXPIRES_MAX_S:.0f}"},
            )
        expires_at = None if expires_s is None else now + expires_s
        return cls(new_token_id(), new_api_token(), name, role, now, expires_at)

    def insert(self, tx: Connection, owner_id: str) -> None:
        """Its row: the hash, not the token."""
        tx.execute(
            insert(Token).values(
                id=self.id, owner_id=owner_id, scope="api", name=self.name, token_hash=hash_token(self.token),
                created_at=self.created_at, expires_at=self.expires_at, role=self.role,
            )
        )  # fmt: skip


def list_user_tokens(
    tx: Connection, owner_id: str | None = None, *, after: str | None = None, limit: int | None = None
) -> Sequence[Row[Any]]:
    """The users' tokens of an owner, or of all, with the owner's name, the oldest first. ``limit``: how many at most;
    ``after``: only those with greater ids."""
    tokens = select(Token.__table__, Owner.name.label("owner")).join(Owner, Owner.id == Token.owner_id)
    if owner_id is not None:
        tokens = tokens.where(Token.owner_id == owner_id)
    if after is not None:
        tokens = tokens.where(Token.id > after)
    return tx.execute(tokens.where(Token.scope == "api").order_by(Token.id).limit(limit)).all()


def revoke_user_token(tx: Connection, token_id: str, now: float, owner_id: str | None = None) -> str:
    """Revoke a user's token (of this owner, if one is named); whose it is. Raises ``NotFound``."""
    live = update(Token).where(Token.id == token_id, Token.scope == "api", Token.revoked_at.is_(None))
    if owner_id is not None:
        live = live.where(Token.owner_id == owner_id)
    row = tx.execute(live.values(revoked_at=now).returning(Token.owner_id)).first()
    if row is None:
        raise NotFound(f"no live token {token_id}", fields={"token_id": "unknown"})
    return str(row.owner_id)
