"""Signing RPM packages of version 4: OpenPGP signatures in the signature header.

A package is read here, not by rpm's library: its head is parsed with limits, compared with what
the request says of it, and checked against the digests in its signature header. A package that is
in all as rpm writes it has all its digests compared here (`rpm_digests`); any other one, and one in
which something differs, is looked at by `rpmkeys` (`rpm_checks`). Only then is anything signed.

A head is mapped into memory, not read. A few times its size is needed all the same, by gpg, rpmkeys
and file signatures; so that packages with a large head take turns.

The signature is made over the main header, which holds the payload's digest. A package without
such a digest, or a request for it (`v3`), gets the older signature over header and payload
besides. Head signing is given the package's head, and whatever follows it, which is not looked at;
it makes a new signature header.

Files of source packages are not signed, as rpm itself stopped doing: nothing installs them, so no
kernel would look at the signatures. Such a package is signed as if no key for files had been named.

What no rpm verifies, by the kind of the key, is not made (`formats.key_remarks`).

The new signature header is as long as the old one as far as the space that rpmbuild reserved in
it goes, as rpmsign has it. Old signatures are replaced; everything else in it stays.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import BinaryIO, Final

from ..errors import KeystoreError, ProtocolError, RequestRefused, Status, printable, shortened
from ..formats.key_remarks import remarks_for_rpm, rpm_remark
from ..formats.openpgp_keys import KeyPacket, issuer_of, read_keys
from ..formats.openpgp_packets import RSA, MalformedPacket, signature_algorithm
from ..formats.rpm_head import (
    MAX_SIGNATURE_HEADER,
    CorruptRPM,
    Head,
    Header,
    HeaderEntry,
    UnsupportedRPM,
    head_length,
    padding,
    parse_head,
    signed_header,
)
from ..formats.rpm_lead import GET_AGAIN, unsupported
from ..formats.rpm_tags import EntryType, MainTag, SignatureTag
from ..logevents import tell
from ..system.memory import mapped
from ..system.programs import memory_file
from .descriptors import descriptor_of, input_descriptor
from .ima import FileSigner
from .log_events import SigningEvents
from .openpgp import OpenPGPKey
from .rpm_checks import PackageChecks
from .rpm_digests import digests_hold

_log = logging.getLogger(__name__)

_COPY_BYTES: Final = 1 << 20
#: Packages with larger heads take turns, in bytes: those have more than 25,000 files. Where files
#: are signed, a head can make ten times as much, and twice that for a moment.
LARGE_HEAD: Final = 4 << 20
LARGE_HEAD_WITH_FILES: Final = 1 << 19

#: Entries without which rpm does not read a package, though rpmkeys finds nothing wrong with it.
_NEEDED: Final = (MainTag.NAME, MainTag.VERSION, MainTag.RELEASE, MainTag.ARCH)
#: OpenPGP's number of MD5, which files are named by where the header says nothing else.
_MD5_ALGORITHM: Final = 1


@dataclass(frozen=True, slots=True)
class ExpectedPackage:
    """The package that a request describes; None where it says nothing.

    `sigmd5` is the package's MD5, which may stand for the authentication of its bytes:
    `authenticated` tells whether those are authenticated otherwise.
    """

    name: str | None = None
    epoch: str | None = None
    version: str | None = None
    release: str | None = None
    arch: str | None = None
    sigmd5: bytes | None = None
    authenticated: bool = True


@dataclass(frozen=True, slots=True)
class SignedPackage:
    """The package that was signed, and digests (SHA-256 in hexadecimal).

    Those are of the header that the signature is over (RPM's SHA256HEADER), and of the OpenPGP
    signatures.
    """

    nevra: str
    header: str
    signatures: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RPMSigner:
    """Signs packages with `key`, and the files of binary ones with `files` where that is given.

    `v3` asks for a signature over header and payload, too; with `head_only` only the heads of
    packages count, whatever follows them, and answers are signature headers. `permit` is called
    with the name in a package's own header before it is signed, and raises where it is not to be.
    `turn` is held while a package is worked on whose head has more than `LARGE_HEAD` bytes.
    `time_limit` in seconds is for the signatures of a package's files, and for each program that
    looks at it. Safe to use from several threads.
    """

    key: OpenPGPKey
    files: FileSigner | None = None
    permit: Callable[[str | None], None] = lambda _name: None
    v3: bool = False
    head_only: bool = False
    time_limit: float = 60.0
    turn: Callable[[], AbstractContextManager[None]] = nullcontext
    checks: PackageChecks = field(default_factory=PackageChecks)

    def sign(self, package: BinaryIO, expected: ExpectedPackage, output: BinaryIO) -> SignedPackage:
        """Write `package`, signed, to `output`; with `head_only` only its new signature header.

        Both are seekable files; `package` is read from its start. Raises `RequestRefused`
        (corrupt RPM, unauthenticated RPM, or what cannot be done with this one), `KeystoreError`.
        """
        size = package.seek(0, os.SEEK_END)
        if not size:
            raise RequestRefused(
                Status.CORRUPT_RPM,
                "no RPM came with the request: it is empty, over the bridge's"
                " max-rpms-payloads-size, or was not to be had from Koji; the bridge's log says",
            )
        if expected.sigmd5 is None and not expected.authenticated:
            # Nothing speaks for these bytes, so none of them are looked at.
            raise RequestRefused(Status.UNAUTHENTICATED_RPM)
        try:
            data = _mapped(package)
            large = LARGE_HEAD if self.files is None else LARGE_HEAD_WITH_FILES
            with self.turn() if head_length(data) > large else nullcontext():
                return self._sign(package, size, parse_head(data), expected, output)
        except UnsupportedRPM as error:
            raise RequestRefused.because(error) from None
        except ProtocolError as error:
            raise RequestRefused.because(error, Status.CORRUPT_RPM) from None

    def _sign(
        self, package: BinaryIO, size: int, head: Head, expected: ExpectedPackage, output: BinaryIO
    ) -> SignedPackage:
        _check_format(head.main)
        _compare(head, expected)
        self._check(package, size, head, expected)
        self.permit(head.main.string(MainTag.NAME))
        entries, signatures = self._signatures(package, head)
        header = signed_header(head.signature, entries)
        if not self.head_only:
            _write(output, head.lead)
        _write(output, header)
        # As it lies in a file, so that whoever puts it back need not know of the padding.
        _write(output, bytes(padding(len(header))))
        if not self.head_only:
            package.seek(head.main_offset)
            while piece := package.read(_COPY_BYTES):
                _write(output, piece)
        return SignedPackage(
            _nevra(head),
            hashlib.sha256(head.main.raw).hexdigest(),
            tuple(hashlib.sha256(signature).hexdigest() for signature in signatures),
        )

    # --------------------------------------------------------------------------------- checking

    def _check(self, package: BinaryIO, size: int, head: Head, expected: ExpectedPackage) -> None:
        _check_header(head, head_only=self.head_only)
        recorded = head.signature.long(SignatureTag.LONG_SIZE) or head.signature.integer(
            SignatureTag.SIZE
        )
        if self.head_only:
            if expected.authenticated:
                return
            if recorded == size - head.main_offset:
                self._check_md5(package, head, expected)
                return
            # Of Koji's RPMs a bridge of 1.2 sends the head alone: that it has the MD5 which the
            # client had from Koji is all that can be looked at, and has been.
            tell(_log, SigningEvents.RPM_DIGEST_WEAK)
            return
        if recorded is not None and recorded != size - head.main_offset:
            raise CorruptRPM(
                f"the RPM has {size - head.main_offset} bytes of header and payload, and says that"
                f" it has {recorded}: it is truncated, or has something behind it",
                GET_AGAIN,
            )
        if not expected.authenticated:
            self._check_md5(package, head, expected)
        if not digests_hold(package, size, head, self.time_limit):
            self._check_with_rpm(package, size)

    @staticmethod
    def _check_md5(package: BinaryIO, head: Head, expected: ExpectedPackage) -> None:
        if _md5(package, head.main_offset) != expected.sigmd5:
            raise RequestRefused(Status.UNAUTHENTICATED_RPM, "it is not the one of rpm-sigmd5")

    def _check_with_rpm(self, package: BinaryIO, size: int) -> None:
        package.seek(0)
        with input_descriptor(package) as descriptor:
            self.checks.check(descriptor, size, self.time_limit)

    # ---------------------------------------------------------------------------------- signing

    def _signatures(self, package: BinaryIO, head: Head) -> tuple[list[HeaderEntry], list[bytes]]:
        """The entries for the package's new signature header, and the OpenPGP signatures."""
        covers_payload = MainTag.PAYLOAD_DIGEST in head.main
        if self.head_only and (self.v3 or not covers_payload):
            raise RequestRefused(
                Status.UNKNOWN_ERROR,
                "a signature over the payload needs the whole RPM; sign it without head-signing",
            )
        added = (
            []
            if self.files is None or head.source
            else _file_signatures(self.files, head.main, self.time_limit)
        )
        with (
            memory_file(head.main.raw) as descriptor,
            open(descriptor, "rb", buffering=0, closefd=False) as main,
        ):
            signature = self.key.detached_signature(main)
        _require_verifiable(self.key, signature)
        signatures = [signature]
        added.append(
            HeaderEntry.binary(
                SignatureTag.RSA_HEADER if _is_rsa(signature) else SignatureTag.DSA_HEADER,
                signature,
            )
        )
        if self.v3 or not covers_payload:
            package.seek(head.main_offset)
            signature = self.key.detached_signature(package)
            signatures.append(signature)
            added.append(
                HeaderEntry.binary(
                    SignatureTag.PGP if _is_rsa(signature) else SignatureTag.GPG, signature
                )
            )
        return added, signatures


def _mapped(package: BinaryIO) -> memoryview:
    """A package's bytes, of which only those are read that are looked at."""
    descriptor = descriptor_of(package)
    if descriptor is None:
        package.seek(0)
        return memoryview(package.read())
    return mapped(descriptor)


def _check_format(main: Header) -> None:
    """Raise `UnsupportedRPM` for a package that may be whole, and is not to be signed here."""
    if (version := main.integer(MainTag.FORMAT) or 4) > 4:
        raise unsupported(version)
    if main.string(MainTag.PAYLOAD_FORMAT) == "drpm":
        raise UnsupportedRPM(
            "it is a delta RPM, which has the digests of the RPM that it makes",
            "sign the RPM itself, and make the delta of the signed one (makedeltarpm)",
        )
    for tag in _NEEDED:
        if not main.string(tag):
            raise CorruptRPM(
                f"the RPM has no {tag.name.lower()}, so that no rpm installs it",
                "have who built it give it one",
            )


def _nevra(head: Head) -> str:
    """Name, epoch, version, release and architecture, as rpm writes them."""
    main = head.main
    epoch = main.integer(MainTag.EPOCH)
    name, version, release = (
        main.string(tag) or "" for tag in (MainTag.NAME, MainTag.VERSION, MainTag.RELEASE)
    )
    arch = "src" if head.source else main.string(MainTag.ARCH) or ""
    return f"{name}-{'' if epoch is None else f'{epoch}:'}{version}-{release}.{arch}"


def _compare(head: Head, expected: ExpectedPackage) -> None:
    """Compare the package with what the request says of it. Raises `RequestRefused`."""
    main = head.main
    epoch = main.integer(MainTag.EPOCH) or 0
    for what, wanted, found in (
        ("name", expected.name, main.string(MainTag.NAME)),
        ("epoch", None if expected.epoch is None else expected.epoch or "0", str(epoch)),
        ("version", expected.version, main.string(MainTag.VERSION)),
        ("release", expected.release, main.string(MainTag.RELEASE)),
        ("arch", expected.arch, "src" if head.source else main.string(MainTag.ARCH)),
    ):
        if wanted is not None and wanted != found:
            # A package says what it likes, and this goes to terminals and logs.
            raise CorruptRPM(
                f"the RPM's {what} is '{shortened(printable(str(found)), 80)}', and not"
                f" '{shortened(wanted, 80)}'"
            )
    if expected.sigmd5 is not None and head.signature.blob(SignatureTag.MD5) != expected.sigmd5:
        raise CorruptRPM("the RPM's MD5 is not rpm-sigmd5")


def _check_header(head: Head, *, head_only: bool) -> None:
    """Compare the main header with its digests, one of which there must be."""
    raw = head.main.raw
    sha1 = hashlib.sha1(raw, usedforsecurity=False)
    digests = (
        (head.signature.string(SignatureTag.SHA256_HEADER), hashlib.sha256(raw).hexdigest()),
        (head.signature.string(SignatureTag.SHA1_HEADER), sha1.hexdigest()),
    )
    # Some builders record the MD5 of all alone, which rpmkeys checks; that speaks for no head.
    whole = not head_only and SignatureTag.MD5 in head.signature
    if not whole and not any(recorded for recorded, _ in digests):
        raise CorruptRPM("the RPM has no digest of its header", "rebuild it with a newer rpm")
    # Upper case is the same to rpm.
    if any(recorded is not None and recorded.lower() != digest for recorded, digest in digests):
        raise CorruptRPM("the RPM's header does not match its digest", GET_AGAIN)


def _md5(package: BinaryIO, offset: int) -> bytes:
    package.seek(offset)
    digest = hashlib.md5(usedforsecurity=False)
    while piece := package.read(_COPY_BYTES):
        digest.update(piece)
    return digest.digest()


def _file_signatures(signer: FileSigner, main: Header, time_limit: float) -> list[HeaderEntry]:
    """The entries with the files' signatures, which are made within `time_limit` seconds."""
    if MainTag.FILE_DIGESTS not in main:  # a package without files
        return []
    algorithm = main.integer(MainTag.FILE_DIGEST_ALGORITHM) or _MD5_ALGORITHM
    deadline = time.monotonic() + time_limit
    signatures, count, longest = bytearray(), 0, 0
    for digest in main.each_string(MainTag.FILE_DIGESTS):
        # Directories, links and the like have none.
        if digest:
            signature = signer.sign(algorithm, _digest(digest))
            longest = max(longest, len(signature))
            signatures += signature.hex().encode("ascii")
        signatures += b"\0"
        count += 1
        if len(signatures) > MAX_SIGNATURE_HEADER:
            raise CorruptRPM("it has more files than an RPM has room for signatures")
        if time.monotonic() > deadline:
            raise RequestRefused(
                Status.UNKNOWN_ERROR,
                f"signing the RPM's files took longer than the server's signing-timeout: {count} of"
                " them were done; raise it, or sign with an ECC key",
            )
    return [
        HeaderEntry(
            SignatureTag.FILE_SIGNATURES,
            EntryType.STRING_ARRAY,
            count,
            memoryview(signatures),
        ),
        HeaderEntry.integer(SignatureTag.FILE_SIGNATURE_LENGTH, longest),
    ]


def _digest(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise CorruptRPM("a file's digest is not hexadecimal") from None


def _require_verifiable(key: OpenPGPKey, signature: bytes) -> None:
    """Raise `RequestRefused` where no rpm verifies `signature`, which `key` has made."""
    try:
        issuer = issuer_of(signature)
    except MalformedPacket:
        return  # rpm does not read it, which is said elsewhere
    signer = key.open_signer()
    for part in _parts(signer.certificate, signer.fingerprint.hex().upper()):
        if part.primary or (issuer and part.fingerprint.endswith(issuer)):
            remark = rpm_remark(part)
            if remark is not None and remark.nowhere:
                problem = f"this key is none for RPMs: {remark.problem}"
                raise RequestRefused.because(KeystoreError(problem, remark.cure))


@functools.lru_cache(maxsize=64)
def _parts(certificate: bytes, fingerprint: str) -> tuple[KeyPacket, ...]:
    """Primary key and subkeys of a certificate, of which the part `fingerprint` signs.

    What there is to tell of it is told once, for a batch may be long.
    """
    try:
        keys = read_keys(certificate)
    except MalformedPacket as error:
        # It signs nonetheless, so that it is left to whoever verifies.
        tell(_log, SigningEvents.RPM_KEY_UNKNOWN, fingerprint=fingerprint, why=str(error))
        return ()
    for remark in (remark for key in keys for remark in remarks_for_rpm(key)):
        tell(_log, SigningEvents.RPM_KEY_REMARK, fingerprint=fingerprint, remark=str(remark))
    return tuple(part for key in keys for part in key.parts)


def _is_rsa(signature: bytes) -> bool:
    """True if an OpenPGP signature is RSA's. Raises `KeystoreError` for one rpm does not read."""
    try:
        return signature_algorithm(signature) in RSA
    except MalformedPacket:
        raise KeystoreError(
            "gpg made a signature that rpm does not read",
            "use a key of version 4 (gpg --list-packets)",
        ) from None


def _write(output: BinaryIO, data: bytes | memoryview) -> None:
    """Write all of `data`: an unbuffered file may take less at once."""
    left = memoryview(data)
    while left:
        left = left[output.write(left) :]
