"""The server's database: users, keys and who may use which key.

SQLite by default, PostgreSQL by URL; the layout is that of a Sigul 1.2 server. No other part of
the package imports SQLAlchemy. Only the server and the tools that work for it import this.
"""

from __future__ import annotations

from sigul_stack.database.maintenance import (
    MigrationResult,
    SchemaReport,
    SchemaState,
    create,
    ensure_usable,
    migrate,
    schema_report,
    schema_state,
)
from sigul_stack.database.objects import check_objects
from sigul_stack.database.oddities import SchemaFinding
from sigul_stack.database.queries import Database, Reader, Writer
from sigul_stack.database.records import UNLIMITED, AccessLimits, Key, KeyAccess, KeyType, User
from sigul_stack.database.target import sqlite_url
from sigul_stack.database.tls import CURE as DATABASE_TLS_CURE
from sigul_stack.database.tls import unproven_mode
from sigul_stack.database.transfer import load, save

__all__ = [
    "DATABASE_TLS_CURE",
    "UNLIMITED",
    "AccessLimits",
    "Database",
    "Key",
    "KeyAccess",
    "KeyType",
    "MigrationResult",
    "Reader",
    "SchemaFinding",
    "SchemaReport",
    "SchemaState",
    "User",
    "Writer",
    "check_objects",
    "create",
    "ensure_usable",
    "load",
    "migrate",
    "save",
    "schema_report",
    "schema_state",
    "sqlite_url",
    "unproven_mode",
]
