"""A GnuPG home that nobody uses: one that came out of a backup, and may be anybody's.

gpg lists its public keys, and its files say which secret parts are there. No agent is asked or
started: an agent reads its settings from the home, and does what they say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .home import GnuPGHome
from .output import ListedKey, parse_keys
from .scratch import secret_file

#: Longest time for a listing, in seconds.
_LIST_SECONDS = 30.0


class GnuPGHomeAtRest(GnuPGHome):
    """The GnuPG home at `path`, to be looked at only."""

    def _list(self, which: Sequence[str]) -> list[ListedKey]:
        if not any((self.path / name).exists() for name in ("pubring.kbx", "pubring.gpg")):
            return []  # gpg would make one
        outcome = self.run(
            ["--lock-never", "--with-colons", "--with-keygrip", "--list-keys", "--", *which],
            time_limit=_LIST_SECONDS,
            agent=False,
        )
        # A key that is not there is a failure to gpg.
        if outcome.returncode and not which:
            raise outcome.failure(f"listing the keys in {self.path}", "use another backup")
        return [
            replace(
                key,
                parts=tuple(
                    replace(part, secret=secret_file(self, part.keygrip).is_file())
                    for part in key.parts
                ),
            )
            for key in parse_keys(outcome.output.decode("utf-8", "replace"))
        ]
