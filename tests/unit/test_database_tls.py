"""Which URLs of PostgreSQL lead to another machine without proof of who that is."""

from __future__ import annotations

import pytest

from sigul_stack.database import unproven_mode
from sigul_stack.errors import DatabaseError

REMOTE = "postgresql://sigul:secret@db.example.org/sigul"


@pytest.mark.parametrize(
    ("url", "mode"),
    [
        ("sqlite:////var/lib/sigul/server.sqlite", None),
        ("postgresql:///sigul", None),
        ("postgresql://sigul@/sigul?host=/run/postgresql", None),
        ("postgresql://sigul@localhost/sigul", None),
        ("postgresql://sigul@127.0.0.1:5433/sigul", None),
        ("postgresql://sigul@[::1]:5433/sigul", None),
        ("postgresql://sigul@/sigul?host=localhost:5433&host=127.0.0.1:5434", None),
        (REMOTE, "prefer"),
        (REMOTE + "?sslmode=disable", "disable"),
        (REMOTE + "?sslmode=require", "require"),
        (REMOTE + "?sslmode=verify-ca&sslrootcert=/ca.pem", "verify-ca"),
        (REMOTE + "?sslmode=verify-full&sslrootcert=/ca.pem", None),
        (REMOTE + "?sslmode=verify-full&sslmode=require", "require"),
        ("postgresql+psycopg://sigul@192.0.2.7/sigul", "prefer"),
        ("postgresql://sigul@localhost.example.org/sigul", "prefer"),
        # One of several hosts is enough, wherever it stands.
        ("postgresql://sigul@/sigul?host=localhost&host=db.example.org", "prefer"),
        ("postgresql://sigul@/sigul?host=/run/postgresql,db.example.org", "prefer"),
        ("postgresql://sigul@localhost/sigul?host=db.example.org", "prefer"),
        ("postgresql://sigul@localhost/sigul?hostaddr=192.0.2.7", "prefer"),
        ("postgresql:///sigul?service=central", "that of the service file"),
        ("postgresql:///sigul?service=central&sslmode=verify-full", None),
    ],
)
def test_what_a_url_says(url: str, mode: str | None) -> None:
    assert unproven_mode(url, {}) == mode


@pytest.mark.parametrize(
    ("url", "environment", "mode"),
    [
        (REMOTE, {"PGSSLMODE": "verify-full"}, None),
        (REMOTE, {"PGSSLMODE": "require"}, "require"),
        (REMOTE + "?sslmode=disable", {"PGSSLMODE": "verify-full"}, "disable"),
        ("postgresql:///sigul", {"PGHOST": "db.example.org"}, "prefer"),
        ("postgresql:///sigul", {"PGHOST": "/run/postgresql"}, None),
        ("postgresql:///sigul", {"PGHOSTADDR": "192.0.2.7"}, "prefer"),
        ("postgresql://localhost/sigul", {"PGHOST": "db.example.org"}, None),
        ("postgresql://localhost/sigul", {"PGHOSTADDR": "192.0.2.7"}, "prefer"),
        ("postgresql://localhost/sigul", {"PGSERVICE": "central"}, "that of the service file"),
    ],
)
def test_what_the_environment_adds(url: str, environment: dict[str, str], mode: str | None) -> None:
    assert unproven_mode(url, environment) == mode


def test_a_url_of_no_kind() -> None:
    with pytest.raises(DatabaseError):
        unproven_mode("mysql://sigul@localhost/sigul", {})
