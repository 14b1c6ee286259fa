"""Remarks on an OpenPGP key, for a person who is to know them before anything is signed with it.

Above all which rpm verifies what it signs (tried with Debian 12's rpm 4.18, which reads OpenPGP by
itself, and Debian 13's 4.20, which has Sequoia for that, as Fedora and RHEL 10 do):

    RSA and DSA of 2048 bits or more, Ed25519      both
    shorter RSA and DSA                            4.18 alone
    ECDSA with NIST's curves                       4.20 alone: to 4.18 a signature is broken
    ECDSA with other curves, Ed448                 none
    a key whose own signatures are SHA-1's         4.18 alone
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from .openpgp_keys import DSA, ECDSA, EDDSA, KeyPacket, ListedKey
from .openpgp_packets import RSA

#: Fewest bits of RSA and DSA keys that rpm with Sequoia takes.
_SEQUOIA_BITS: Final = 2048
_NIST: Final = frozenset({"nistp256", "nistp384", "nistp521"})
#: Digests that nobody should sign with, by their OpenPGP numbers (RFC 9580, 9.5).
_WEAK: Final = MappingProxyType({1: "MD5", 2: "SHA-1", 3: "RIPEMD-160"})
_MD5: Final = 1

WITHOUT_SEQUOIA: Final = "rpm without Sequoia, as Debian 12's 4.18,"
WITH_SEQUOIA: Final = "rpm with Sequoia, as Debian 13's 4.20,"
_ANOTHER_KEY: Final = "sign RPMs with an RSA key of 2048 bits or more, or an Ed25519 key"


@dataclass(frozen=True, slots=True)
class Remark:
    """Something to know about a key, and what to do; `nowhere`: no rpm verifies what it signs."""

    problem: str
    cure: str
    nowhere: bool = False

    def __str__(self) -> str:
        return f"{self.problem}; {self.cure}"


def rpm_remark(part: KeyPacket) -> Remark | None:
    """The reason why not every rpm takes a primary key or subkey; None where every rpm does."""
    if part.version != 4:
        return Remark(
            f"no rpm that GnuPG works with verifies signatures of version-{part.version} keys",
            _ANOTHER_KEY,
            nowhere=True,
        )
    if part.algorithm in RSA or part.algorithm == DSA:
        if part.bits >= _SEQUOIA_BITS:
            return None
        kind = "DSA" if part.algorithm == DSA else "RSA"
        return Remark(f"{WITH_SEQUOIA} takes no {kind} key of {part.bits} bits", _ANOTHER_KEY)
    if part.algorithm == ECDSA and part.curve in _NIST:
        return Remark(
            f"{WITHOUT_SEQUOIA} takes ECDSA signatures ({part.curve}) for broken"
            " (Header DSA signature: BAD)",
            _ANOTHER_KEY,
        )
    if part.algorithm == EDDSA and part.curve == "ed25519":
        return None
    curve = part.curve.replace("?", "") or "an unknown curve"
    return Remark(f"no rpm verifies signatures by {curve}", _ANOTHER_KEY, nowhere=True)


def remarks_for_rpm(key: ListedKey) -> Iterator[Remark]:
    """Remarks on `key` before RPMs are signed with it.

    rpm imports the whole key, so the primary key counts as well as what signs.
    """
    told = set()
    for part in (key.primary, *(part for part in key.parts[1:] if part.signs)):
        remark = rpm_remark(part)
        if remark is not None and remark not in told and not part.revoked:
            told.add(remark)
            yield remark
    if (weak := weak_digest(key)) is not None:
        yield Remark(
            f"{WITH_SEQUOIA} takes no key whose own signatures are made with {weak}, as this one's",
            "change-key-expiration makes them anew, with --subkey those of a subkey",
        )


def weak_digest(key: ListedKey) -> str | None:
    """The weak digest that all of the key's own signatures about a part of it are made with.

    Parts that nobody needs for verifying, because they do not sign, are left out.
    """
    for part in (key.primary, *(part for part in key.parts[1:] if part.signs)):
        if part.hashes and part.hashes <= _WEAK.keys():
            return _WEAK[max(part.hashes)]
    return None


def bound_by_md5(key: ListedKey) -> bool:
    """True where the key is its user IDs' by MD5 alone, which no GnuPG of today takes."""
    return key.primary.hashes == {_MD5}


def remarks_on_state(key: ListedKey, now: float) -> Iterator[Remark]:
    """The reasons why `key` signs nothing, now or ever; `now` in seconds since 1970."""
    if key.primary.revoked:
        yield Remark("the key is revoked: nothing can be signed with it", "import another key")
        return
    if _expired(key.primary, now):
        yield Remark(
            f"the key has expired on {day(key.primary.expires or 0)}: it signs nothing",
            "change-key-expiration renews it",
        )
    signing = [part for part in key.parts if part.signs and not part.revoked]
    if not key.signs:
        yield Remark(
            "nothing in the key may sign: it is good for decrypt at most",
            "add a signing subkey (gpg --quick-add-key), or import another key",
        )
    for part in signing:
        if part is not key.primary and part.created > now:
            yield Remark(
                f"subkey {part.key_id} was made on {moment(part.created)}, which is in the future:"
                " it signs nothing until then",
                "set the clock of the machine that made it, and make the subkey again",
            )
        elif part is not key.primary and _expired(part, now):
            yield Remark(
                f"subkey {part.key_id} has expired on {day(part.expires or 0)}",
                "change-key-expiration --subkey renews it",
            )


def _expired(part: KeyPacket, now: float) -> bool:
    return part.expires is not None and part.expires <= now and part.expires != part.created


def day(seconds: float) -> str:
    """The day of a time in seconds since 1970, in UTC."""
    return moment(seconds)[:10]


def moment(seconds: float) -> str:
    """A time in seconds since 1970, in UTC; an unsigned 32-bit number is one always."""
    time = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return time.strftime("%Y-%m-%d %H:%M:%S UTC")
