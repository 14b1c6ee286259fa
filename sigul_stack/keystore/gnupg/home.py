"""The GnuPG home with a server's OpenPGP keys: making, importing, changing and deleting them.

Every change leaves a key whole or not there at all, whatever fails and whenever the process is
killed, and is checked afterwards by what gpg then lists. Signing and decrypting are in
`signing.openpgp`.
"""

from __future__ import annotations

import datetime
import logging
import re
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...errors import ConfigurationError, KeystoreError, RequestRefused, Status, WrongPassphrase
from ...logevents import tell
from ...secret import Secret
from ...system.programs import memory_file
from ..log_events import KeystoreLog
from ..storage import locked_keys, require_long, storage_errors
from .agent import SecretKeyDamaged
from .causes import failure
from .directory import prepare_directory
from .locks import locked_home, remove_stale_locks
from .output import CORRUPTED_PROTECTION_TEXT, ListedKey
from .program import GnuPG
from .protection import hasten, opening_seconds
from .refused_files import invalid, no_secret, reason, refuse_before
from .scratch import (
    move_in,
    remove_key,
    remove_leftovers,
    scratch_home,
    secret_file,
    sync_keys,
)

_log = logging.getLogger(__name__)

#: How often a key is made or imported before it is a failure that no passphrase opens it.
_TRIES = 3

#: Curves as key types: GnuPG's algorithm for primary keys and for subkeys, and its curve.
_CURVES = {
    "ed25519": ("EDDSA", "EDDSA", "ed25519"),
    "cv25519": (None, "ECDH", "cv25519"),
    "nistp256": ("ECDSA", "ECDH", "nistp256"),
    "nistp384": ("ECDSA", "ECDH", "nistp384"),
    "nistp521": ("ECDSA", "ECDH", "nistp521"),
}

#: From this number of keys on gpg is asked for all.
_MANY = 50

#: Largest file that importing a key may make, in bytes: what comes may be compressed.
MAX_IMPORTED_BYTES = 16 << 20

_ALGORITHM = re.compile(r"[A-Za-z0-9_-]+")
_USAGE = re.compile(r"[a-z]+([ ,]+[a-z]+)*")
#: What a part of a user ID may hold: no control character, nothing that looks like an address.
_USER_ID_PART = re.compile(r"[^\x00-\x1f\x7f<>]*")


@dataclass(frozen=True, slots=True)
class KeySettings:
    """Properties of new keys, from `[gnupg]` of the server's configuration.

    A type is an algorithm of GnuPG's (RSA, DSA, ELG), of which the length in bits counts, or a
    curve (ed25519, cv25519, nistp256…). An empty `subkey_type` means no subkey.
    """

    key_type: str = "RSA"
    key_length: int = 2048
    subkey_type: str = "RSA"
    subkey_length: int = 2048
    key_usage: str = "sign"
    #: Fewest bits of a key that is made or imported, where its algorithm has lengths.
    min_bits: int = 1024


def usual_bits(algorithm: str) -> int:
    """The length of a new key of GnuPG's `algorithm` where none is configured, in bits.

    DSA has no more than 3072, and a large prime number for ElGamal takes minutes to find.
    """
    return 4096 if algorithm.lower() in ("rsa", "openpgp-rsa", "1") else 2048


@dataclass(frozen=True, slots=True)
class UserId:
    """The owner of a key. The comment and the e-mail address may be empty."""

    real: str
    comment: str = ""
    email: str = ""


