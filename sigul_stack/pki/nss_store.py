"""Operations on one NSS database directory in place, each method one run of an NSS tool.

Invariant: a password or private key reaches the tools in memory files only, and each run names
the database by its directory, never by a path that would be kept in `pkcs11.txt`. Nothing in here
is atomic: `database` runs it on a copy, and puts the copy in place.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat, pkcs12

from ..config.identity import rights_of_owner
from ..errors import NSSError, WrongNSSPassword
from ..password_strength import why_weak
from ..secret import Secret
from ..system.programs import memory_file
from .certificate_info import from_pem
from .nss_tools import named, run_tool

#: The private keys that NSS keeps and the programs can use for TLS.
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

#: Trust of an authority: it may issue certificates of TLS servers (C) and of TLS clients (T).
TRUSTED_AUTHORITY: Final = "CT,,"
NO_TRUST: Final = ",,"

#: NSS derives a key from the password for each attribute of a private key and each trust record, at
#: every use: with 10,000 iterations 45 ms for an RSA key, with one 2 ms. Iterations slow down who
#: guesses passwords; one of 128 random bits is not guessed (decisions/0060), so that only what may
#: be less gets NSS's own number.
ITERATIONS_FOR_RANDOM_PASSWORD: Final = 1

#: Of the PKCS#12 structures that only ever exist in memory, between us and pk12util.
_TRANSFER_ROUNDS: Final = 1

#: The curves of NSS, as `cryptography` calls them.
_CURVES: Final = frozenset({"secp256r1", "secp384r1", "secp521r1"})

_ENTRY = re.compile(r"^(?P<nickname>.+?) +(?P<trust>[pPcCTuwg]*,[pPcCTuwg]*,[pPcCTuwg]*) *$")
_KEY = re.compile(r"^<\s*\d+>\s+\w+\s+(?P<id>[0-9a-f]+)\s*(?P<label>.*)$")


@dataclass(frozen=True, slots=True)
class StoredCertificate:
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
            if password is not None and why_weak(password) is None
            else None
        )
        # A tool's run takes longer than all else in here: what was read is kept until written.
        self._entries: tuple[StoredCertificate, ...] | None = None
        self._keys: dict[str, str] | None = None

    # ------------------------------------------------------------------------------- reading

    def entries(self) -> tuple[StoredCertificate, ...]:
        """All certificates with a nickname. Needs no password. Raises `NSSError`."""
        if self._entries is not None:
            return self._entries
        trusts: dict[str, list[str]] = {}
        for line in self._run("certutil", "-L").splitlines():
            if (match := _ENTRY.match(line)) is not None:
                trusts.setdefault(match["nickname"], []).append(match["trust"])
        found: list[StoredCertificate] = []
        for nickname, of_each in trusts.items():
            pem = self._run("certutil", "-L", "-n", nickname, "-a").encode()
            certificates = from_pem(pem, f"the nickname '{nickname}' in '{self._shown}'")
            # Certificates that share a nickname share a subject, but not always their trust.
            padded = of_each + of_each[-1:] * (len(certificates) - len(of_each))
            found += [
                StoredCertificate(nickname, trust, certificate)
                for trust, certificate in zip(padded, certificates, strict=False)
            ]
        self._entries = tuple(found)
        return self._entries

    def certificates(self, nickname: str) -> tuple[x509.Certificate, ...]:
        """The certificates with this nickname, one as a rule; none where there is no such."""
        return tuple(item.certificate for item in self.entries() if item.nickname == nickname)

    def key_ids(self) -> dict[str, str]:
        """The private keys: id (see `certificates.key_id`) to NSS's label.

        Raises `WrongNSSPassword`, `NSSError`.
        """
        if self._keys is None:
            with self._password_file() as password:
                listed = self._run("certutil", "-K", "-f", password, harmless="no keys found")
            matches = map(_KEY.match, listed.splitlines())
            self._keys = {match["id"]: match["label"].strip() for match in matches if match}
        return self._keys

    def export_key(self, nickname: str) -> PrivateKey:
        """The private key of the certificate `nickname`. Raises `WrongNSSPassword`, `NSSError`."""
        transfer = Secret.random(32)
        with (
            self._password_file() as password,
            memory_file(transfer.reveal()) as wrapping,
            memory_file() as bundle,
        ):
            self._run("pk12util", "-o", bundle, "-n", nickname, "-k", password, "-w", wrapping)
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

    def verify(self, nickname: str, *, server: bool) -> str | None:
        """NSS's reason not to take a certificate for a TLS server's (or client's); None: it does.

        Raises `WrongNSSPassword`, `NSSError`.
        """
        with self._password_file() as password:
            said = self._run(
                *("certutil", "-V", "-n", nickname, "-u", "V" if server else "C", "-e"),
                *("-f", password),
                harmless="certificate is invalid",
            )
        reason = said.partition("certificate is invalid")[2]
        return reason.strip(" :\n") if reason or "invalid" in said else None

    # ------------------------------------------------------------------------------- writing

    def initialise(self) -> None:
        """Make the database, empty, in the directory. Raises `NSSError`."""
        self._change("-N")
        self._entries, self._keys = (), {}

    def add_certificate(self, certificate: x509.Certificate, nickname: str, trust: str) -> None:
        """Add a certificate; NSS finds its private key by itself where it is there already."""
        with memory_file(certificate.public_bytes(Encoding.DER)) as content:
            self._change("-A", "-n", nickname, "-t", trust, "-i", content)

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
        with memory_file(transfer.reveal()) as wrapping, memory_file(bundle) as content:
            self._change("-i", content, "-w", wrapping, tool="pk12util")

    def set_trust(self, nickname: str, trust: str) -> None:
        """Change what a certificate is trusted for."""
        self._change("-M", "-n", nickname, "-t", trust)

    def delete_certificates(self, nickname: str) -> None:
        """Delete all certificates with this nickname; private keys stay."""
        for _ in self.certificates(nickname):
            self._change("-D", "-n", nickname)

    def delete_keys(self, ids: Iterable[str]) -> None:
        """Delete private keys, and certificates that go with them."""
        for identity in ids:
            self._change("-F", "-k", identity)

    def merge_old_format(self, source: Path) -> None:
        """Bring all of the `dbm` database in `source`, of the same password, into this one."""
        # Without a prefix: with `dbm:` certutil merges nothing, and says success.
        with self._password_file() as password:
            self._change(
                "--upgrade-merge",
                *("--source-dir", str(source.absolute()), "--upgrade-id", "sigul-stack"),
                *("--upgrade-token-name", "dbm", "-@", password),
            )

    def rewrite(self) -> None:
        """Encrypt all anew under the same password: one transaction, of all that is in there."""
        with self._password_file() as password:
            self._change("-W", "-@", password)

    # ------------------------------------------------------------------------------- running

    def _password_file(self) -> AbstractContextManager[int]:
        """The password as the tools' `-f` and `-k` want it; none is the empty password.

        Not a pipe: the tools open their password file more than once.
        """
        return memory_file(b"" if self._password is None else self._password.reveal())

    def _change(self, operation: str, *arguments: str | int, tool: str = "certutil") -> None:
        self._entries = self._keys = None
        option = "-k" if tool == "pk12util" else "-f"
        with self._password_file() as password:
            self._run(tool, operation, *arguments, option, password)

    def _run(self, tool: str, operation: str, *arguments: str | int, harmless: str = "") -> str:
        """The output of a tool's run on this database.

        Raises `NSSError` where it fails, unless it says what is `harmless`.
        """
        # NSS loads the modules that the database names: whoever can change it runs code here.
        with rights_of_owner(self.directory):
            done = run_tool(
                tool,
                operation,
                *arguments,
                "-d",
                "sql:.",
                directory=self.directory,
                iterations=self._iterations,
            )
        output = done.stdout.decode("utf-8", "replace")
        if done.returncode == 0 or (harmless and harmless in done.stderr + output):
            return output
        if "SEC_ERROR_BAD_PASSWORD" not in done.stderr + output:
            said = done.stderr.strip() or output.strip()
            reason = said.splitlines()[-1] if said else f"exit status {done.returncode}"
            raise NSSError(
                f"the NSS database in '{self._shown}' cannot be used: {tool} {operation}: {reason}"
            )
        if self._password is not None and not self._password:
            raise WrongNSSPassword(
                "Provided NSS password is incorrect",
                f"it is empty, and the database in '{self._shown}'{self._made()} has one: write it"
                " into the file that is given with --password-file",
            )
        if self._password is None:
            raise WrongNSSPassword(
                f"the database in '{self._shown}'{self._made()} needs its password",
                "give it with --password-file",
            )
        raise WrongNSSPassword(
            "Provided NSS password is incorrect",
            f"this password does not open the database in '{self._shown}'{self._made()}: give the"
            " one that it was made with",
        )

    def _made(self) -> str:
        """The time when the database was made, for messages: this file is never written again."""
        try:
            made = (self._shown / "pkcs11.txt").stat().st_mtime
        except OSError:
            return ""
        return f" (made {datetime.fromtimestamp(made, UTC):%Y-%m-%d %H:%M} UTC)"


def usable_key(key: object, what: str) -> PrivateKey:
    """`key`, if it is one that NSS and TLS can use. Raises `NSSError`."""
    if not isinstance(key, PrivateKey):
        raise NSSError(f"{what} is neither an RSA nor an EC private key", "use one that is")
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name not in _CURVES:
        raise NSSError(
            f"{what} is on the curve {key.curve.name}, which NSS does not know",
            "have a certificate issued for RSA, or for P-256, P-384 or P-521",
        )
    return key
