"""The signer itself: what stands for a package's authentication, and packages that are unusual.

Packages are taken apart and put together anew here, so that all digests fit and only one thing is
out of the ordinary.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from sigul_stack.client.rpm_packages import read_package_head
from sigul_stack.errors import RequestRefused, Status
from sigul_stack.formats.openpgp_text import armored
from sigul_stack.formats.rpm_head import (
    CorruptRPM,
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
from sigul_stack.signing.ima import FileSigner
from sigul_stack.signing.rpm import ExpectedPackage, RPMSigner
from sigul_stack.signing.signers.pem import PemSigner

from .gnupg_support import gnupg_home, openpgp_key
from .rpm_support import Rpm, build, run

PASSPHRASE = Secret("pw")
UNAUTHENTICATED = ExpectedPackage(authenticated=False)


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RPMSigner]:
    """A signer with an Ed25519 key."""
    with gnupg_home(tmp_path_factory.mktemp("gnupg") / "home") as home:
        fingerprint = home.generate(PASSPHRASE, UserId("rpm"), None)
        yield RPMSigner(openpgp_key(home, fingerprint, PASSPHRASE))


@pytest.fixture(scope="module")
def rpm(signer: RPMSigner, tmp_path_factory: pytest.TempPathFactory) -> Rpm:
    """An rpm database with the signer's key."""
    certificate = signer.key.open_signer().certificate
    return Rpm(tmp_path_factory.mktemp("rpmdb"), armored("PUBLIC KEY BLOCK", certificate))


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


@pytest.mark.parametrize(
    "case",
    ["MD5 alone", "upper case", "no SHA-256", "no SHA-1", "no MD5", "no size", "a long size"],
)
def test_whatever_digests_builders_record_rpm_takes_the_signed_package(
    signer: RPMSigner, rpm: Rpm, package: bytes, tmp_path: Path, case: str
) -> None:
    head = head_of(package)
    size = HeaderEntry(
        270, EntryType.INT64, 1, (len(package) - head.main_offset).to_bytes(8, "big")
    )
    entries: dict[str, dict[int, HeaderEntry | None]] = {
        "MD5 alone": {269: None, 273: None},
        "upper case": {273: text(273, hashlib.sha256(head.main.raw).hexdigest().upper())},
        "no SHA-256": {273: None},
        "no SHA-1": {269: None},
        "no MD5": {1004: None},
        "no size": {1000: None},
        "a long size": {1000: None, 270: size},
    }
    given = rebuilt(package, {}, entries[case])
    file = tmp_path / "signed.rpm"
    file.write_bytes(signed(signer, given))
    assert rpm.signatures(file)
    rpm.installs(file)
    if case == "MD5 alone":  # which speaks for no head
        alone = refusal(replace(signer, head_only=True), given)
        assert "no digest of its header" in str(alone)


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
        ({}, {269: None, 273: None, 1004: None}, Status.CORRUPT_RPM, "no digest of its header"),
        ({1000: None}, {}, Status.CORRUPT_RPM, "the RPM has no name, so that no rpm installs it"),
        ({1001: None}, {}, Status.CORRUPT_RPM, "the RPM has no version, so that no rpm installs"),
        ({1002: None}, {}, Status.CORRUPT_RPM, "the RPM has no release, so that no rpm installs"),
        ({1022: None}, {}, Status.CORRUPT_RPM, "the RPM has no arch, so that no rpm installs it"),
        # rpm knows what type that entry has; it is not the digests' fault.
        ({5009: text(5009, "x")}, {}, Status.CORRUPT_RPM, "rpm does not read it: "),
        ({}, {273: text(273, "0" * 64)}, Status.CORRUPT_RPM, "does not match its digest"),
        ({}, {269: text(269, "0" * 40)}, Status.CORRUPT_RPM, "does not match its digest"),
        ({}, {273: HeaderEntry.integer(273, 1)}, Status.CORRUPT_RPM, "type"),
        ({}, {1000: HeaderEntry.integer(1000, 1)}, Status.CORRUPT_RPM, "says that it has 1"),
        ({}, {1004: HeaderEntry.binary(1004, bytes(16))}, Status.CORRUPT_RPM, "digests"),
        ({1000: HeaderEntry.integer(1000, 1)}, {}, Status.CORRUPT_RPM, "type"),
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


