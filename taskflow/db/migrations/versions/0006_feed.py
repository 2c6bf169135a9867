"""one order over the events of all subjects: the transaction that wrote each, and an index to read an owner's by it"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply. What is there already is of transaction 0, in the order of its ids: no row is written again."""
    op.add_column("events", sa.Column("xact", sa.BigInteger(), nullable=False, server_default=sa.text("0")))
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE events ALTER COLUMN xact SET DEFAULT (pg_current_xact_id()::text::bigint)")
    op.create_index("ix_events_feed", "events", ["owner_id", "xact", "id"])
    # Nothing looks for the events of a run; an append writes as many indexes as before.
    op.drop_index("ix_events_run_id", "events")


def downgrade() -> None:
    """Take back."""
    op.create_index("ix_events_run_id", "events", ["run_id"])
    op.drop_index("ix_events_feed", "events")
    with op.batch_alter_table("events") as batch:
        batch.drop_column("xact")
