"""ECC and RSA keys, as PEM files in `keys-storage`.

For the key with fingerprint FPR: `FPR.pem`, `FPR.public.pem`, and a file `FPR.cert.NAME.pem` for
each of its certificates (docs/storage.md, "ECC and RSA keys"). The fingerprint is the SHA-1 of the
public key's DER SubjectPublicKeyInfo in lower-case hex: a name, no protection.

A key is there if `FPR.pem` is: that file is put in place last, and removed first. Every file
appears whole, and none is ever replaced by another key's or certificate's.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ..database import KeyType
from ..errors import ConfigurationError, KeystoreError, RequestRefused, Status, WrongPassphrase
from ..formats.file_kinds import kind_of
from ..logevents import tell
from ..secret import Secret
from ..system.files import sync, write_whole
from .log_events import KeystoreLog
from .storage import locked_keys, require_long, storage_errors

_log = logging.getLogger(__name__)

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

#: The curves that `ecc-default-curve` may name.
CURVES: dict[str, Callable[[], ec.EllipticCurve]] = {
    "SECP224R1": ec.SECP224R1,
    "SECP256R1": ec.SECP256R1,
    "SECP384R1": ec.SECP384R1,
    "SECP521R1": ec.SECP521R1,
    "SECP256K1": ec.SECP256K1,
    "BRAINPOOLP256R1": ec.BrainpoolP256R1,
    "BRAINPOOLP384R1": ec.BrainpoolP384R1,
    "BRAINPOOLP512R1": ec.BrainpoolP512R1,
}

_KINDS = {KeyType.ECC: ec.EllipticCurvePrivateKey, KeyType.RSA: rsa.RSAPrivateKey}
_PUBLIC_EXPONENT = 65537

#: How long one change waits for another, in seconds.
_LOCK_LIMIT = 30.0

_FINGERPRINT = re.compile(r"[0-9a-f]{40}")
_CERTIFICATE_NAME = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True, slots=True)
class PemSettings:
    """Properties of new keys, from `[keys]` of the server's configuration."""

    allowed_key_types: frozenset[KeyType] = frozenset({KeyType.ECC, KeyType.RSA})
    curve: str = "SECP256R1"
    rsa_key_size: int = 2048
    #: Fewest bits of an RSA key that is made or imported.
    min_bits: int = 1024
    #: Certificates that a key may have.
    max_certificates: int = 100


