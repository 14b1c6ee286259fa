"""`sigul-stack database`: what state a server's database is in, and its migration."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from ..config import load_server
from .outcome import say
from .shared_arguments import SERVER_FILE, Subparsers, add_command, config_file


def add_parser(subparsers: Subparsers) -> None:
    """Add the `database` command."""
    actions = subparsers.add_parser(
        "database",
        help="look at a server's database, migrate it",
        description="Looks at the database that server.conf names, or brings it to the current"
        " schema. A backup is made beside it first (SQLite; for PostgreSQL use pg_dump).",
    ).add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, run, text in (
        ("state", _run_state, "tell which schema the database has"),
        ("migrate", _run_migrate, "bring the database to the current schema, with a backup"),
    ):
        add_command(
            *(actions, name, run, config_file(SERVER_FILE)),
            help=text,
            description=text.capitalize() + ".",
        )


def _url(options: argparse.Namespace) -> str:
    from ..server.services import database_url

    return database_url(load_server(options.config_file).settings)


def _run_state(options: argparse.Namespace) -> None:
    from ..database import schema_report

    report = schema_report(_url(options))
    say(report.state.value)
    if report.layout:
        say(f"layout: {report.layout}")
    for finding in report.findings:
        say(f"found: {finding.problem}; {finding.cure}")


def _run_migrate(options: argparse.Namespace) -> None:
    from ..database import migrate, schema_report

    url = _url(options)
    found = schema_report(url).findings
    result = migrate(url, clock=lambda: datetime.now(UTC))
    for finding in found:
        say(f"mended: {finding.problem}")
    if result.backup is not None:
        say(f"backup: {result.backup}")
    say(f"schema: {result.before.value} -> {result.after.value}")
