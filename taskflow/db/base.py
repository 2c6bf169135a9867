"""What all tables are made of: the base class, types of columns, checks and indexes."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Double, Index, Integer, MetaData, String, text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.sql.functions import FunctionElement

Id = String(64)
#: SQLite numbers rows by itself only for a plain INTEGER key.
Serial = BigInteger().with_variant(Integer, "sqlite")


class TransactionId(FunctionElement[int]):
    """The number of the transaction that writes the row. SQLite has one writer at a time: 0 does there."""

    inherit_cache = True


@compiles(TransactionId)
def _no_transaction_id(_element: Any, _compiler: Any, **_kw: Any) -> str:
    return "0"


@compiles(TransactionId, "postgresql")
def _transaction_id(_element: Any, _compiler: Any, **_kw: Any) -> str:
    return "(pg_current_xact_id()::text::bigint)"


def one_of(column: str, values: tuple[str, ...]) -> str:
    """The check that a column holds one of these."""
    return f"{column} IN ({', '.join(repr(value) for value in values)})"


def partial(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    """An index of the rows of which ``where`` is true: it stays as small as they are few."""
    return Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))


class Base(DeclarativeBase):
    """Base of all tables; constraints get names, so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {float: Double(), dict[str, Any]: JSON(), list[str]: JSON()}  # noqa: RUF012
