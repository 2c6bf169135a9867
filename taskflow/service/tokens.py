"""What an owner's admin does with the owner's tokens, and what anybody asks of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import and_, select

from taskflow.clock import Clock, isoformat
from taskflow.db.models import Owner, Token
from taskflow.db.session import Database
from taskflow.db.user_tokens import EXPIRES_MAX_S, NewToken, list_user_tokens, revoke_user_token
from taskflow.service.accounts import Caller
from taskflow.service.pages import decode_cursor, encode_cursor, page_size
from taskflow.service.views import new_token_view, token_view

__all__ = ["EXPIRES_MAX_S", "Tokens"]


class Tokens:
    """See the module."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def who_is(self, caller: Caller) -> dict[str, Any]:
        """The caller as they are known here: owner, token, role. An application's own code has no token: it is ``""``."""
        own = select(Owner.name, Token.expires_at).outerjoin(
            Token, and_(Token.owner_id == Owner.id, Token.id == caller.token_id)
        )
        with self._database.read() as tx:
            row = tx.execute(own.where(Owner.id == caller.owner_id)).one()
        return {
            "owner": row.name,
            "owner_id": caller.owner_id,
            "token_id": caller.token_id,
            "name": caller.name,
            "role": caller.role,
            "browser_id": caller.browser_id,
            "expires_at": isoformat(row.expires_at),
        }

    def list(
        self, caller: Caller, *, limit: int = 50, cursor: str | None = None
    ) -> tuple[Sequence[dict[str, Any]], str | None]:
        """A page of the tokens of the caller's owner, the oldest first, without the tokens, and the cursor of the next page
        (None after the last). Raises ``UsageError`` for a foreign cursor."""
        after = decode_cursor(cursor, str)[0] if cursor else None
        with self._database.read() as tx:
            rows = list_user_tokens(tx, caller.owner_id, after=after, limit=page_size(limit))
        page = rows[: page_size(limit) - 1]
        return [token_view(row) for row in page], encode_cursor(page[-1].id) if len(rows) > len(page) else None

    def create(self, caller: Caller, name: str, role: str, expires_s: float | None = None) -> dict[str, Any]:
        """A further token of the caller's owner; the token itself is shown only here. Raises ``UsageError``."""
        made = NewToken.make(name, role, expires_s, self._clock.now())
        named = select(Owner.name).where(Owner.id == caller.owner_id)

        def work(tx: Any) -> str:
            made.insert(tx, caller.owner_id)
            return str(tx.execute(named).scalar_one())

        return new_token_view(made, self._database.write(work), caller.owner_id)

    def revoke(self, caller: Caller, token_id: str) -> None:
        """Revoke a token of the caller's owner, their own too; browsers signed in with it are signed out by that. Raises
        ``NotFound``."""
        now = self._clock.now()
        self._database.write(lambda tx: revoke_user_token(tx, token_id, now, caller.owner_id))