class GnuPGHome(GnuPG):
    """The GnuPG home at `path`. `time_limit` is for one run of gpg, in seconds."""

    def __init__(
        self, path: Path, *, settings: KeySettings | None = None, time_limit: float = 60.0
    ) -> None:
        super().__init__(path, time_limit=time_limit)
        self._settings = settings or KeySettings()

    def prepare(self) -> None:
        """Make the home if there is none, check it, remove leftovers and start the agent.

        To be done once, before others use it. Raises `KeystoreError` where it cannot be used.
        """
        with storage_errors(self.path):
            prepare_directory(self.path)
            with locked_keys(self.path, self.time_limit):
                # Before any program of GnuPG's is started, which would wait for them.
                remove_stale_locks(self.path)
            self.list_keys()
            remove_leftovers(self)
        with self.agent():
            pass

    def generate(
        self, passphrase: Secret, user_id: UserId, expires: datetime.date | None = None
    ) -> str:
        """Make a new key protected with `passphrase`, and return its fingerprint.

        `expires` None means never. Raises `ConfigurationError` and `KeystoreError`.
        """
        parameters = _parameters(self._settings, user_id, expires)
        return _until_it_opens(partial(self._generate, parameters, passphrase))

    def _generate(self, parameters: str, passphrase: Secret) -> str:
        with storage_errors(self.path), scratch_home(self) as scratch:
            with memory_file(parameters.encode("utf-8")) as descriptor:
                outcome = scratch.run(
                    ["--full-generate-key"], passphrase=passphrase, stdin=descriptor
                )
            keys = scratch.list_keys()
            if outcome.returncode or not outcome.status.of("KEY_CREATED") or len(keys) != 1:
                what = "making a GnuPG key"
                cure = (
                    "check the user ID, the expiry date and [gnupg] in the server's configuration"
                )
                if CORRUPTED_PROTECTION_TEXT in outcome.messages:
                    raise SecretKeyDamaged(f"{what} failed ({outcome.last_words})", "try again")
                raise outcome.failure(what, cure)
            _require_open(scratch, keys[0], passphrase)
            move_in(self, scratch, keys[0])
            return keys[0].fingerprint

    def import_secret(
        self,
        data: bytes,
        file_passphrase: Secret,
        passphrase: Secret,
        known: Container[str] | None = None,
    ) -> str:
        """Import the secret key in `data`, protect it with `passphrase`; return its fingerprint.

        It takes the place of the same key in the home, where that is not among the `known` ones.

        `data` is an OpenPGP secret key, armoured or not, whose passphrase is `file_passphrase`
        (which does not matter if it has none). Raises `RequestRefused`: invalid import, import
        passphrase error, already exists; and `KeystoreError`.
        """
        refuse_before(data, time.time())
        return _until_it_opens(
            partial(self._import_secret, data, file_passphrase, passphrase, known)
        )

    def _import_secret(
        self,
        data: bytes,
        file_passphrase: Secret,
        passphrase: Secret,
        known: Container[str] | None,
    ) -> str:
        with storage_errors(self.path), scratch_home(self) as scratch:
            with memory_file(data) as descriptor:
                outcome = scratch.run(
                    ["--import"], stdin=descriptor, max_file_size=MAX_IMPORTED_BYTES
                )
            key = _only_secret_key(scratch.list_keys(), data)
            # gpg also takes what is left of a file that was cut.
            if outcome.returncode or not key.has_user_id:
                tell(_log, KeystoreLog.IMPORT_REFUSED, said=outcome.messages.strip())
                raise RequestRefused(
                    Status.INVALID_IMPORT, "the key is damaged or incomplete; export it again"
                )
            for part in key.parts:
                if part.secret:
                    if part.bits:  # unknown for curves
                        require_long(part.bits, self._settings.min_bits)
                    with scratch.agent() as agent:
                        try:
                            agent.change_passphrase(part.keygrip, file_passphrase, passphrase)
                        except WrongPassphrase:
                            raise RequestRefused(Status.IMPORT_PASSPHRASE_ERROR) from None
            _require_open(scratch, key, passphrase)
            move_in(self, scratch, key, replace=known is not None and key.fingerprint not in known)
            return key.fingerprint

    def has_any_of(self, fingerprint: str) -> bool:
        """Whether the key, or what is left of it, is here."""
        return self.key(fingerprint) is not None

    def delete(self, fingerprint: str) -> None:
        """Delete the key, secret and public. One that is not there is only logged.

        Raises `KeystoreError` if any of it is left.
        """
        with storage_errors(self.path), locked_home(self.path, self.time_limit):
            if self.key(fingerprint) is None:
                tell(
                    _log,
                    KeystoreLog.GNUPG_KEY_WAS_ABSENT,
                    fingerprint=fingerprint,
                    path=str(self.path),
                )
            remove_key(self, fingerprint)

    def change_expiration(
        self,
        fingerprint: str,
        passphrase: Secret,
        expires: datetime.date | None,
        subkey: int = 0,
        permit: Callable[[], None] = lambda: None,
    ) -> None:
        """Have the key, or its `subkey` (counted from 1), expire on that day; None means never.

        `permit` is called when nobody else changes the home, and raises where it is not to be.
        Raises `KeystoreError`: there is no such key or subkey, or gpg refuses the date.
        """
        with storage_errors(self.path), locked_home(self.path, self.time_limit):
            permit()
            part = self._existing(fingerprint, subkey).parts[subkey]
            outcome = self.run(
                [
                    *("--quick-set-expire", fingerprint, _date(expires)),
                    *([part.fingerprint] if subkey else []),
                ],
                passphrase=passphrase,
            )
            if outcome.status.says_wrong_passphrase():
                raise WrongPassphrase(f"the passphrase does not open key {fingerprint}")
            found = self._existing(fingerprint, subkey).parts[subkey].expires
            if outcome.returncode or _day(found) != expires:
                raise failure(
                    self,
                    fingerprint,
                    outcome,
                    "changing the key's expiration",
                    "choose a date in the future",
                )
            sync_keys(self.path)

    def public(self, fingerprint: str) -> bytes:
        """The public key, armoured. Raises `KeystoreError` if it is not there."""
        return self.export(fingerprint, armor=True)

    def fingerprints(self) -> frozenset[str]:
        """The fingerprints of all keys whose secret is here, in upper-case hex."""
        return frozenset(key.fingerprint for key in self.list_keys() if key.secret)

    def listed(self, fingerprints: Sequence[str]) -> list[ListedKey]:
        """Return those keys, as far as they are here, perhaps others. Raises `KeystoreError`."""
        return self._list(fingerprints if len(fingerprints) <= _MANY else ())

    def weak_keys(self) -> dict[str, int]:
        """The bits of keys that have less than new ones must have, by fingerprint.

        Of several parts the shortest counts.
        """
        least = self._settings.min_bits
        found = {}
        for key in self.list_keys():
            short = [part.bits for part in key.parts if part.secret and 0 < part.bits < least]
            if short:
                found[key.fingerprint] = min(short)
        return found

    def opening_seconds(self) -> dict[str, float]:
        """About how long each key takes to open that takes long, by fingerprint.

        Raises `KeystoreError`.
        """
        with storage_errors(self.path):
            return opening_seconds(self, self.list_keys())

    def hasten(self, fingerprint: str, passphrase: Secret) -> bool:
        """Have a key that is slow to open be quick, under the same passphrase; whether it was slow.

        Raises `KeystoreError`: it is as it was then.
        """
        with storage_errors(self.path):
            return hasten(self, self._existing(fingerprint, 0), passphrase)

    def require_whole(self, fingerprint: str) -> None:
        """Raise `KeystoreError` unless the secret parts of the key are what such files hold."""
        with storage_errors(self.path):
            for part in self._existing(fingerprint, 0).parts:
                # Any form of it: as canonical S-expression or as lines, protected or on a card.
                if (
                    part.secret
                    and b"private-key" not in secret_file(self, part.keygrip).read_bytes()
                ):
                    raise KeystoreError(
                        f"{secret_file(self, part.keygrip)} holds no secret key",
                        "restore it from a backup",
                    )

    def _existing(self, fingerprint: str, subkey: int) -> ListedKey:
        key = self.key(fingerprint)
        if key is None:
            raise KeystoreError(
                f"key {fingerprint} is not in {self.path}",
                "check the key store against the database",
            )
        if not 0 <= subkey < len(key.parts):
            raise KeystoreError(
                f"there is no subkey {subkey}: the key has {len(key.parts) - 1}, counted from 1",
                "name one of them, or none for the key itself",
            )
        return key


