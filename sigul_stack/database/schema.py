"""The tables of the server's database, and which revisions of them this version knows.

The layout is that of a Sigul 1.2 server, to the letter, so that either can open what the other
made: components are replaced one at a time, and sometimes back. A change here needs a
migration, a new `HEAD`, the proof that a 1.2 server can live with it, and its rows in
docs/storage.md, "Database", which says what each column means.

Limits of accesses are no part of that layout: they have a table of their own, which is made when
it is first needed and which a 1.2 server does not look at.
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
    # 1.3's word `PKCS11` has 6 characters, which SQLite does not mind.
    sa.Column("keytype", sa.String(5).with_variant(sa.String(6), "postgresql"), nullable=False),
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

#: Made by `make_limits`; one row for an access that is limited. NULL is no limit, and a list stands
#: between commas. Not in `metadata`: a database without it is complete.
access_limits = sa.Table(
    "key_access_limits",
    sa.MetaData(),
    sa.Column(
        "key_access_id",
        sa.Integer,
        sa.ForeignKey(key_accesses.c.id, ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    sa.Column("operations", sa.Text),
    sa.Column("rpm_names", sa.Text),
)

# SQLite keeps foreign keys for who asks for that, which a 1.2 server does not, and gives the number
# of a deleted row to the next one: without this, an access that such a server grants would have the
# limits of one that it took away. Triggers are kept for everybody. The first one is for a number
# that came free while there was no trigger.
_SQLITE_TRIGGERS: Final = (
    "CREATE TRIGGER IF NOT EXISTS key_access_limits_insert AFTER INSERT ON key_accesses BEGIN"
    " DELETE FROM key_access_limits WHERE key_access_id = NEW.id; END",
    "CREATE TRIGGER IF NOT EXISTS key_access_limits_delete AFTER DELETE ON key_accesses BEGIN"
    " DELETE FROM key_access_limits WHERE key_access_id = OLD.id; END",
)


def sqlite_triggers() -> frozenset[str]:
    """The SQL of all triggers that there are, as SQLite keeps it."""
    return frozenset(text.replace(" IF NOT EXISTS", "") for text in _SQLITE_TRIGGERS)


def has_limits(connection: sa.Connection) -> bool:
    """Whether the database has the table of limits."""
    return bool(connection.dialect.has_table(connection, access_limits.name))


def make_limits(connection: sa.Connection) -> None:
    """Make the table of limits, and what keeps it in step, where it is missing.

    In a transaction that may write.
    """
    if not has_limits(connection):
        access_limits.create(connection)
    if connection.dialect.name == "sqlite":
        for trigger in _SQLITE_TRIGGERS:
            connection.exec_driver_sql(trigger)
