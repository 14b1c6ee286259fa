"""The outlook of all of a server's keys: which part of each signs, and what expires soon.

Pure but for the stores that are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509

from ..database import Key, KeyType
from ..errors import KeystoreError
from .gnupg.outlook import DAY_SECONDS, GONE, Fault, outlook
from .gnupg.output import KeyPart, ListedKey
from .store import KeyStore

#: How many days before its end the end of a key or certificate is told of.
WARN_DAYS: Final = 30


@dataclass(frozen=True, slots=True)
class Prospect:
    """A key's near future: `signer` is the fingerprint of the part of an OpenPGP key that signs.

    It is empty for other keys, and where none does. `faults` are what there is to tell of it; the
    first one keeps it from signing where `signs` is False. `ends` is when the first part of it that
    signing takes, or a certificate of it, expires or has (seconds since 1970); None: never.
    """

    key: Key
    signer: str
    signs: bool
    faults: tuple[Fault, ...]
    ends: float | None = None


def prospects(
    store: KeyStore, keys: Iterable[Key], now: float, warn_days: int = WARN_DAYS
) -> Iterator[Prospect]:
    """The prospects of `keys`, which the store should have, at `now` (seconds since 1970).

    Raises `KeystoreError`.
    """
    wanted = list(keys)
    gnupg = [key.fingerprint for key in wanted if key.keytype is KeyType.GNUPG]
    listed = {found.fingerprint: found for found in store.gnupg.listed(gnupg)} if gnupg else {}
    for key in wanted:
        if not store.holds(key):
            continue  # the check of the store tells of it
        if key.keytype is not KeyType.GNUPG:
            if not store.pem.is_whole(key.fingerprint):
                yield Prospect(key, "", False, (GONE,))
                continue
            certificates = list(_certificates(store, key))
            faults = tuple(_of_certificates(certificates, now, warn_days))
            yield Prospect(key, "", True, faults, _end_of(certificates, now))
        elif (found := listed.get(key.fingerprint)) is not None:
            seen = outlook(found, now, warn_days)
            signer = "" if seen.signer is None else seen.signer.fingerprint
            signs = seen.signer is not None
            yield Prospect(key, signer, signs, seen.faults, _first_end(found, seen.signer))
        else:
            yield Prospect(key, "", False, (GONE,))


def _first_end(key: ListedKey, signer: KeyPart | None) -> float | None:
    """The end of the first part that signing takes; of the first that has one, where none signs.

    Those are the part that signs and the primary key.
    """
    parts = key.parts if signer is None else (key.parts[0], signer)
    return min((part.expires for part in parts if part.expires is not None), default=None)


def _end_of(certificates: Iterable[tuple[str, x509.Certificate]], now: float) -> float | None:
    """The end of the first certificate that is still good; of the last one, where none is."""
    ends = [found.not_valid_after_utc.timestamp() for _name, found in certificates]
    return min((end for end in ends if end > now), default=max(ends, default=None))


def _certificates(store: KeyStore, key: Key) -> Iterator[tuple[str, x509.Certificate]]:
    for name in sorted(store.pem.certificates(key.fingerprint)):
        try:
            found = x509.load_pem_x509_certificate(store.pem.certificate(key.fingerprint, name))
        except ValueError as error:
            raise KeystoreError(
                f"certificate '{name}' of key {key.name} cannot be read", "restore it from a backup"
            ) from error
        yield name, found


def _of_certificates(
    certificates: Iterable[tuple[str, x509.Certificate]], now: float, warn_days: int
) -> Iterator[Fault]:
    for name, found in certificates:
        begins, ends = found.not_valid_before_utc, found.not_valid_after_utc
        what, cure = f"certificate '{name}'", "make a new one: sigul sign-certificate"
        if begins.timestamp() > now:
            yield Fault(
                f"{what} is not valid before {begins:%Y-%m-%d %H:%M} UTC, and the server's clock"
                f" says {datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M} UTC",
                "set the clock that is wrong, or wait",
            )
        elif ends.timestamp() < now:
            yield Fault(f"{what} expired on {ends:%Y-%m-%d}", cure)
        elif ends.timestamp() < now + warn_days * DAY_SECONDS:
            days = int((ends.timestamp() - now) // DAY_SECONDS)
            yield Fault(f"{what} expires on {ends:%Y-%m-%d}, in {days} days", cure)
