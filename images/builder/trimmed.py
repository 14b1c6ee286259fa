"""What is taken out of images again that packages bring along: as data, and what applies it.

Apart from `components`, so that a change here has no package fetched anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from .tars import Entry

#: Distributions that the project asks for and the server alone uses: its database and passwords.
_SERVERS_OWN: Final = frozenset(
    {"alembic", "greenlet", "libpass", "mako", "markupsafe", "sqlalchemy"}
)
_WHEELS: Final = {"bridge": _SERVERS_OWN, "client": _SERVERS_OWN}

#: Programs of git that serve repositories to others, or fetch from them: the client signs tags in
#: one that is there.
_FILES: Final = {
    "client": re.compile(
        r"usr/(?:lib/git-core/git|bin/git)-(?:daemon|http-backend|http-fetch|http-push|imap-send"
        r"|receive-pack|remote-(?:https?|ftps?|ext|fd)|send-pack|shell|upload-archive|upload-pack)"
    )
}


def wheels(component: str, all_of_them: Iterable[Path]) -> list[Path]:
    """Those wheels that the component uses."""
    unused = _WHEELS.get(component, frozenset())
    return [
        wheel
        for wheel in all_of_them
        if wheel.name.partition("-")[0].replace("_", "-").lower() not in unused
    ]


def files(component: str, entries: Iterable[Entry]) -> Iterator[Entry]:
    """Those files that the component uses."""
    unused = _FILES.get(component)
    return (one for one in entries if unused is None or not unused.fullmatch(one.name))
