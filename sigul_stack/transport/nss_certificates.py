"""Looking at peers' certificates again, once the NSS database has changed under what is under way.

NSS sees a changed database only when it is opened anew, and a process that forks has not opened it.
So a daemon that has taken a changed database into use forks a process for it, which opens NSS and
says which certificates it finds good; whatever it does not say that of is not (`Look`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import nss.nss as nss
from nss.error import NSPRError

#: The largest certificate that is kept to be looked at again, in bytes; a larger one is not good.
MAX_CERTIFICATE_BYTES: Final = 64 * 1024
#: Most bytes that are told of a certificate: what is longer is as bad as its beginning.
TOLD_BYTES: Final = MAX_CERTIFICATE_BYTES + 1
#: Seconds for a process that looks at certificates; what it has not told by then is not good.
LOOK_SECONDS: Final = 20.0


@dataclass(slots=True)
class Look:
    """The certificates that a process was asked about, and those found good, by SHA-256."""

    asked: dict[bytes, bytes]
    good: set[bytes] = field(default_factory=set)

    @classmethod
    def at(cls, certificates: Iterable[bytes]) -> Look:
        """A look at certificates in DER, each once."""
        return cls({hashlib.sha256(item).digest(): item for item in certificates})

    def run(self, tell: Callable[[bytes], None]) -> None:
        """Tell the SHA-256 of each that is good: in the process whose NSS was opened anew."""
        for number, certificate in self.asked.items():
            if is_good(certificate):
                tell(number)

    def found_good(self, number: bytes) -> bool:
        """Take note that it was told; False for what was not asked."""
        if number not in self.asked:
            return False
        self.good.add(number)
        return True

    @property
    def bad(self) -> set[bytes]:
        """The SHA-256 of each that was not found good."""
        return self.asked.keys() - self.good


def is_good(certificate: bytes) -> bool:
    """Tell whether NSS, as this process has opened it, takes a certificate as a dialler's.

    It does not where the certificate or its CA is distrusted, unknown, revoked, or out of date.
    """
    if len(certificate) > MAX_CERTIFICATE_BYTES:
        return False
    database = nss.get_default_certdb()
    usage = nss.certificateUsageSSLClient
    try:
        return bool(nss.Certificate(certificate, database).verify_now(database, True, usage))
    except NSPRError:
        return False
