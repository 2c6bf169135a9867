"""what a node is made of and costs, what is reserved of it, and what is remembered of providers"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_NODE: tuple[sa.Column[Any], ...] = (
    sa.Column("size", sa.String(64), nullable=False, server_default=sa.text("''")),
    sa.Column("location", sa.String(64), nullable=False, server_default=sa.text("''")),
    sa.Column("vcpus", sa.Double(), nullable=True),
    sa.Column("memory_mb", sa.Integer(), nullable=True),
    sa.Column("price_per_hour", sa.Double(), nullable=False, server_default=sa.text("0")),
    sa.Column("wish", sa.JSON(), nullable=True),
    sa.Column("intent_at", sa.Double(), nullable=True),
    sa.Column("intent", sa.String(32), nullable=True),
    sa.Column("bought_at", sa.Double(), nullable=True),
    sa.Column("unreachable_since", sa.Double(), nullable=True),
    sa.Column("bootstrap_claim", sa.String(64), nullable=True),
)
_STANDING = sa.text("destroyed_at IS NULL")
_WORKSPACE: tuple[sa.Column[Any], ...] = (
    sa.Column("vcpus", sa.Double(), nullable=False, server_default=sa.text("0")),
    sa.Column("memory_mb", sa.Integer(), nullable=False, server_default=sa.text("0")),
)


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "provider_accounts",
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("rests_until", sa.Double(), nullable=True),
        sa.Column("rests_because", sa.JSON(), nullable=True),
        sa.Column("blocked", sa.JSON(), nullable=True),
        sa.Column("offers_rest", sa.JSON(), nullable=False),
        sa.Column("changed_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_provider_accounts"),
    )
    for column in _NODE:
        op.add_column("nodes", column)
    op.create_index(
        "ix_nodes_standing", "nodes", ["provider", "owner_id"], sqlite_where=_STANDING, postgresql_where=_STANDING
    )
    for column in _WORKSPACE:
        op.add_column("workspaces", column)
    _allow_scopes("api", "node", "workspace", "bootstrap")
    op.add_column("tasks", sa.Column("resources", sa.JSON(), nullable=True))
    # Nobody consumes these any more: who waits is signalled in the transaction that frees a place.
    op.execute("UPDATE outbox SET done_at = created_at WHERE kind = 'capacity_released' AND done_at IS NULL")


def _allow_scopes(*scopes: str) -> None:
    allowed = ", ".join(f"'{scope}'" for scope in scopes)
    with op.batch_alter_table("tokens") as tokens:
        tokens.drop_constraint(op.f("ck_tokens_scope"), type_="check")
        tokens.create_check_constraint(op.f("ck_tokens_scope"), f"scope IN ({allowed})")


def downgrade() -> None:
    """Take back."""
    op.drop_column("tasks", "resources")
    op.execute("DELETE FROM tokens WHERE scope = 'bootstrap'")
    _allow_scopes("api", "node", "workspace")
    op.drop_index("ix_nodes_standing", "nodes")
    for table, columns in (("workspaces", _WORKSPACE), ("nodes", _NODE)):
        for column in reversed(columns):
            op.drop_column(table, column.name)
    op.drop_table("provider_accounts")
