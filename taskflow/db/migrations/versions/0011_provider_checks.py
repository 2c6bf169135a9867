"""what the last check of a provider found, and whether another one is asked for"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_TIMES = ("check_asked_at", "check_began_at", "checked_at")


def upgrade() -> None:
    """Apply."""
    for name in _TIMES:
        op.add_column("provider_accounts", sa.Column(name, sa.Double(), nullable=True))
    op.add_column("provider_accounts", sa.Column("checked", sa.JSON(), nullable=True))


def downgrade() -> None:
    """Take back."""
    for name in ("checked", *reversed(_TIMES)):
        op.drop_column("provider_accounts", name)
