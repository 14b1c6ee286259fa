"""Notes on a key, which a reply carries besides what was asked for, for clients that want them.

Fields of an OK reply (docs/protocol.md, "Notes"): `server-time`, in seconds since 1970;
`signing-key`, the fingerprint of the part of an OpenPGP key that signed, or would; `warning-1` and
so on, each a text. Nothing here keeps a request from its answer.
"""

from __future__ import annotations

import logging
import time
from typing import Final

from ..database import Key
from ..errors import SigulError, quoted, shortened
from ..keystore.foresight import Prospect, prospects
from ..keystore.gnupg.outlook import Fault
from ..keystore.store import KeyStore
from ..logevents import tell
from .log_events import ServerLog

log = logging.getLogger(__name__)

#: Most warnings of one reply.
MAX_WARNINGS: Final = 4


class Notes:
    """The notes for one reply. Several threads may use the same key at once."""

    def __init__(self, keystore: KeyStore) -> None:
        self._keystore = keystore
        self._signer = ""
        self._warnings: list[str] = []

    @property
    def signer(self) -> str:
        """The fingerprint of the part that signed, or will; empty where none did."""
        return self._signer

    def fields(self) -> dict[str, str | int]:
        """The fields for the reply."""
        found: dict[str, str | int] = {"server-time": int(time.time())}
        if self._signer:
            found["signing-key"] = self._signer
        for number, warning in enumerate(self._warnings[:MAX_WARNINGS], 1):
            found[f"warning-{number}"] = warning
        return found

    def look_ahead(self, key: Key, *, soon: bool) -> None:
        """Note which part of `key` signs, and why not another; with `soon` all that is coming."""
        if (seen := self._prospect(key)) is not None:
            self._signer = seen.signer
            for fault in seen.faults:
                if soon or fault.replaced:
                    self._warn(key, fault)

    def signed(self, key: Key, signer: str) -> None:
        """Note that the part `signer` of `key` has signed; warn where another one should have."""
        if self._signer == signer:
            return
        self._signer = signer
        tell(log, ServerLog.SIGNED_BY, signer=signer or "a part without a name", key=key.name)
        # Where a subkey signed all is as people expect it: no further run of gpg for that.
        if signer == key.fingerprint:
            self.look_ahead(key, soon=False)

    def warn(self, text: str) -> None:
        """Note a warning: what is wrong, and what to do."""
        tell(log, ServerLog.REQUEST_WARNING, why=text)
        self._warnings.append(shortened(text))

    def _prospect(self, key: Key) -> Prospect | None:
        try:
            return next(prospects(self._keystore, [key], time.time()), None)
        except SigulError as error:
            tell(log, ServerLog.PROSPECT_UNKNOWN, key=key.name, why=str(error))
            return None

    def _warn(self, key: Key, fault: Fault) -> None:
        cure = fault.cure.replace("KEY", key.name)
        self.warn(f"key {quoted(key.name, 60)}: {fault.problem}; {cure}")
