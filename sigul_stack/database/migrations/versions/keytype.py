"""`keys.keytype`, as 1.1 and 1.2 servers have it; every key from before is `gnupg`.

The default stays on the column, so that the older server can still open the result and add
keys to it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    kind = sa.String(5).with_variant(sa.String(6), "postgresql")
    op.add_column("keys", sa.Column("keytype", kind, nullable=False, server_default="gnupg"))
