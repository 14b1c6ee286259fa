"""The layout of servers before 1.1: every key is an OpenPGP key."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the three tables."""
    binary = sa.LargeBinary().with_variant(sa.BINARY(), "sqlite")
    op.create_table(
        "users",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, unique=True, nullable=False),
        sa.Column("sha512_password", binary),
        sa.Column("admin", sa.Boolean, nullable=False),
    )
    op.create_table(
        "keys",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, unique=True, nullable=False),
        sa.Column("fingerprint", sa.Text, unique=True, nullable=False),
    )
    op.create_table(
        "key_accesses",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("key_id", sa.Integer, sa.ForeignKey("keys.id"), nullable=False),
        sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id"), nullable=False),
        sa.Column("encrypted_passphrase", binary, nullable=False),
        sa.Column("key_admin", sa.Boolean, nullable=False),
        sa.UniqueConstraint("key_id", "user_id"),
    )
