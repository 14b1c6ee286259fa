"""Alembic's entry point: it runs the steps on the connection it is given, in its transaction.

Commits nothing: whoever opened the transaction ends it, so that a failed migration leaves the
database as it was.
"""

from __future__ import annotations

from alembic import context

from sigul_stack.database.schema import metadata


def run() -> None:
    """Run the steps that the command asked for."""
    context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
    with context.begin_transaction():
        context.run_migrations()


# Alembic executes this file under a name of its own; imported as a module it does nothing.
if __name__ == "env_py":
    run()
