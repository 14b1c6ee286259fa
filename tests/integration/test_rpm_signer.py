"""The signer itself: what stands for a package's authentication, and packages that are unusual.

Packages are taken apart and put together anew here, so that all digests fit and only one thing is
out of the ordinary.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from sigul_stack.errors import RequestRefused, Status
from sigul_stack.formats.rpm_head import (
    EntryType,
    Head,
    HeaderEntry,
    Region,
    encode_header,
    parse_signature,
    read_head,
)
from sigul_stack.keystore.gnupg import UserId
from sigul_stack.protocol.codec import run_parser
from sigul_stack.secret import Secret
from sigul_stack.signing.openpgp import OpenPGPKey
from sigul_stack.signing.rpm import ExpectedPackage, RPMSigner

from .gnupg_support import gnupg_home
from .rpm_support import Rpm, build

PASSPHRASE = Secret("pw")
UNAUTHENTICATED = ExpectedPackage(authenticated=False)


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RPMSigner]:
    """A signer with an Ed25519 key."""
    with gnupg_home(tmp_path_factory.mktemp("gnupg") / "home") as home:
        fingerprint = home.generate(PASSPHRASE, UserId("rpm"), None)
        yield RPMSigner(OpenPGPKey(home, fingerprint, PASSPHRASE))


@pytest.fixture(scope="module")
def rpm(signer: RPMSigner, tmp_path_factory: pytest.TempPathFactory) -> Rpm:
    """An rpm database with the signer's key."""
    return Rpm(
        tmp_path_factory.mktemp("rpmdb"), signer.key.home.export(signer.key.fingerprint, armor=True)
    )


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A binary package."""
    return build(tmp_path_factory.mktemp("package")).read_bytes()


def head_of(package: bytes) -> Head:
    """The head of a package."""
    return run_parser(read_head(), io.BytesIO(package).read)


def md5_of(package: bytes) -> bytes:
    """The MD5 of header and payload."""
    return hashlib.md5(package[head_of(package).main_offset :], usedforsecurity=False).digest()


def signed(
    signer: RPMSigner,
    package: bytes,
    expected: ExpectedPackage = ExpectedPackage(),  # noqa: B008
) -> bytes:
    """What the signer makes of a package."""
    output = io.BytesIO()
    signer.sign(io.BytesIO(package), expected, output)
    return output.getvalue()


def refusal(
    signer: RPMSigner,
    package: bytes,
    expected: ExpectedPackage = ExpectedPackage(),  # noqa: B008
) -> RequestRefused:
    """Why the signer refuses a package; it has written nothing then."""
    output = io.BytesIO()
    with pytest.raises(RequestRefused) as caught:
        signer.sign(io.BytesIO(package), expected, output)
    assert output.getvalue() == b""
    return caught.value


def rebuilt(
    package: bytes,
    changes: Mapping[int, HeaderEntry | None],
    signature: Mapping[int, HeaderEntry | None] = {},
) -> bytes:
    """The package with entries of its main header changed, and digests that fit."""
    head = head_of(package)
    main = encode_header(Region.MAIN, changed(head.main.entries, changes))
    rest = main + package[head.length :]
    digests: dict[int, HeaderEntry | None] = {
        269: text(269, hashlib.sha1(main, usedforsecurity=False).hexdigest()),
        273: text(273, hashlib.sha256(main).hexdigest()),
        1000: HeaderEntry.integer(1000, len(rest)),
        1004: HeaderEntry.binary(1004, hashlib.md5(rest, usedforsecurity=False).digest()),
        **signature,
    }
    new = encode_header(Region.SIGNATURE, changed(head.signature.entries, digests))
    return head.before_main(new) + rest


def changed(
    entries: Mapping[int, HeaderEntry], changes: Mapping[int, HeaderEntry | None]
) -> list[HeaderEntry]:
    """Entries with some replaced, or without them."""
    return [entry for entry in {**entries, **changes}.values() if entry is not None]


def text(tag: int, value: str) -> HeaderEntry:
    """An entry of one text."""
    return HeaderEntry(tag, EntryType.STRING, 1, value.encode() + b"\0")


# ------------------------------------------------------------------------------ authentication


def test_the_md5_stands_in_for_authentication(signer: RPMSigner, package: bytes) -> None:
    assert signed(signer, package, replace(UNAUTHENTICATED, sigmd5=md5_of(package)))
    assert refusal(signer, package, UNAUTHENTICATED).status == Status.UNAUTHENTICATED_RPM
    wrong = replace(UNAUTHENTICATED, sigmd5=bytes(16))
    assert refusal(signer, package, wrong).status == Status.CORRUPT_RPM


def test_nothing_is_parsed_that_nothing_speaks_for(signer: RPMSigner) -> None:
    assert refusal(signer, b"no RPM", UNAUTHENTICATED).status == Status.UNAUTHENTICATED_RPM
    # That none came at all is told nonetheless: there is nothing to parse.
    assert refusal(signer, b"", UNAUTHENTICATED).status == Status.CORRUPT_RPM
    assert refusal(signer, b"no RPM").status == Status.CORRUPT_RPM


def test_an_md5_is_computed_and_not_believed(signer: RPMSigner, package: bytes) -> None:
    """A bridge gives another package the MD5 of the one that the client means."""
    meant = md5_of(package)
    other = rebuilt(package, {1000: text(1000, "other")}, {1004: HeaderEntry.binary(1004, meant)})
    refused = refusal(signer, other, replace(UNAUTHENTICATED, sigmd5=meant))
    assert refused.status == Status.UNAUTHENTICATED_RPM


def test_what_a_package_says_of_itself_is_told_as_one_line(
    signer: RPMSigner, package: bytes
) -> None:
    odd = rebuilt(package, {1001: text(1001, "1\n\x1b[2J\u202e")})
    refused = refusal(signer, odd, ExpectedPackage(version="1"))
    assert refused.message == r"the RPM's version is '1\n\x1b[2J\u202e', and not '1'"


def test_with_head_signing_what_follows_the_head_does_not_matter(
    signer: RPMSigner, package: bytes
) -> None:
    """Clients of 1.2 send all of an RPM, and their bridges the head and some bytes behind it."""
    head = package[: head_of(package).length]
    heads = replace(signer, head_only=True)
    alone = replace(UNAUTHENTICATED, sigmd5=md5_of(package))
    for sent in (head, package, package[: len(head) + 100], head + b"garbage"):
        for expected in (ExpectedPackage(sigmd5=md5_of(package)), alone):
            made = signed(heads, sent, expected)
            assert parse_signature(head[:96] + made + head[head_of(package).main_offset :])
    # An RPM that is there whole is the one of its MD5.
    refused = refusal(heads, changed_payload(package), alone)
    assert refused.status == Status.UNAUTHENTICATED_RPM
    other = replace(UNAUTHENTICATED, sigmd5=bytes(16))
    assert refusal(heads, head, other).status == Status.CORRUPT_RPM
    assert refusal(heads, head, UNAUTHENTICATED).status == Status.UNAUTHENTICATED_RPM
    assert refusal(heads, head[:-1]).status == Status.CORRUPT_RPM


def changed_payload(package: bytes) -> bytes:
    """The package with another last byte."""
    return package[:-1] + bytes([package[-1] ^ 1])


# ----------------------------------------------------------------------------- unusual packages


def test_a_package_put_together_anew_is_as_good(signer: RPMSigner, rpm: Rpm, package: bytes,
                                                tmp_path: Path) -> None:  # fmt: skip
    assert rebuilt(package, {}) == package
    (tmp_path / "out").write_bytes(signed(signer, rebuilt(package, {1000: text(1000, "other")})))
    assert len(rpm.signatures(tmp_path / "out")) == 1


def test_a_payload_without_a_digest_gets_a_signature_of_its_own(
    signer: RPMSigner, rpm: Rpm, package: bytes, tmp_path: Path
) -> None:
    old = rebuilt(package, {5092: None, 5093: None, 5097: None})
    (tmp_path / "out").write_bytes(signed(signer, old))
    assert len(rpm.signatures(tmp_path / "out")) == 2
    heads = replace(signer, head_only=True)
    refused = refusal(heads, old[: head_of(old).length])
    assert refused.status == Status.UNKNOWN_ERROR
    assert "without head-signing" in str(refused)


def test_a_package_without_room_in_its_signature_header(
    signer: RPMSigner, rpm: Rpm, package: bytes, tmp_path: Path
) -> None:
    tight = rebuilt(package, {}, {1008: None})
    assert len(tight) < len(package)
    (tmp_path / "out").write_bytes(signed(signer, tight))
    assert len(rpm.signatures(tmp_path / "out")) == 1
    heads = replace(signer, head_only=True)
    head = head_of(tight)
    header = signed(heads, tight[: head.length])
    # Put back as it is, by a client that knows nothing of the padding.
    assert len(header) % 8 == 0
    spliced = tight[:96] + header + tight[head.main_offset :]
    (tmp_path / "out").write_bytes(spliced)
    assert len(rpm.signatures(tmp_path / "out")) == 1


@pytest.mark.parametrize(
    ("main", "signature", "status", "words"),
    [
        ({}, {269: None, 273: None}, Status.CORRUPT_RPM, "no digest of its header"),
        ({}, {273: text(273, "0" * 64)}, Status.CORRUPT_RPM, "does not match its digest"),
        ({}, {269: text(269, "0" * 40)}, Status.CORRUPT_RPM, "does not match its digest"),
        ({}, {273: HeaderEntry.integer(273, 1)}, Status.CORRUPT_RPM, "type"),
        ({}, {1000: HeaderEntry.integer(1000, 1)}, Status.CORRUPT_RPM, "says that it has 1"),
        ({}, {1004: HeaderEntry.binary(1004, bytes(16))}, Status.CORRUPT_RPM, "digests"),
        ({1000: HeaderEntry.integer(1000, 1)}, {}, Status.CORRUPT_RPM, "type"),
        ({1044: None}, {}, Status.CORRUPT_RPM, "source package"),
        ({5114: HeaderEntry.integer(5114, 6)}, {}, Status.UNKNOWN_ERROR, "format 6"),
        ({5092: HeaderEntry.strings(5092, ["0" * 64])}, {}, Status.CORRUPT_RPM, "digests"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    signer: RPMSigner,
    package: bytes,
    main: dict[int, HeaderEntry | None],
    signature: dict[int, HeaderEntry | None],
    status: Status,
    words: str,
) -> None:
    refused = refusal(signer, rebuilt(package, main, signature))
    assert refused.status == status
    assert words in str(refused)


def test_nothing_at_all_is_refused_with_what_may_be_the_reason(signer: RPMSigner) -> None:
    refused = refusal(signer, b"")
    assert refused.status == Status.CORRUPT_RPM
    assert "max-rpms-payloads-size" in str(refused)