def _until_it_opens(make: Callable[[], str]) -> str:
    """Make a key, and make it anew where no passphrase opens what came of it."""
    for _ in range(_TRIES - 1):
        try:
            return make()
        except SecretKeyDamaged as error:
            tell(_log, KeystoreLog.KEY_MADE_AGAIN, why=str(error))
    return make()


def _require_open(scratch: GnuPG, key: ListedKey, passphrase: Secret) -> None:
    """Raise `SecretKeyDamaged` unless the passphrase opens all that the agent has written."""
    for part in key.parts:
        if part.secret:
            with scratch.agent() as agent:
                try:
                    agent.verify(part.keygrip, passphrase)
                except WrongPassphrase as error:
                    raise SecretKeyDamaged(error.problem, "try again") from None


def _only_secret_key(keys: list[ListedKey], data: bytes) -> ListedKey:
    if not keys:
        raise reason(data)
    if len(keys) != 1:
        raise invalid(f"it holds {len(keys)} keys", "export one secret key alone")
    if not keys[0].secret:
        raise no_secret(data)
    return keys[0]


# --- Parameters and dates as gpg takes them ----------------------------------------------------


def _parameters(settings: KeySettings, user_id: UserId, expires: datetime.date | None) -> str:
    lines = [
        *_type_lines("Key", settings.key_type, settings.key_length, settings.min_bits),
        *_type_lines("Subkey", settings.subkey_type, settings.subkey_length, settings.min_bits),
        *_user_id_lines(user_id),
        f"Expire-Date: {_date(expires)}",
    ]
    if settings.key_usage:
        if not _USAGE.fullmatch(settings.key_usage.lower()):
            raise ConfigurationError(
                f"[gnupg] gnupg-key-usage: {settings.key_usage!r} is no usage", "write sign"
            )
        # Behind Key-Type, which has to be the first.
        lines.insert(1, f"Key-Usage: {settings.key_usage.lower()}")
    return "\n".join([*lines, "%commit", ""])


