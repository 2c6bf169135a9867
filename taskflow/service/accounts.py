"""Owners, tokens, and who is calling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update

from taskflow.clock import Clock, isoformat
from taskflow.db.models import Owner, Token
from taskflow.db.session import Database
from taskflow.errors import Forbidden, NotFound, Unauthorized, UsageError
from taskflow.ids import OwnerId, new_owner_id, new_token_id
from taskflow.vault import hash_token, new_api_token

DEFAULT_OWNER = "default"

_TOKEN = select(Token.__table__).where(Token.token_hash == bindparam("hashed"))

_LIVE = select(Token.revoked_at, Token.expires_at).where(Token.id == bindparam("of_token"))


@dataclass(frozen=True)
class Caller:
    """Who makes a request: ``scope`` api acts for its owner; node and workspace for exactly ``subject_id``."""

    owner_id: str
    scope: str
    subject_id: str | None
    token_id: str
    name: str
    #: Of a token that is renewed: how often it was.
    generation: int = 0

    @property
    def actor(self) -> str:
        """How events name this caller."""
        return f"{self.scope}:{self.name}"

    def must_be(self, scope: str, subject_id: str) -> None:
        """Raise ``Forbidden`` unless the token is of ``scope`` and for ``subject_id`` (L-7)."""
        if self.scope != scope or self.subject_id != subject_id:
            raise Forbidden(f"this token is not for {scope} {subject_id}")


class Accounts:
    """Making, checking and revoking tokens."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def authenticate(self, token: str | None, scope: str) -> Caller:
        """The caller behind a bearer token. Raises ``Unauthorized``, or ``Forbidden`` when its scope is another."""
        if not token:
            raise Unauthorized("a bearer token is needed", advice="send the header: Authorization: Bearer <token>")
        with self._database.read() as tx:
            row = tx.execute(_TOKEN, {"hashed": hash_token(token)}).first()
        if row is None or row.revoked_at is not None:
            raise Unauthorized("the token is not valid")
        if row.expires_at is not None and row.expires_at <= self._clock.now():
            raise Unauthorized("the token has expired", advice="make a new one: taskflow token create")
        if row.scope != scope:
            raise Forbidden(f"this is a {row.scope} token; a {scope} token is needed")
        return Caller(row.owner_id, row.scope, row.subject_id, row.id, row.name, row.generation)

    def is_live(self, caller: Caller) -> bool:
        """Whether the token of ``caller`` is still good: neither revoked nor expired since it was checked."""
        with self._database.read() as tx:
            row = tx.execute(_LIVE, {"of_token": caller.token_id}).first()
        if row is None or row.revoked_at:
            return False
        return row.expires_at is None or bool(row.expires_at > self._clock.now())

    def acting_for(self, owner: str, *, name: str) -> Caller:
        """Code of this installation's own process, which needs no token; it acts for ``owner``, who is made when new."""
        now = self._clock.now()
        owner_id = self._database.write(lambda tx: self._owner(tx, owner, now))
        return Caller(owner_id, "api", None, "", name)

    def create_token(self, *, owner: str = DEFAULT_OWNER, name: str, expires_s: float | None = None) -> dict[str, Any]:
        """A new API token of the owner called ``owner``, who is made when new. The token itself is shown only here."""
        if not name.strip():
            raise UsageError("a token needs a name", fields={"name": "must not be empty"})
        if expires_s is not None and expires_s <= 0:
            raise UsageError("a token must expire in the future", fields={"expires_s": "must be positive"})
        token, token_id, now = new_api_token(), new_token_id(), self._clock.now()
        expires_at = None if expires_s is None else now + expires_s

        def work(tx: Connection) -> str:
            owner_id = self._owner(tx, owner, now)
            tx.execute(
                insert(Token).values(
                    id=token_id, owner_id=owner_id, scope="api", name=name, token_hash=hash_token(token),
                    created_at=now, expires_at=expires_at,
                )
            )  # fmt: skip
            return owner_id

        owner_id = self._database.write(work)
        return {
            "id": token_id, "token": token, "name": name, "owner": owner, "owner_id": owner_id,
            "expires_at": isoformat(expires_at),
        }  # fmt: skip

    def _owner(self, tx: Connection, name: str, now: float) -> OwnerId:
        row = tx.execute(select(Owner.id).where(Owner.name == name)).first()
        if row is not None:
            return OwnerId(row.id)
        owner_id = new_owner_id()
        tx.execute(insert(Owner).values(id=owner_id, name=name, created_at=now))
        return owner_id

    def list_tokens(self) -> list[dict[str, Any]]:
        """All API tokens of this installation, without the tokens."""
        with self._database.read() as tx:
            rows = tx.execute(
                select(Token.__table__, Owner.name.label("owner"))
                .join(Owner, Owner.id == Token.owner_id)
                .where(Token.scope == "api")
                .order_by(Token.id)
            ).all()
        return [
            {
                "id": row.id, "name": row.name, "owner": row.owner, "created_at": isoformat(row.created_at),
                "expires_at": isoformat(row.expires_at), "revoked_at": isoformat(row.revoked_at),
            }
            for row in rows
        ]  # fmt: skip

    def revoke_token(self, token_id: str) -> None:
        """Revoke a token. Raises ``NotFound``."""
        now = self._clock.now()
        changed = self._database.write(
            lambda tx: (
                tx.execute(
                    update(Token)
                    .where(Token.id == token_id, Token.scope == "api", Token.revoked_at.is_(None))
                    .values(revoked_at=now)
                ).rowcount
            )
        )
        if changed == 0:
            raise NotFound(f"no live token {token_id}", fields={"token_id": "unknown"})