#: Where only an entry or the lead tells binary from source; rpm signs and checks them all.
ODD_KINDS: Mapping[str, tuple[bool, dict[int, HeaderEntry | None], bytes]] = {
    "binary without the name of its source": (False, {1044: None}, b"\0\0"),
    "binary with the lead of a source": (False, {}, b"\0\1"),
    "source with the name of a source": (True, {1044: text(1044, "x-1-1.src.rpm")}, b"\0\1"),
    "source with the lead of a binary": (True, {}, b"\0\0"),
    "source by its lead alone": (True, {1106: None}, b"\0\1"),
    "of no type": (False, {}, b"\0\7"),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A source package."""
    return build(tmp_path_factory.mktemp("source"), "sourced", source=True).read_bytes()


@pytest.mark.parametrize("what", ODD_KINDS)
def test_binary_or_source_is_what_rpm_takes_it_for(
    signer: RPMSigner, rpm: Rpm, package: bytes, source: bytes, tmp_path: Path, what: str
) -> None:
    is_source, changes, lead = ODD_KINDS[what]
    built = rebuilt(source if is_source else package, changes)
    odd = built[:6] + lead + built[8:]
    arch = "src" if is_source else "noarch"
    out = tmp_path / "out"
    out.write_bytes(signed(signer, odd, ExpectedPackage(arch=arch)))
    assert len(rpm.signatures(out)) == 1
    assert rpm.query(out, "%|SOURCEPACKAGE?{source}:{binary}|") == (
        "source" if is_source else "binary"
    )
    refused = refusal(signer, odd, ExpectedPackage(arch="noarch" if is_source else "src"))
    assert refused.message is not None
    assert refused.message.startswith(f"the RPM's arch is '{arch}'")


def test_files_of_a_source_package_are_not_signed(
    signer: RPMSigner, rpm: Rpm, package: bytes, source: bytes, tmp_path: Path
) -> None:
    """As rpm has it; by any sign of a source package that rpm goes by."""
    both = replace(signer, files=FileSigner(PemSigner(ec.generate_private_key(ec.SECP256R1()))))
    for built, count in ((package, 3), (source, 0), (rebuilt(source, {1106: None}), 0)):
        out = tmp_path / "out"
        out.write_bytes(signed(both, built))
        assert len(rpm.signatures(out)) == 1
        assert len(rpm.query(out, "[%{FILESIGNATURES}\n]").replace("(none)", "").split()) == count


# By the two bytes of major version and signature's type.
@pytest.mark.parametrize(
    ("major", "kind", "words"),
    [
        (6, 5, "RPMs of format 6 are not signed yet; build it as format 4"),
        (5, 5, "RPMs of format 5 are not signed yet"),
        (2, 5, "RPMs of format 2 are not signed: it is older than RPM 3, or its lead is damaged"),
        (0, 0, "RPMs of format 0 are not signed: it is older than RPM 3, or its lead is damaged"),
        (3, 1, "its signature is no header, as before RPM 3, or is damaged; rebuild it"),
    ],
)
def test_another_format_is_named(
    signer: RPMSigner, package: bytes, major: int, kind: int, words: str
) -> None:
    odd = package[:4] + bytes([major]) + package[5:79] + bytes([kind]) + package[80:]
    for at in (signer, replace(signer, head_only=True)):
        refused = refusal(at, odd)
        assert refused.status == Status.UNKNOWN_ERROR
        assert words in str(refused)


def test_format_6_is_named_before_anything_that_it_lacks(signer: RPMSigner, package: bytes) -> None:
    """By whatever lead, and without the digests that format 4 has."""
    new = rebuilt(package, {5114: HeaderEntry.integer(5114, 6)}, {269: None, 273: None, 1004: None})
    for major in (3, 4, 6):
        refused = refusal(signer, new[:4] + bytes([major]) + new[5:], ExpectedPackage(name="x"))
        assert refused.message == (
            "RPMs of format 6 are not signed yet; build it as format 4 (_rpmformat 4)"
        )


def broken_signature_headers(package: bytes) -> dict[str, bytes]:
    """Packages whose signature header is not in order, by what is said of it."""
    head = head_of(package)
    entries = list(head.signature.entries.values())
    rest = package[head.main_offset :]
    blob = HeaderEntry.binary(267, b"x")
    regular = encode_header(Region.SIGNATURE, entries)
    plain = encode_header(Region.SIGNATURE, entries)
    # Its index without the region's entry, and its data without the region's.
    count, length = int.from_bytes(plain[8:12], "big"), int.from_bytes(plain[12:16], "big")
    no_region = (
        plain[:8] + (count - 1).to_bytes(4, "big") + (length - 16).to_bytes(4, "big")
        + plain[32:-16]
    )  # fmt: skip
    return {
        what: head.before_main(signature) + rest
        for what, signature in {
            "it has entry 267 twice": encode_header(Region.SIGNATURE, [*entries, blob, blob]),
            "it has no region": no_region,
            "it has 0 entries": regular[:8] + bytes(4) + regular[12:],
            "entry 269 lies where it must not": regular[:40] + b"\xff" * 4 + regular[44:],
        }.items()
    }


def test_a_broken_signature_header_is_named_with_its_cure(
    signer: RPMSigner, rpm: Rpm, package: bytes, tmp_path: Path
) -> None:
    for what, broken in broken_signature_headers(package).items():
        for at in (signer, replace(signer, head_only=True)):
            refused = refusal(at, broken)
            assert refused.status == Status.CORRUPT_RPM
            assert refused.message is not None
            assert refused.message.startswith(f"the RPM's signature header is broken: {what}")
            assert "; rpmsign --delsign makes a new one" in refused.message
    # The cure is one, where rpm reads the package.
    out = tmp_path / "out"
    out.write_bytes(broken_signature_headers(package)["it has no region"])
    run("rpmsign", "--delsign", out)
    out.write_bytes(signed(signer, out.read_bytes()))
    assert len(rpm.signatures(out)) == 1


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"text\n", "the file is not an RPM"),
        (b"\xed", "the RPM is truncated; get or build it again"),
        (b"\xed\xab\xee\xdb\x03", "the RPM is truncated; get or build it again"),
        (b"<!DOCTYPE html>\n<html>", "the file is not an RPM: it is an HTML page; "),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer"),
        (b"!<arch>\ndebian-binary   ", "it is a Debian package"),
        (b"drpmDLT3" + bytes(200), "it is a delta RPM without an RPM's headers"),
        (b"\x1f\x8b\x08" + bytes(200), "it is compressed with gzip"),
        (bytes(257) + b"ustar" + bytes(250), "it is a tar archive"),
        (bytes(300), "the file is not an RPM"),
    ],
)
def test_another_file_is_no_rpm(signer: RPMSigner, data: bytes, words: str) -> None:
    for at in (signer, replace(signer, head_only=True)):
        refused = refusal(at, data)
        assert refused.status == Status.CORRUPT_RPM
        assert words in str(refused)
    # With head signing the client sees it.
    with pytest.raises(CorruptRPM, match=re.escape(words)):
        read_package_head(io.BytesIO(data))


def test_a_delta_rpm_is_named(signer: RPMSigner, package: bytes) -> None:
    """makedeltarpm's have the RPM's header with another payload, and no digest of it."""
    delta = rebuilt(package, {1124: text(1124, "drpm")}, {269: None, 273: None})
    refused = refusal(signer, delta)
    assert refused.status == Status.UNKNOWN_ERROR
    assert "a delta RPM" in str(refused)
    assert "; sign the RPM itself" in str(refused)


def test_nothing_at_all_is_refused_with_what_may_be_the_reason(signer: RPMSigner) -> None:
    refused = refusal(signer, b"")
    assert refused.status == Status.CORRUPT_RPM
    assert "max-rpms-payloads-size" in str(refused)
