"""`sigul-stack audit`: what a server's signing log holds, proofs of it, copies, and restores.

`looking` reads logs, `proving` verifies and proves, `moving` copies and restores. docs/audit.md
tells an auditor of all of them.
"""

from __future__ import annotations

from ..shared_arguments import Subparsers
from . import looking, moving, proving


def add_parser(subparsers: Subparsers) -> None:
    """Add the `audit` command."""
    actions = subparsers.add_parser(
        "audit",
        help="read, verify, prove, copy and restore signing logs",
        description="Reads and verifies signing logs and copies of them, makes and checks proofs,"
        " copies logs elsewhere, and restores them. Run it as the server's user where it is about"
        " the server's own log; as root it goes on as `unix-user` then.",
    ).add_subparsers(title="actions", metavar="ACTION", required=True)
    for module in (looking, proving, moving):
        module.add_actions(actions)
