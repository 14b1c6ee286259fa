"""The commands of `sigul`: a table of them, how their command lines read, and what each does.

`table` is the one place that knows every command: operands, options and the secrets it asks for,
in order. `parsing` turns one row into an argument parser, `execution` runs one; the other modules
hold the functions that the rows name, and are imported only when one of theirs runs.
"""

from __future__ import annotations