class PemStore:
    """The ECC and RSA keys in the directory `path`."""

    def __init__(self, path: Path, *, settings: PemSettings | None = None) -> None:
        self.path = path.absolute()
        self._settings = settings or PemSettings()

    def prepare(self) -> None:
        """Make the directory if there is none, and remove what a killed process left there.

        To be done once, before others use it. Raises `KeystoreError` where it cannot be used.
        """
        with storage_errors(self.path):
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.access(self.path, os.R_OK | os.W_OK | os.X_OK):
                raise PermissionError(f"user {os.geteuid()} may not write there")
            for left in self.path.glob(".*.pem.*"):  # unfinished files, as write_whole names them
                left.unlink(missing_ok=True)

    def generate(self, keytype: KeyType, passphrase: Secret) -> str:
        """Make a new key protected with `passphrase`; its fingerprint.

        Raises `RequestRefused` (unsupported keytype), `ConfigurationError`, `KeystoreError`.
        """
        self._check_type(keytype)
        key: PrivateKey
        if keytype is KeyType.ECC:
            curve = CURVES.get(self._settings.curve.upper())
            if curve is None:
                raise ConfigurationError(
                    f"[keys] ecc-default-curve: there is no curve {self._settings.curve!r}",
                    f"choose from: {', '.join(CURVES)}",
                )
            key = ec.generate_private_key(curve())
        else:
            size = self._settings.rsa_key_size
            if size < self._settings.min_bits:
                raise ConfigurationError(
                    f"[keys] rsa-key-size: {size} is less than min-key-bits,"
                    f" {self._settings.min_bits}",
                    "write 2048 or more",
                )
            key = rsa.generate_private_key(_PUBLIC_EXPONENT, size)
        return self._add(key, passphrase)

    def import_secret(
        self,
        keytype: KeyType,
        data: bytes,
        file_passphrase: Secret,
        passphrase: Secret,
        known: Container[str] | None = None,
    ) -> str:
        """Import the private key in `data` and protect it with `passphrase`; its fingerprint.

        It takes the place of the same key here, where that is not among the `known` ones.

        `data` is one PKCS#8 or traditional private key, PEM or DER; its passphrase is
        `file_passphrase`, which does not matter if it has none. Raises `RequestRefused`: invalid
        import, import passphrase error, already exists, unsupported keytype.
        """
        self._check_type(keytype)
        try:
            key = _load_private(data, file_passphrase)
        except WrongPassphrase:
            raise RequestRefused(Status.IMPORT_PASSPHRASE_ERROR) from None
        except KeystoreError as error:
            named = _named(data, error)
            raise RequestRefused.because(named, Status.INVALID_IMPORT) from None
        if not isinstance(key, _KINDS[keytype]):
            raise RequestRefused(
                Status.INVALID_IMPORT, f"it holds no {keytype} key; name the type that it is of"
            )
        if isinstance(key, rsa.RSAPrivateKey):
            require_long(key.key_size, self._settings.min_bits)
        return self._add(key, passphrase, known)

    def has_any_of(self, fingerprint: str) -> bool:
        """Whether the key, or what is left of it, is here. Raises `KeystoreError`."""
        with storage_errors(self.path):
            return bool(_FINGERPRINT.fullmatch(fingerprint)) and any(
                self.path.glob(f"{fingerprint}.*")
            )

    def is_whole(self, fingerprint: str) -> bool:
        """Whether the files of both halves of the key are there. Raises `KeystoreError`."""
        with storage_errors(self.path):
            return all(
                path.is_file()
                for path in (self.private_file(fingerprint), self._file(fingerprint, "public"))
            )

    def load(self, fingerprint: str, passphrase: Secret) -> PrivateKey:
        """The private key. Raises `WrongPassphrase`, and `KeystoreError` if it is not there."""
        return _load_private(self._read(self.private_file(fingerprint)), passphrase)

    def private_file(self, fingerprint: str) -> Path:
        """Path of the private key, PKCS#8, encrypted with its passphrase: for programs."""
        return self.path / f"{_checked(fingerprint)}.pem"

    def public(self, fingerprint: str) -> bytes:
        """The public key, PEM. Raises `KeystoreError` if it is not there."""
        return self._read(self._file(fingerprint, "public"))

    def delete(self, fingerprint: str) -> None:
        """Delete the key, with its certificates. One that is not there is only logged.

        Raises `KeystoreError` if any of it is left.
        """
        with self._changing():
            if not self.private_file(fingerprint).exists():
                tell(
                    _log,
                    KeystoreLog.PEM_KEY_WAS_ABSENT,
                    fingerprint=fingerprint,
                    path=str(self.path),
                )
            self.private_file(fingerprint).unlink(missing_ok=True)
            sync(self.path)  # the key goes first, even if the machine stops now
            self._remove_rest(fingerprint)

    def fingerprints(self) -> frozenset[str]:
        """The fingerprints of all keys. Raises `KeystoreError`."""
        with storage_errors(self.path):
            return frozenset(
                path.stem for path in self.path.iterdir()
                if path.suffix == ".pem" and _FINGERPRINT.fullmatch(path.stem)
            )  # fmt: skip

    def weak_keys(self) -> dict[str, int]:
        """The bits of RSA keys that have less than new ones must have, by fingerprint.

        Keys whose public half cannot be read are left out. Raises `KeystoreError`.
        """
        found = {}
        for fingerprint in self.fingerprints():
            with contextlib.suppress(KeystoreError, ValueError, UnsupportedAlgorithm):
                key = serialization.load_pem_public_key(self.public(fingerprint))
                if isinstance(key, rsa.RSAPublicKey) and key.key_size < self._settings.min_bits:
                    found[fingerprint] = key.key_size
        return found

    def require_whole(self, fingerprint: str) -> None:
        """Raise `KeystoreError` unless both files of the key are what such files hold."""
        private = self._read(self.private_file(fingerprint))
        if b"PRIVATE KEY-----" not in private or b"-----END " not in private:
            raise KeystoreError(
                f"{self.private_file(fingerprint)} holds no private key", "restore it from a backup"
            )
        try:
            key = serialization.load_pem_public_key(self.public(fingerprint))
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, PublicKey) or _fingerprint(key) != fingerprint:
            raise KeystoreError(
                f"{self._file(fingerprint, 'public')} is not the public key of {fingerprint}",
                "restore it from a backup",
            )

    def add_certificate(
        self,
        fingerprint: str,
        name: str,
        certificate: bytes,
        permit: Callable[[], None] = lambda: None,
    ) -> None:
        """Keep a certificate (PEM) of the key under `name`, which is letters only.

        `permit` is called last, when nobody else changes the store, and raises where it is not to
        be. Raises `RequestRefused`: already exists, where the key has one of that name; unknown
        error, with a message, where it has as many as it may have.
        """
        path = self._certificate(fingerprint, name)
        with self._changing():
            if path.exists():
                raise RequestRefused(
                    Status.ALREADY_EXISTS,
                    "the key has a certificate of that name; choose another name",
                )
            limit = self._settings.max_certificates
            if len(self.certificates(fingerprint)) >= limit:
                raise RequestRefused(
                    Status.UNKNOWN_ERROR,
                    f"the key has {limit} certificates, as many as"
                    " max-certificates-per-key lets it; remove one with delete-certificate",
                )
            permit()
            write_whole(path, certificate, replace=False, mode=0o644)

    def delete_certificate(
        self, fingerprint: str, name: str, permit: Callable[[], None] = lambda: None
    ) -> None:
        """Delete the certificate `name` of the key; `permit` is as in `add_certificate`.

        Raises `KeystoreError` if there is none.
        """
        with self._changing():
            permit()
            self._certificate(fingerprint, name).unlink()
            sync(self.path)

    def certificate(self, fingerprint: str, name: str) -> bytes:
        """The certificate `name` of the key, PEM. Raises `KeystoreError` if there is none."""
        return self._read(self._certificate(fingerprint, name))

    def certificates(self, fingerprint: str) -> frozenset[str]:
        """The names of the key's certificates."""
        with storage_errors(self.path):
            return frozenset(
                path.name.split(".")[2]
                for path in self.path.glob(f"{_checked(fingerprint)}.cert.*.pem")
            )

    def all_certificates(self) -> list[bytes]:
        """The certificates of all keys, PEM, in the order of their making. Raises `KeystoreError`.

        Their own dates are in whole seconds, too long for who was first.
        """
        with storage_errors(self.path):
            found = sorted(
                (path.stat().st_mtime_ns, path) for path in self.path.glob("[0-9a-f]*.cert.*.pem")
            )
            return [path.read_bytes() for _, path in found]

    # --- Files ---------------------------------------------------------------------------------

    def _check_type(self, keytype: KeyType) -> None:
        if keytype not in _KINDS or keytype not in self._settings.allowed_key_types:
            raise RequestRefused(
                Status.UNSUPPORTED_KEYTYPE,
                f"keys of type {keytype} may not be made here; see [keys] allowed-key-types",
            )

    def _file(self, fingerprint: str, kind: str) -> Path:
        return self.path / f"{_checked(fingerprint)}.{kind}.pem"

    def _certificate(self, fingerprint: str, name: str) -> Path:
        if not _CERTIFICATE_NAME.fullmatch(name):
            raise KeystoreError(f"{name!r} is no name of a certificate", "use ASCII letters only")
        return self._file(fingerprint, f"cert.{name}")

    def _read(self, path: Path) -> bytes:
        with storage_errors(self.path):
            try:
                return path.read_bytes()
            except FileNotFoundError as error:
                raise KeystoreError(
                    f"'{path.name}' is not in the key store ({error.strerror})",
                    "restore it from a backup",
                ) from error

    def _add(self, key: PrivateKey, passphrase: Secret, known: Container[str] | None = None) -> str:
        """Store a new key. Raises `RequestRefused` (already exists).

        What is there of a key that is not among the `known` ones makes room.
        """
        # With the same few rounds of key derivation (2048) as openssl's own and Sigul 1.2's files,
        # half a millisecond: the passphrase is random and long.
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(passphrase.reveal()),
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        fingerprint = _fingerprint(key.public_key())
        path = self.private_file(fingerprint)
        with self._changing():
            if path.exists() and known is not None and fingerprint not in known:
                # By its name the same key. It goes first, and what it has with it.
                tell(_log, KeystoreLog.PEM_KEY_TAKEN_OVER, fingerprint=fingerprint)
                path.unlink()
            if path.exists():
                raise RequestRefused(Status.ALREADY_EXISTS, f"key {fingerprint} is in the store")
            self._remove_rest(fingerprint)  # from making or deleting it, by a process killed then
            try:
                write_whole(self._file(fingerprint, "public"), public, replace=False, mode=0o644)
                write_whole(path, private, replace=False)
            except BaseException:
                self._remove_rest(fingerprint)
                raise
        return fingerprint

    def _remove_rest(self, fingerprint: str) -> None:
        """Remove the files of a key that is not there."""
        for left in self.path.glob(f"{_checked(fingerprint)}.*"):
            left.unlink(missing_ok=True)
        sync(self.path)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with storage_errors(self.path), locked_keys(self.path, _LOCK_LIMIT):
            yield


