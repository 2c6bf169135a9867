"""What is remembered of providers: where nothing is bought now, and why. One row for each, locked while it is counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, Row, and_, case, func, insert, null, or_, select, update
from sqlalchemy.exc import IntegrityError

from taskflow.db.events import promise
from taskflow.db.models import Node, ProviderAccount
from taskflow.db.session import Database
from taskflow.db.status import LOCAL_PROVIDER, NODE_COMING
from taskflow.engine.outcomes import Effect

_ACCOUNTS = ProviderAccount.__table__
_IS_ASKED = and_(
    ProviderAccount.check_asked_at.is_not(None),
    or_(ProviderAccount.checked_at.is_(None), ProviderAccount.checked_at < ProviderAccount.check_asked_at),
)
#: Outbox kind: something may be bought again, whoever waits for a node looks.
PROVIDER_CHANGED = "provider_changed"
#: Outbox kind: somebody who has no credentials asked whether a provider's works.
CHECK_PROVIDER = "check_provider"


def ensure_accounts(database: Database, names: Iterable[str], now: float) -> None:
    """A row for every provider of the catalogue; those that have one keep it."""

    def work(tx: Connection) -> None:
        known = {row.name for row in tx.execute(select(ProviderAccount.name))}
        for name in names:
            if name not in known:
                tx.execute(insert(ProviderAccount).values(name=name, offers_rest={}, changed_at=now))

    try:
        database.write(work)
    except IntegrityError:
        database.write(work)  # another process that starts wrote some of them first


def accounts(tx: Connection) -> dict[str, Row[Any]]:
    """All rows, by name."""
    return {row.name: row for row in tx.execute(select(_ACCOUNTS))}


def lock_account(tx: Connection, name: str) -> None:
    """Serialise what is counted over all owners of a provider."""
    tx.execute(select(ProviderAccount.name).where(ProviderAccount.name == name).with_for_update(key_share=True))


def server_counts(tx: Connection, provider: str | None = None) -> Mapping[tuple[str, str], tuple[int, int]]:
    """(provider, owner) -> (nodes that may have a server, those of them that are being made).

    A node in status error counts, as its server may still stand and be paid for; a local one costs nothing.
    """
    coming = func.count().filter(Node.status.in_(NODE_COMING))
    statement = (
        select(Node.provider, Node.owner_id, func.count().label("all"), coming.label("coming"))
        .where(Node.destroyed_at.is_(None), or_(Node.status != "error", Node.provider != LOCAL_PROVIDER))
        .group_by(Node.provider, Node.owner_id)
    )
    if provider is not None:
        statement = statement.where(Node.provider == provider)
    rows = tx.execute(statement)
    return {(row.provider, row.owner_id): (row.all, row.coming) for row in rows}


def rest_effect(name: str, *, until: float, because: Mapping[str, Any], now: float) -> Effect:
    """Nothing is bought at this provider before ``until``; ``because`` is shown to those who wait."""

    def effect(tx: Connection) -> None:
        tx.execute(
            update(ProviderAccount)
            .where(ProviderAccount.name == name)
            .values(rests_until=until, rests_because=dict(because), changed_at=now)
        )

    return effect


def block_effect(name: str, error: Mapping[str, Any], *, now: float) -> Effect:
    """Nothing is bought at this provider until ``unblock``."""

    def effect(tx: Connection) -> None:
        tx.execute(
            update(ProviderAccount)
            .where(ProviderAccount.name == name)
            .values(blocked={**error, "since": now}, changed_at=now)
        )

    return effect


def rest_offer_effect(name: str, offer: str, *, until: float, now: float) -> Effect:
    """This offer (``size@location``) is sold out: not asked for again before ``until``."""

    def effect(tx: Connection) -> None:
        lock_account(tx, name)
        known = tx.execute(select(ProviderAccount.offers_rest).where(ProviderAccount.name == name)).scalar() or {}
        still = {key: at for key, at in known.items() if at > now}
        tx.execute(
            update(ProviderAccount)
            .where(ProviderAccount.name == name)
            .values(offers_rest={**still, offer: until}, changed_at=now)
        )

    return effect


def sells_again_effect(name: str, now: float) -> Effect:
    """Something may be bought here again: who waits for it, of whatever owner, is rung."""

    def effect(tx: Connection) -> None:
        promise(tx, PROVIDER_CHANGED, {"provider": name}, now)

    return effect


def unblock(tx: Connection, name: str, now: float, *, has_room: bool = False) -> None:
    """Buy there again: its credential was found good. ``has_room``: somebody who knows says that the account has room
    again, which ends its rest as well."""
    rest = {"rests_until": None, "rests_because": null()} if has_room else {}
    shut = ProviderAccount.blocked.is_not(None)
    lifted = tx.execute(
        update(ProviderAccount)
        .where(ProviderAccount.name == name, or_(shut, ProviderAccount.rests_until.is_not(None)) if has_room else shut)
        .values(blocked=null(), changed_at=now, **rest)
    )
    if lifted.rowcount:
        promise(tx, PROVIDER_CHANGED, {"provider": name}, now)


def ask_check(tx: Connection, name: str, *, now: float, every_s: float) -> None:
    """Promise a check, unless one is asked for already or was less than ``every_s`` seconds ago."""
    over = and_(
        ProviderAccount.checked_at >= ProviderAccount.check_asked_at, ProviderAccount.check_asked_at <= now - every_s
    )
    asked = tx.execute(
        update(ProviderAccount)
        .where(ProviderAccount.name == name, or_(ProviderAccount.check_asked_at.is_(None), over))
        .values(check_asked_at=now, check_began_at=None)
    )
    if asked.rowcount:
        promise(tx, CHECK_PROVIDER, {"provider": name}, now)


def begin_check(tx: Connection, name: str, *, now: float, longest_s: float) -> bool:
    """Take the check that is asked for: False when another worker took it less than ``longest_s`` seconds ago, or when
    nothing is asked for."""
    began = ProviderAccount.check_began_at
    taken = tx.execute(
        update(ProviderAccount)
        .where(ProviderAccount.name == name, _IS_ASKED, or_(began.is_(None), began <= now - longest_s))
        .values(check_began_at=now)
    )
    return bool(taken.rowcount)


def is_check_asked(tx: Connection, name: str) -> bool:
    """Whether a check is asked for that nobody ended."""
    return tx.execute(select(ProviderAccount.name).where(ProviderAccount.name == name, _IS_ASKED)).first() is not None


def end_check(tx: Connection, name: str, found: Mapping[str, Any], now: float) -> None:
    """Keep what a check found: ``ok``, ``says`` and ``code``. It answers what was asked, also where the clock went back."""
    asked = ProviderAccount.check_asked_at
    at = case((asked > now, asked), else_=now)
    tx.execute(update(ProviderAccount).where(ProviderAccount.name == name).values(checked_at=at, checked=dict(found)))
