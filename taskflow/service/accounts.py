"""Owners, tokens, and who is calling.

The verbs that make, list and revoke tokens here are for who operates the installation: they know no owner's bounds. Those
of an owner's admin are in ``taskflow.service.tokens``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import Connection, Row, bindparam, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from taskflow.clock import Clock
from taskflow.db.account_models import BrowserSession
from taskflow.db.audit import AuditEntry, insert_audit
from taskflow.db.models import Owner, Token
from taskflow.db.roles import ADMIN, OPERATOR, ROLES, VIEWER, includes
from taskflow.db.session import Database
from taskflow.db.user_tokens import NewToken, list_user_tokens, revoke_user_token
from taskflow.errors import Forbidden, InfrastructureError, Unauthorized
from taskflow.ids import OwnerId, new_owner_id
from taskflow.service.seen import Seen
from taskflow.service.views import new_token_view, token_view
from taskflow.vault import hash_token

__all__ = ["ADMIN", "DEFAULT_OWNER", "OPERATOR", "ROLES", "VIEWER", "Accounts", "Caller"]

log = structlog.get_logger(__name__)

DEFAULT_OWNER = "default"
#: Who makes tokens on the database itself, as the audit trail names them.
OPERATING = "cli:operator"
#: How exact ``last_used_at`` is, in seconds.
USE_NOTED_S = 60.0

_TOKEN = select(Token.__table__).where(Token.token_hash == bindparam("hashed"))

_LIVE = select(Token.revoked_at, Token.expires_at).where(Token.id == bindparam("of_token"))

_SIGNED_IN = select(BrowserSession.expires_at).where(BrowserSession.id == bindparam("of_browser"))


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
    #: Of a user: what they may do.
    role: str = ""
    #: The browser that is signed in with the token, when the token itself was not shown.
    browser_id: str | None = None

    @property
    def actor(self) -> str:
        """How events name this caller."""
        return f"{self.scope}:{self.name}"

    def must_be(self, scope: str, subject_id: str) -> None:
        """Raise ``Forbidden`` unless the token is of ``scope`` and for ``subject_id`` (L-7)."""
        if self.scope != scope or self.subject_id != subject_id:
            raise Forbidden(f"this token is not for {scope} {subject_id}")

    def must_have(self, role: str) -> None:
        """Raise ``Forbidden`` (``role_too_low``) unless the caller may what ``role`` may."""
        if not includes(self.role, role):
            raise Forbidden(
                f"this needs the role {role}; this token has the role {self.role}", code="role_too_low",
                advice=f"use a token with the role {role}; an admin makes one: POST /api/tokens",
                detail={"role": self.role, "needed_role": role},
            )  # fmt: skip


class Accounts:
    """Making, checking and revoking tokens."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._seen = Seen(clock, USE_NOTED_S)

    def authenticate(self, token: str | None, scope: str) -> Caller:
        """The caller behind a bearer token. Raises ``Unauthorized``, or ``Forbidden`` when its scope is another."""
        if not token:
            raise Unauthorized("a bearer token is needed", advice="send the header: Authorization: Bearer <token>")
        with self._database.read() as tx:
            row = tx.execute(_TOKEN, {"hashed": hash_token(token)}).first()
        return live_caller(row, scope, self._clock.now())

    def is_live(self, caller: Caller) -> bool:
        """Whether ``caller`` is still good: neither revoked nor expired nor signed out since they were checked."""
        now = self._clock.now()
        with self._database.read() as tx:
            row = tx.execute(_LIVE, {"of_token": caller.token_id}).first()
            ends_at = None
            if caller.browser_id is not None:
                ends_at = tx.execute(_SIGNED_IN, {"of_browser": caller.browser_id}).scalar_one_or_none() or now
        if row is None or row.revoked_at:
            return False
        return all(end is None or end > now for end in (row.expires_at, ends_at))

    def note_use(self, caller: Caller) -> None:
        """Remember that the user's token was used now, about once in ``USE_NOTED_S``. A database that takes no writes is no
        reason to refuse a read, so that failure is only logged."""
        if not self._seen.is_due(caller.token_id):
            return
        now = self._clock.now()
        stale = or_(Token.last_used_at.is_(None), Token.last_used_at <= now - USE_NOTED_S)
        used = update(Token).where(Token.id == caller.token_id, stale).values(last_used_at=now)
        try:
            self._database.write(lambda tx: tx.execute(used))
        except InfrastructureError as error:
            log.warning("use_not_noted", code=error.code)

    # --- for who operates the installation

    def acting_for(self, owner: str, *, name: str) -> Caller:
        """Code of this installation's own process, which needs no token; it acts for ``owner``, who is made when new."""
        with self._database.read() as tx:  # it may be asked for each request, and by who only looks
            known = tx.execute(select(Owner.id).where(Owner.name == owner)).scalar_one_or_none()
        now = self._clock.now()
        owner_id = known or self._twice(lambda tx: self._owner(tx, owner, now))
        return Caller(owner_id, "api", None, "", name, role=ADMIN)

    def create_token(
        self, *, owner: str = DEFAULT_OWNER, name: str, expires_s: float | None = None, role: str = ADMIN
    ) -> dict[str, Any]:
        """A new API token of the owner called ``owner``, who is made when new. The token itself is shown only here.

        ``expires_s``: seconds it is good for; None: until it is revoked. Raises ``UsageError``.
        """
        made = NewToken.make(name, role, expires_s, self._clock.now())

        def work(tx: Connection) -> str:
            owner_id = self._owner(tx, owner, made.created_at)
            made.insert(tx, owner_id)
            self._audit(tx, "create_token", owner_id, made.id, {"name": name, "role": role})
            return owner_id

        return new_token_view(made, owner, self._twice(work))

    def _twice(self, work: Callable[[Connection], str]) -> str:
        """Run ``work``; again, when a twin made the same owner first: this time they are there."""
        try:
            return self._database.write(work)
        except IntegrityError:
            return self._database.write(work)

    def _audit(self, tx: Connection, action: str, owner_id: str, token_id: str, data: dict[str, Any]) -> None:
        entry = AuditEntry(action, "done", OPERATING, owner_id, None, "token", token_id, data=data)
        insert_audit(tx, entry, self._clock.now())

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
            rows = list_user_tokens(tx)
        return [{**token_view(row), "owner": row.owner} for row in rows]

    def revoke_token(self, token_id: str) -> None:
        """Revoke a token. Raises ``NotFound``."""
        now = self._clock.now()

        def work(tx: Connection) -> None:
            owner_id = revoke_user_token(tx, token_id, now)
            self._audit(tx, "revoke_token", owner_id, token_id, {})

        self._database.write(work)


def live_caller(row: Row[Any] | None, scope: str, now: float) -> Caller:
    """The caller whose token ``row`` is. Raises ``Unauthorized``, or ``Forbidden`` when its scope is another."""
    if row is None or row.revoked_at is not None:
        raise Unauthorized("the token is not valid")
    if row.expires_at is not None and row.expires_at <= now:
        raise Unauthorized("the token has expired", advice="make a new one: taskflow token create")
    if row.scope != scope:
        raise Forbidden(f"this is a {row.scope} token; a {scope} token is needed")
    return Caller(row.owner_id, row.scope, row.subject_id, row.id, row.name, row.generation, row.role or "")
