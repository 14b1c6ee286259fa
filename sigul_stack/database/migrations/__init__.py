"""Alembic's scripts: the steps from each layout of the database to the next.

A package only so that they are installed with it and found beside it; alembic loads the files
itself. `sigul_stack.database.maintenance` runs them; nothing else should.
"""
