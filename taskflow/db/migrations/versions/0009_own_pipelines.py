"""runs of pipelines of one's own: what was asked, and the tokens with which others may signal them"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0006"
branch_labels = None
depends_on = None

_ENDED = sa.text("subject_kind = 'own' AND finished_at IS NOT NULL")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "own_runs",
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("owner_id", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(200), nullable=True),
        sa.Column("idempotency_key", sa.String(200), nullable=True),
        sa.Column("request_hash", sa.String(64), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_own_runs_run_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["owner_id"], ["owners.id"], name="fk_own_runs_owner_id"),
        sa.PrimaryKeyConstraint("run_id", name="pk_own_runs"),
        sa.UniqueConstraint("owner_id", "idempotency_key", name="uq_own_runs_owner_id_idempotency_key"),
    )
    op.create_index("ix_own_runs_owner", "own_runs", ["owner_id", "run_id"])
    op.create_table(
        "run_callbacks",
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("signal", sa.String(64), nullable=False),
        sa.Column("token_hash", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_run_callbacks_run_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "signal", name="pk_run_callbacks"),
        sa.UniqueConstraint("token_hash", name="uq_run_callbacks_token_hash"),
    )
    op.create_index("ix_runs_own_ended", "runs", ["finished_at"], sqlite_where=_ENDED, postgresql_where=_ENDED)


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_runs_own_ended", "runs")
    op.drop_table("run_callbacks")
    op.drop_table("own_runs")