def _checked(fingerprint: str) -> str:
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise KeystoreError(
            f"{fingerprint!r} is no fingerprint of an ECC or RSA key", "check the database"
        )
    return fingerprint


def _fingerprint(key: PublicKey) -> str:
    der = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha1(der, usedforsecurity=False).hexdigest()


def _named(data: bytes, error: KeystoreError) -> KeystoreError:
    """The error for a file that is no private key in PEM: by what it is, where that is known."""
    kind = kind_of(data.lstrip())
    if kind is not None and "SSH private" in kind:
        return KeystoreError(f"it is {kind}", "ssh-keygen -p -m PEM -f FILE makes PEM of it")
    if kind is not None and "private" not in kind and "DER" not in kind:
        return KeystoreError(f"it holds no private key: it is {kind}", error.cure)
    return error


def _load_private(data: bytes, passphrase: Secret) -> PrivateKey:
    """The private key in PEM or DER. Raises `WrongPassphrase`, and `KeystoreError` for no key."""
    if data.count(b"PRIVATE KEY-----") > 2:  # what begins it, and what ends it
        raise KeystoreError("it holds several private keys", "give one alone")
    load = (
        serialization.load_pem_private_key
        if b"-----BEGIN " in data
        else serialization.load_der_private_key
    )
    try:
        try:
            # No version of cryptography says plainly that a passphrase is wrong, but all say
            # that one is needed.
            key = load(data, None)
        except TypeError:
            try:
                key = load(data, passphrase.reveal())
            except (TypeError, ValueError):
                raise WrongPassphrase("the passphrase does not open the private key") from None
    except (ValueError, UnsupportedAlgorithm):
        raise KeystoreError(
            "it holds no private key in PKCS#8 or traditional form that is supported",
            "convert it with openssl pkcs8 -topk8",
        ) from None
    if not isinstance(key, PrivateKey):
        raise KeystoreError("it holds a private key that is neither ECC nor RSA", "use one that is")
    return key
