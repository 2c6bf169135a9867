"""Signing browsers in and out. A browser acts for the token it was signed in with, and is signed out when that ends."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import structlog
from sqlalchemy import Connection, Row, select

from taskflow.clock import Clock, isoformat
from taskflow.db.browsers import (
    delete_browser,
    insert_browser,
    insert_code,
    move_browsers,
    note_seen,
    signed_in_browser,
    token_of_code,
    use_code,
    whom_code_is_for,
)
from taskflow.db.models import Token
from taskflow.db.session import Database
from taskflow.errors import InfrastructureError, Unauthorized, UsageError
from taskflow.ids import new_browser_id
from taskflow.service.accounts import Caller, live_caller
from taskflow.service.seen import Seen
from taskflow.settings import Settings
from taskflow.vault import hash_token, new_secret

__all__ = ["Browser", "Browsers", "SignInRefused", "SignedIn"]

log = structlog.get_logger(__name__)

#: How exact the time of the last request is, in seconds, unless the idle limit is short.
SEEN_NOTED_S = 60.0
_USER_AGENT_MAX = 100


class SignInRefused(Unauthorized):
    """A sign-in that failed. ``owner_id`` and ``token_id`` say whose token it was, when it is a known one."""

    code = "sign_in_refused"

    def __init__(self, message: str, row: Row[Any] | None = None) -> None:
        super().__init__(message)
        self.owner_id: str | None = None if row is None else row.owner_id
        self.token_id: str | None = None if row is None else row.id


@dataclass(frozen=True)
class SignedIn:
    """A browser that was just signed in, and what its cookie holds."""

    caller: Caller
    secret: str = field(repr=False)


@dataclass(frozen=True)
class Browser:
    """A browser that is signed in: for whom it acts, and what its writes have to carry."""

    caller: Caller
    csrf_secret: str = field(repr=False)


class Browsers:
    """See the module."""

    def __init__(self, database: Database, clock: Clock, settings: Settings) -> None:
        self._database = database
        self._clock = clock
        self._settings = settings
        self._noted_s = min(SEEN_NOTED_S, settings.browser_idle_s / 4)
        self._seen = Seen(clock, self._noted_s)

    # --- signing in and out

    def sign_in(self, token: str, user_agent: str, former: str | None = None) -> SignedIn:
        """Sign a browser in with an API token. ``former``: what its cookie held until now, which is good no longer.

        Raises ``SignInRefused``.
        """
        of_token = select(Token.__table__).where(Token.token_hash == hash_token(token))
        return self._sign_in(lambda tx: tx.execute(of_token).first(), user_agent, former)

    def sign_in_with_code(self, code: str, user_agent: str, former: str | None = None) -> SignedIn:
        """Sign a browser in with what a sign-in link carries, which is used up by it. Raises ``SignInRefused``."""
        hashed = hash_token(code)

        def first(tx: Connection) -> Row[Any] | None:
            row = token_of_code(tx, hashed)
            if use_code(tx, hashed, self._clock.now()) is None:
                raise SignInRefused("this sign-in link was used already or is too old", row)
            return row

        return self._sign_in(first, user_agent, former)

    def _sign_in(self, find: Any, user_agent: str, former: str | None) -> SignedIn:
        now, secret, browser_id = self._clock.now(), new_secret("browser"), new_browser_id()

        def work(tx: Connection) -> Caller:
            row = find(tx)
            try:
                caller = live_caller(row, "api", now)
            except UsageError as error:  # a token of a node, too, signs nobody in
                raise SignInRefused(error.message, row) from None
            if former is not None:
                delete_browser(tx, hash_token(former))
            insert_browser(
                tx, id=browser_id, token_id=caller.token_id, secret_hash=hash_token(secret),
                csrf_secret=new_secret("csrf"), user_agent=user_agent[:_USER_AGENT_MAX], created_at=now,
                last_seen_at=now, expires_at=now + self._settings.browser_session_s,
            )  # fmt: skip
            return replace(caller, browser_id=browser_id)

        return SignedIn(self._database.write(work), secret)

    def sign_out(self, secret: str) -> None:
        """Sign out the browser whose cookie holds ``secret``. Repeating it changes nothing."""
        self._database.write(lambda tx: delete_browser(tx, hash_token(secret)))

    def hand_over(self, token_id: str, to: str) -> None:
        """Browsers that are signed in with a token go on with the one that takes its place, if that is of the same owner
        with the same role, and the token is still good."""
        now = self._clock.now()
        self._database.write(lambda tx: move_browsers(tx, token_id, to, now))

    def make_link(self, caller: Caller) -> dict[str, Any]:
        """A code that signs one browser in for the caller's token, once and soon: ``{"code", "expires_at"}``.

        Raises ``UsageError`` for an application's own code, which has no token (``Accounts.acting_for``).
        """
        if not caller.token_id:
            raise UsageError(
                "a browser signs in with a token, and the caller has none",
                advice="make a token first: taskflow token create, or POST /api/tokens",
            )
        code, now = new_secret("code"), self._clock.now()
        expires_at = now + self._settings.sign_in_code_s
        self._database.write(lambda tx: insert_code(tx, hash_token(code), caller.token_id, now, expires_at))
        return {"code": code, "expires_at": isoformat(expires_at)}

    def whom(self, code: str) -> dict[str, str] | None:
        """For whom a link signs in, ``{"owner", "name", "role"}``; None when it is not good, or no more."""
        with self._database.read() as tx:
            row = whom_code_is_for(tx, hash_token(code), self._clock.now())
        return None if row is None else dict(row._mapping)

    # --- every request

    def authenticate(self, secret: str) -> Browser:
        """The browser whose cookie holds ``secret``. Raises ``Unauthorized`` when it is not signed in, or no more."""
        now = self._clock.now()
        with self._database.read() as tx:
            row = signed_in_browser(tx, hash_token(secret))
        if row is None:
            raise Unauthorized("this browser is not signed in", code="signed_out")
        if row.ends_at <= now or row.last_seen_at + self._settings.browser_idle_s <= now:
            raise Unauthorized("this browser was signed in for too long", code="signed_out", advice="sign in again")
        caller = live_caller(row, "api", now)
        return Browser(replace(caller, browser_id=row.browser_id), row.csrf_secret)

    def note_seen(self, caller: Caller) -> None:
        """Remember that the browser was there now, about once a minute; see ``Accounts.note_use``."""
        if caller.browser_id is None or not self._seen.is_due(caller.browser_id):
            return
        now, browser_id = self._clock.now(), caller.browser_id
        try:
            self._database.write(lambda tx: note_seen(tx, browser_id, now, now - self._noted_s))
        except InfrastructureError as error:
            log.warning("browser_not_noted", code=error.code)
