"""What is done to one NSS database directory in place, each method one run of an NSS tool.

Invariant: a password or private key reaches the tools in memory files only, and each run names
the database by its directory, never by a path that would be kept in `pkcs11.txt`. Nothing in here
is atomic: `database` runs it on a copy, and puts the copy in place.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat, pkcs12

from ..errors import NSSError, WrongNSSPassword
from ..secret import Secret
from ..system.programs import memory_file
from .certificates import from_pem
from .tools import Outcome, named, password_file, run_tool

#: The private keys that NSS keeps and the programs can use for TLS.
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

#: Trust of an authority: it may issue certificates of TLS servers (C) and of TLS clients (T).
TRUSTED_AUTHORITY: Final = "CT,,"
NO_TRUST: Final = ",,"

#: NSS derives a key from the password for each private key and each trust record that it reads, in
#: every process that opens the database: with 600,000 iterations more than a second, with 1,000 a
#: few milliseconds (measured, NSS 3.87, 3.110, 3.118). Iterations slow down who guesses passwords;
#: one of 128 random bits is not guessed, so only shorter ones get NSS's own number.
ITERATIONS_FOR_RANDOM_PASSWORD: Final = 1000
_RANDOM_PASSWORD_CHARACTERS: Final = 32

#: Of the PKCS#12 structures that only ever exist in memory, between us and pk12util.
_TRANSFER_ROUNDS: Final = 1

_ENTRY = re.compile(r"^(?P<nickname>.+?) +(?P<trust>[pPcCTuwg]*,[pPcCTuwg]*,[pPcCTuwg]*) *$")
_KEY = re.compile(r"^<\s*\d+>\s+\w+\s+(?P<id>[0-9a-f]+)\s*(?P<label>.*)$")


@dataclass(frozen=True, slots=True)
class Entry:
    """A certificate as the database lists it."""

    nickname: str
    trust: str
    certificate: x509.Certificate


class NSSStore:
    """The `sql:` database in `directory`, which `password` opens; None is the empty password.

    Where `directory` is a working copy, `shown` is the directory that messages are about.
    """

    def __init__(
        self, directory: Path, password: Secret | None, *, shown: Path | None = None
    ) -> None:
        self.directory = directory
        self._shown = shown or directory
        self._password = password
        self._iterations = (
            ITERATIONS_FOR_RANDOM_PASSWORD
            if password is not None and len(password.reveal()) >= _RANDOM_PASSWORD_CHARACTERS
            else None
        )
        # A tool's run takes longer than all else in here: what was read is kept until written.
        self._entries: tuple[Entry, ...] | None = None
        self._keys: dict[str, str] | None = None

    # ------------------------------------------------------------------------------- reading

    def entries(self) -> tuple[Entry, ...]:
        """All certificates with a nickname. Needs no password. Raises `NSSError`."""
        if self._entries is None:
            self._entries = self._read_entries()
        return self._entries

    def _read_entries(self) -> tuple[Entry, ...]:
        trusts: dict[str, list[str]] = {}
        for line in self._checked(self._run("certutil", "-L")).output.splitlines():
            if (match := _ENTRY.match(line)) is not None:
                trusts.setdefault(match["nickname"], []).append(match["trust"])
        found: list[Entry] = []
        for nickname, of_each in trusts.items():
            certificates = self._read_certificates(nickname)
            # Certificates that share a nickname share a subject, but not always their trust.
            padded = of_each + of_each[-1:] * (len(certificates) - len(of_each))
            found += [
                Entry(nickname, trust, certificate)
                for trust, certificate in zip(padded, certificates, strict=False)
            ]
        return tuple(found)

    def certificates(self, nickname: str) -> tuple[x509.Certificate, ...]:
        """The certificates with this nickname, one as a rule; none where there is no such."""
        return tuple(item.certificate for item in self.entries() if item.nickname == nickname)

    def _read_certificates(self, nickname: str) -> tuple[x509.Certificate, ...]:
        pem = self._checked(self._run("certutil", "-L", "-n", nickname, "-a")).output.encode()
        return from_pem(pem, f"the nickname '{nickname}' in '{self._shown}'")

    def key_ids(self) -> dict[str, str]:
        """The private keys: id (see `certificates.key_id`) to NSS's label.

        Raises `WrongNSSPassword`, `NSSError`.
        """
        if self._keys is None:
            self._keys = self._read_key_ids()
        return self._keys

    def _read_key_ids(self) -> dict[str, str]:
        with password_file(self._password) as password:
            outcome = self._run("certutil", "-K", "-f", password)
        if outcome.status != 0 and not outcome.names("no keys found"):
            self._checked(outcome)
        matches = (_KEY.match(line) for line in outcome.output.splitlines())
        return {match["id"]: match["label"].strip() for match in matches if match is not None}

    def export_key(self, nickname: str) -> PrivateKey:
        """The private key of the certificate `nickname`. Raises `WrongNSSPassword`, `NSSError`."""
        transfer = Secret.random(32)
        with (
            password_file(self._password) as password,
            password_file(transfer) as wrapping,
            memory_file() as bundle,
        ):
            self._checked(
                self._run("pk12util", "-o", bundle, "-n", nickname, "-k", password, "-w", wrapping)
            )
            content = Path(named(bundle)).read_bytes()
        with warnings.catch_warnings():
            # pk12util writes BER of indefinite length, which is read, with a warning.
            warnings.simplefilter("ignore", UserWarning)
            try:
                key = pkcs12.load_pkcs12(content, transfer.reveal()).key
            except ValueError as error:
                raise NSSError(
                    f"the key of '{nickname}' as pk12util exports it cannot be read ({error})"
                ) from error
        return usable_key(key, f"the key of '{nickname}' in '{self._shown}'")

    # ------------------------------------------------------------------------------- writing

    def initialise(self) -> None:
        """Make the database, empty, in the directory. Raises `NSSError`."""
        with password_file(self._password) as password:
            self._write("certutil", "-N", "-f", password)
        self._entries, self._keys = (), {}

    def add_certificate(self, certificate: x509.Certificate, nickname: str, trust: str) -> None:
        """Add a certificate; NSS finds its private key by itself where it is there already."""
        with (
            password_file(self._password) as password,
            memory_file(certificate.public_bytes(Encoding.DER)) as content,
        ):
            options = ("-n", nickname, "-t", trust, "-i", content, "-f", password)
            self._write("certutil", "-A", *options)

    def add_key(self, key: PrivateKey, certificate: x509.Certificate, nickname: str) -> None:
        """Add a private key together with its certificate."""
        transfer = Secret.random(32)
        protection = (
            PrivateFormat.PKCS12.encryption_builder()
            .kdf_rounds(_TRANSFER_ROUNDS)
            # What NSS 3.87 (Debian 12) and later ones read.
            .key_cert_algorithm(pkcs12.PBES.PBESv2SHA256AndAES256CBC)
            .hmac_hash(hashes.SHA256())
            .build(transfer.reveal())
        )
        bundle = pkcs12.serialize_key_and_certificates(
            nickname.encode(), key, certificate, None, protection
        )
        with (
            password_file(self._password) as password,
            password_file(transfer) as wrapping,
            memory_file(bundle) as content,
        ):
            self._write("pk12util", "-i", content, "-k", password, "-w", wrapping)

    def set_trust(self, nickname: str, trust: str) -> None:
        """Change what a certificate is trusted for."""
        with password_file(self._password) as password:
            self._write("certutil", "-M", "-n", nickname, "-t", trust, "-f", password)

    def delete_certificates(self, nickname: str) -> None:
        """Delete all certificates with this nickname; private keys stay."""
        for _ in self.certificates(nickname):
            with password_file(self._password) as password:
                self._write("certutil", "-D", "-n", nickname, "-f", password)

    def delete_keys(self, ids: Iterable[str]) -> None:
        """Delete private keys, and certificates that go with them."""
        for identity in ids:
            with password_file(self._password) as password:
                self._write("certutil", "-F", "-k", identity, "-f", password)

    def merge_old_format(self, source: Path) -> None:
        """Bring all of the `dbm` database in `source`, of the same password, into this one."""
        with password_file(self._password) as password:
            # Without a prefix: with `dbm:` certutil merges nothing, and says success.
            where = ("--source-dir", str(source.absolute()), "--upgrade-id", "sigul-stack")
            token = ("--upgrade-token-name", "dbm", "-@", password, "-f", password)
            self._write("certutil", "--upgrade-merge", *where, *token)

    # ------------------------------------------------------------------------------- running

    def _write(self, tool: str, operation: str, *arguments: str | int) -> None:
        self._entries = self._keys = None
        self._checked(self._run(tool, operation, *arguments))

    def _run(self, tool: str, operation: str, *arguments: str | int) -> Outcome:
        return run_tool(
            tool,
            operation,
            *arguments,
            "-d",
            "sql:.",
            directory=self.directory,
            iterations=self._iterations,
        )

    def _checked(self, outcome: Outcome) -> Outcome:
        """`outcome`, if the tool succeeded."""
        if outcome.status == 0:
            return outcome
        if outcome.names("SEC_ERROR_BAD_PASSWORD") and not self._password:
            raise WrongNSSPassword(
                f"the database in '{self._shown}'{self._made()} needs its password; give it with"
                " --password-file"
            )
        if outcome.names("SEC_ERROR_BAD_PASSWORD"):
            raise WrongNSSPassword(
                "Provided NSS password is incorrect: this password does not open the database in"
                f" '{self._shown}'{self._made()}; give the one that it was made with"
            )
        raise NSSError(f"the NSS database in '{self._shown}' cannot be used: {outcome.reason}")

    def _made(self) -> str:
        """When the database was made, for messages: this file is written then and never after."""
        try:
            made = (self._shown / "pkcs11.txt").stat().st_mtime
        except OSError:
            return ""
        return f" (made {datetime.fromtimestamp(made, UTC):%Y-%m-%d %H:%M} UTC)"


def usable_key(key: object, what: str) -> PrivateKey:
    """`key`, if it is one that NSS and TLS can use. Raises `NSSError`."""
    if not isinstance(key, PrivateKey):
        raise NSSError(f"{what} is neither an RSA nor an EC private key; use one that is")
    return key
