"""The tables of the server's database, and which revisions of them this version knows.

The layout is that of a Sigul 1.2 server, to the letter, so that either can open what the other
made: components are replaced one at a time, and sometimes back. A change here needs a
migration, a new `HEAD`, the proof that a 1.2 server can live with it, and its rows in
docs/storage.md, "Database", which says what each column means.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

#: The layout of servers before 1.1: `keys` has no `keytype`.
BEFORE_KEYTYPE: Final = "0001"
#: The layout of a 1.2 server.
LAYOUT_1_2: Final = "0002"
#: What this version makes. Written here so that opening a database need not import alembic.
HEAD: Final = LAYOUT_1_2
#: Every revision that this version can open or migrate.
KNOWN: Final = frozenset({BEFORE_KEYTYPE, LAYOUT_1_2})

VERSION_TABLE: Final = "alembic_version"

# "BINARY" is what 1.2 wrote into its CREATE TABLE; PostgreSQL has BYTEA for it.
_BINARY = sa.LargeBinary().with_variant(sa.BINARY(), "sqlite")

metadata = sa.MetaData()

users = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, unique=True, nullable=False),
    sa.Column("sha512_password", _BINARY),
    sa.Column("admin", sa.Boolean, nullable=False),
)

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, unique=True, nullable=False),
    sa.Column("keytype", sa.String(5), nullable=False),
    sa.Column("fingerprint", sa.Text, unique=True, nullable=False),
)

key_accesses = sa.Table(
    "key_accesses",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("key_id", sa.Integer, sa.ForeignKey("keys.id"), nullable=False),
    sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id"), nullable=False),
    sa.Column("encrypted_passphrase", _BINARY, nullable=False),
    sa.Column("key_admin", sa.Boolean, nullable=False),
    sa.UniqueConstraint("key_id", "user_id"),
)
