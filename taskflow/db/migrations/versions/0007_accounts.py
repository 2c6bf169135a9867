"""roles of users' tokens, browsers that are signed in, sign-in links, and the audit trail"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_Serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply. A user's token that is there already goes on with all that it may: it becomes an admin's."""
    op.add_column("tokens", sa.Column("role", sa.String(16), nullable=True))
    op.add_column("tokens", sa.Column("last_used_at", sa.Double(), nullable=True))
    op.execute("UPDATE tokens SET role = 'admin' WHERE scope = 'api'")
    # SQLite makes the table anew for this: before any other table refers to it.
    with op.batch_alter_table("tokens") as tokens:
        tokens.create_check_constraint(op.f("ck_tokens_role"), "role IN ('viewer', 'operator', 'admin')")
        tokens.create_check_constraint(op.f("ck_tokens_role_of_user"), "(scope = 'api') = (role IS NOT NULL)")
    _create_browser_sessions()
    _create_sign_in_codes()
    _create_audit()


def _create_browser_sessions() -> None:
    op.create_table(
        "browser_sessions",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("token_id", sa.String(64), nullable=False),
        sa.Column("secret_hash", sa.String(64), nullable=False),
        sa.Column("csrf_secret", sa.String(64), nullable=False),
        sa.Column("user_agent", sa.String(100), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("last_seen_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["token_id"], ["tokens.id"], name="fk_browser_sessions_token_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_browser_sessions"),
        sa.UniqueConstraint("secret_hash", name="uq_browser_sessions_secret_hash"),
    )
    op.create_index("ix_browser_sessions_token_id", "browser_sessions", ["token_id"])
    op.create_index("ix_browser_sessions_expires_at", "browser_sessions", ["expires_at"])


def _create_sign_in_codes() -> None:
    op.create_table(
        "sign_in_codes",
        sa.Column("code_hash", sa.String(64), nullable=False),
        sa.Column("token_id", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.Column("used_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["token_id"], ["tokens.id"], name="fk_sign_in_codes_token_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("code_hash", name="pk_sign_in_codes"),
    )
    op.create_index("ix_sign_in_codes_token_id", "sign_in_codes", ["token_id"])
    op.create_index("ix_sign_in_codes_expires_at", "sign_in_codes", ["expires_at"])


def _create_audit() -> None:
    op.create_table(
        "audit",
        sa.Column("id", _Serial, autoincrement=True, nullable=False),
        sa.Column("owner_id", sa.String(64), nullable=True),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("token_id", sa.String(64), nullable=True),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("subject_kind", sa.String(32), nullable=True),
        sa.Column("subject_id", sa.String(80), nullable=True),
        sa.Column("request_id", sa.String(64), nullable=True),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.CheckConstraint("outcome IN ('done', 'refused', 'failed')", name=op.f("ck_audit_outcome")),
        sa.ForeignKeyConstraint(["owner_id"], ["owners.id"], name="fk_audit_owner_id"),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_index("ix_audit_owner", "audit", ["owner_id", "id"])
    op.create_index("ix_audit_at", "audit", ["at"])
    # No line is ever changed, whoever is at the database: it can only be deleted when it is old.
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE OR REPLACE FUNCTION audit_keeps_its_lines() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'a line of the audit trail is never changed'; END $$"
        )
        op.execute(
            "CREATE TRIGGER audit_keeps_its_lines BEFORE UPDATE ON audit"
            " FOR EACH ROW EXECUTE FUNCTION audit_keeps_its_lines()"
        )
    else:
        op.execute(
            "CREATE TRIGGER audit_keeps_its_lines BEFORE UPDATE ON audit"
            " BEGIN SELECT RAISE(ABORT, 'a line of the audit trail is never changed'); END"
        )


def downgrade() -> None:
    """Take back."""
    op.drop_table("audit")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION audit_keeps_its_lines()")
    op.drop_table("sign_in_codes")
    op.drop_table("browser_sessions")
    with op.batch_alter_table("tokens") as tokens:
        tokens.drop_constraint(op.f("ck_tokens_role_of_user"), type_="check")
        tokens.drop_constraint(op.f("ck_tokens_role"), type_="check")
        tokens.drop_column("last_used_at")
        tokens.drop_column("role")
