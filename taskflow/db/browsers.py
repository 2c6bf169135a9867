"""Browsers that are signed in, and sign-in links, in SQL. What a cookie or a link holds is stored as its hash."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, exists, insert, or_, select, update
from sqlalchemy.orm import aliased

from taskflow.db.account_models import BrowserSession, SignInCode
from taskflow.db.models import Owner, Token

_WHOM: tuple[Any, ...] = (Owner.name.label("owner"), Token.name, Token.role)
_SIGNED_IN = (
    select(
        BrowserSession.id.label("browser_id"),
        BrowserSession.csrf_secret,
        BrowserSession.last_seen_at,
        BrowserSession.expires_at.label("ends_at"),
        Token.__table__,
    )
    .join(Token, Token.id == BrowserSession.token_id)
    .where(BrowserSession.secret_hash == bindparam("hashed"))
)


def signed_in_browser(tx: Connection, secret_hash: str) -> Row[Any] | None:
    """The session whose cookie has this hash, with its token."""
    return tx.execute(_SIGNED_IN, {"hashed": secret_hash}).first()


def insert_browser(tx: Connection, **values: Any) -> None:
    """A browser that signs in."""
    tx.execute(insert(BrowserSession).values(**values))


def note_seen(tx: Connection, browser_id: str, now: float, before: float) -> None:
    """It was there now, unless that was noted after ``before`` already."""
    stale = update(BrowserSession).where(BrowserSession.id == browser_id, BrowserSession.last_seen_at <= before)
    tx.execute(stale.values(last_seen_at=now))


def delete_browser(tx: Connection, secret_hash: str) -> None:
    """Sign a browser out."""
    tx.execute(delete(BrowserSession).where(BrowserSession.secret_hash == secret_hash))


def move_browsers(tx: Connection, token_id: str, to: str, now: float) -> None:
    """Those that are signed in with one token are signed in with another, if that gives the same rights to the same owner
    and the one before is still good: who is signed out stays so."""
    former, heir = aliased(Token), aliased(Token)
    fits = exists().where(
        former.id == token_id, former.revoked_at.is_(None), or_(former.expires_at.is_(None), former.expires_at > now),
        heir.id == to, heir.owner_id == former.owner_id, heir.role == former.role,
    )  # fmt: skip
    tx.execute(update(BrowserSession).where(BrowserSession.token_id == token_id, fits).values(token_id=to))


def insert_code(tx: Connection, code_hash: str, token_id: str, now: float, expires_at: float) -> None:
    """A sign-in link."""
    tx.execute(insert(SignInCode).values(code_hash=code_hash, token_id=token_id, created_at=now, expires_at=expires_at))


def _good(code_hash: str, now: float) -> tuple[Any, ...]:
    """That a link was not used and is not too old."""
    return SignInCode.code_hash == code_hash, SignInCode.used_at.is_(None), SignInCode.expires_at > now


def use_code(tx: Connection, code_hash: str, now: float) -> str | None:
    """The token that the link signs in for, to whoever comes first and in time; None to everybody else."""
    unused = update(SignInCode).where(*_good(code_hash, now))
    row = tx.execute(unused.values(used_at=now).returning(SignInCode.token_id)).first()
    return None if row is None else str(row.token_id)


def token_of_code(tx: Connection, code_hash: str) -> Row[Any] | None:
    """The token for which a link was made, whether the link is still good or not."""
    of_code = select(Token.__table__).join(SignInCode, SignInCode.token_id == Token.id)
    return tx.execute(of_code.where(SignInCode.code_hash == code_hash)).first()


def whom_code_is_for(tx: Connection, code_hash: str, now: float) -> Row[Any] | None:
    """For whom a link signs in while it is good: ``owner``, ``name`` and ``role`` of its token."""
    for_whom = (
        select(*_WHOM)
        .join(Token, Token.owner_id == Owner.id)
        .join(SignInCode, SignInCode.token_id == Token.id)
        .where(*_good(code_hash, now))
        .where(Token.revoked_at.is_(None), or_(Token.expires_at.is_(None), Token.expires_at > now))
    )
    return tx.execute(for_whom).first()


def prune_browsers(tx: Connection, now: float, limit: int) -> int:
    """Delete sessions and links whose time is over; how many there were."""
    sessions = select(BrowserSession.id).where(BrowserSession.expires_at <= now).limit(limit)
    codes = select(SignInCode.code_hash).where(SignInCode.expires_at <= now).limit(limit)
    return (
        tx.execute(delete(BrowserSession).where(BrowserSession.id.in_(sessions))).rowcount
        + tx.execute(delete(SignInCode).where(SignInCode.code_hash.in_(codes))).rowcount
    )
