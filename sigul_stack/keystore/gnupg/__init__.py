"""OpenPGP keys, in a GnuPG home.

GnuPG does all work with secret keys, so that existing sites keep their key rings, and nothing
else reads or writes those.

* `home`: what a server does with its keys.
* `at_rest`: a home out of a backup, looked at without an agent.
* `scratch`: where keys are made and imported, and how they move in once they are complete.
* `program`: running gpg, and what it says about keys.
* `output`: reading gpg's machine-readable output.
* `agent`: the few things that only gpg-agent can be asked for.
* `directory`: the home as a directory: its configuration, and the length of its path.
"""

from __future__ import annotations

from .home import GnuPGHome, KeySettings, UserId, usual_bits
from .program import GnuPG

__all__ = ["GnuPG", "GnuPGHome", "KeySettings", "UserId", "usual_bits"]