def _type_lines(which: str, name: str, length: int, least: int) -> list[str]:
    option = f"gnupg-{which.lower()}-type"
    if not name and which == "Subkey":
        return []
    if name.lower() in _CURVES:
        primary, subkey, curve = _CURVES[name.lower()]
        algorithm = primary if which == "Key" else subkey
        if algorithm is None:
            raise ConfigurationError(f"[gnupg] {option}: {name} cannot sign", "write ed25519")
        return [f"{which}-Type: {algorithm}", f"{which}-Curve: {curve}"]
    if not _ALGORITHM.fullmatch(name):
        raise ConfigurationError(f"[gnupg] {option}: {name!r} is no algorithm", "write RSA")
    if length < least:
        raise ConfigurationError(
            f"[gnupg] gnupg-{which.lower()}-length: {length} is less than min-key-bits, {least}",
            "write 4096, or leave the line out",
        )
    return [f"{which}-Type: {name}", f"{which}-Length: {length}"]


def _user_id_lines(user_id: UserId) -> list[str]:
    parts = {
        "Name-Real": user_id.real,
        "Name-Comment": user_id.comment,
        "Name-Email": user_id.email,
    }
    for name, text in parts.items():
        if not _USER_ID_PART.fullmatch(text):
            raise KeystoreError(
                f"{name} {text!r} has a character that a user ID cannot have",
                "leave out < > and control characters",
            )
    return [f"{name}: {text}" for name, text in parts.items() if text.strip()]


def _date(expires: datetime.date | None) -> str:
    return expires.isoformat() if expires else "0"


def _day(expires: int | None) -> datetime.date | None:
    """The day of a time in seconds since 1970. Keys expire at noon; gpg here has it in UTC."""
    if expires is None:
        return None
    return datetime.datetime.fromtimestamp(expires, datetime.UTC).date()
