"""Bundles: written and read, and every hostile one refused within its limits."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import lzma
import os
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from sigul_stack import bundle
from sigul_stack.bundle import archive, decompression, encryption
from sigul_stack.bundle.contents import Bundle, BundleError
from sigul_stack.cli import secret_input, stack
from sigul_stack.formats.openpgp_packets import PacketType, encode_packet, split_packet
from sigul_stack.secret import Secret

pytestmark = pytest.mark.system

DATABASE = {".sigul/cert9.db": b"certificates", ".sigul/key4.db": b"keys", ".sigul/pkcs11.txt": b""}
CONFIGURATION = b"[client]\nuser-name: builder\n[nss]\nnss-password: of-the-database\n"
PASSPHRASE = Secret("of the key")


def tar(*members: tuple[str, bytes] | tarfile.TarInfo, form: int = tarfile.PAX_FORMAT) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=form) as writing:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                writing.addfile(member, io.BytesIO(bytes(member.size)))
                continue
            name, content = member
            info = tarfile.TarInfo(name)
            info.size = len(content)
            writing.addfile(info, io.BytesIO(content))
    return output.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


GOOD = tar(*DATABASE.items())


def gpg(*arguments: str, given: bytes, passphrase: str = "of the key") -> bytes:
    with tempfile.TemporaryDirectory(prefix="s-") as home:
        return subprocess.run(
            ["gpg", "--homedir", home, "--batch", "--quiet", "--pinentry-mode", "loopback",
             "--passphrase", passphrase, "--s2k-count", "65536", *arguments],
            input=given, capture_output=True, check=True, timeout=60,
        ).stdout  # fmt: skip


# ---------------------------------------------------------------------------- written and read


def test_what_is_written_is_read() -> None:
    text = bundle.pack({**DATABASE, ".sigul/client.conf": CONFIGURATION}, PASSPHRASE)
    assert text.startswith(b"-----BEGIN PGP MESSAGE-----\n")
    for form in (text, base64.b64encode(encryption.ciphertext(text)), encryption.ciphertext(text)):
        found = bundle.unpack(form, PASSPHRASE)
        assert found.nss_directory == ".sigul"
        assert found.configuration == CONFIGURATION
        assert {name: found.members[name] for name in DATABASE} == DATABASE


def test_it_is_what_gpg_and_tar_open(tmp_path: Path) -> None:
    """The recipe of those who make and open them by hand, in both directions."""
    text = bundle.pack(DATABASE, PASSPHRASE)
    plain = gpg("--decrypt", given=text)
    # As `tar -J` does it, which wants a program that not every machine has.
    opened = lzma.decompress(plain, lzma.FORMAT_XZ)
    subprocess.run(["tar", "-x", "-C", tmp_path], input=opened, check=True, timeout=60)
    assert (tmp_path / ".sigul/key4.db").read_bytes() == b"keys"
    made = subprocess.run(
        ["tar", "-c", "-C", tmp_path, "./.sigul"], capture_output=True, check=True, timeout=60
    ).stdout
    packed = lzma.compress(made, lzma.FORMAT_XZ)
    again = gpg("--symmetric", "--cipher-algo", "AES256", "--armor", given=packed)
    assert bundle.unpack(again, PASSPHRASE).nss_directory == ".sigul"


def test_the_first_line_of_the_passphrase_counts() -> None:
    text = bundle.pack(DATABASE, Secret("one\ntwo"))
    assert bundle.unpack(text, Secret("one\r\n")).members
    with pytest.raises(BundleError, match="does not open with this passphrase"):
        bundle.unpack(text, Secret("one two"))
    with pytest.raises(BundleError, match="passphrase is empty"):
        bundle.unpack(text, Secret("\none"))


@pytest.mark.parametrize("compress", [lzma.compress, gzip.compress, bz2.compress, bytes])
def test_each_compression_is_read(compress: type[bytes]) -> None:
    half = len(GOOD) // 2
    for data in (compress(GOOD), compress(GOOD) + bytes(512)):
        assert archive.read_tar(decompression.decompressed(data)).keys() == DATABASE.keys()
    if compress is not bytes:
        streams = compress(GOOD[:half]) + compress(GOOD[half:])
        assert decompression.decompressed(streams) == GOOD


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_each_form_of_tar_is_read(form: int) -> None:
    long = ".sigul/" + "d" * 90 + "/" + "f" * 90
    found = archive.read_tar(tar((long, b"text"), special("./.sigul/", tarfile.DIRTYPE), form=form))
    assert found == {long: b"text", ".sigul": None}


def test_it_becomes_files_for_nobody_else(tmp_path: Path) -> None:
    bundle.unpack(bundle.pack(DATABASE, PASSPHRASE), PASSPHRASE).write_to(tmp_path / "out")
    modes = {
        path.relative_to(tmp_path).as_posix(): stat.S_IMODE(path.stat().st_mode)
        for path in tmp_path.rglob("*")
    }
    assert modes.pop("out") == modes.pop("out/.sigul") == 0o700
    assert set(modes.values()) == {0o600} and len(modes) == 3


def test_it_becomes_nothing_where_something_is(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/other").touch()
    with pytest.raises(BundleError, match="cannot be made"):
        Bundle.of(dict(DATABASE)).write_to(tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "other"]


# -------------------------------------------------------------------------------- hostile archives

HOSTILE: dict[str, tuple[bytes, str]] = {
    "symbolic link": (tar(special("a", tarfile.SYMTYPE, "/etc")), "neither a plain file"),
    "hard link": (tar(("b", b""), special("a", tarfile.LNKTYPE, "b")), "neither a plain file"),
    "FIFO": (tar(special("a", tarfile.FIFOTYPE)), "neither a plain file"),
    "device": (tar(special("a", tarfile.CHRTYPE)), "neither a plain file"),
    "sparse": (tar(special("a", tarfile.GNUTYPE_SPARSE)), "neither a plain file"),
    "absolute": (tar(("/etc/passwd", b"")), "is absolute"),
    "two slashes": (tar(("//etc/passwd", b"")), "is absolute"),
    "upwards": (tar((".sigul/../../x", b"")), "leads out"),
    "backslash": (tar(("a\\b", b"")), "backslash"),
    "escape": (tar(("a\x1b[2J", b"")), "cannot be printed"),
    "newline": (tar(("a\nb", b"")), "cannot be printed"),
    "no UTF-8": (tar(("a\udcff", b"")), "cannot be printed"),
    "doubled": (tar(("a", b"1"), ("./a", b"2")), "twice"),
    "doubled directory": (
        tar(special("a", tarfile.DIRTYPE), special("a/", tarfile.DIRTYPE)),
        "twice",
    ),
    "inside a file": (tar(("a", b""), ("a/b", b"")), "is inside a file"),
    "deep": (tar(("/".join("d" * 17), b"")), "more than 16 parts"),
    "long name": (tar(("n" * 256, b"")), "longer than"),
    "long name in bytes": (tar(("é" * 128, b"")), "longer than"),
    "long path": (tar(("/".join(["n" * 250] * 5), b"")), "longer than"),
    "many": (tar(*((str(number), b"") for number in range(257))), "more than 256 files"),
    "large": (tar(("a", bytes((16 << 20) + 1))), "more than 16 MiB"),
    "large in all": (tar(*((str(n), bytes(11 << 20)) for n in range(3))), "more than 32 MiB"),
    "cut short": (GOOD[:700], "not all of one|cut short"),
    "garbage behind": (GOOD[:-512] + b"x" * 512, "damaged"),
    "no archive": (b"x" * 2048, "no tar archive"),
    "nothing": (b"", "no tar archive"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused(name: str) -> None:
    data, expected = HOSTILE[name]
    with pytest.raises(BundleError, match=expected):
        archive.read_tar(data)


def chained_headers(kind: bytes) -> bytes:
    """One head after another that is about the next."""
    info = tarfile.TarInfo("a")
    info.type, info.size = kind, 512
    return (info.tobuf(tarfile.GNU_FORMAT) + b"11 path=ab\n".ljust(512, b"\0")) * 5000 + GOOD


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE])
def test_chained_heads_end_nothing(kind: bytes) -> None:
    with pytest.raises(BundleError):
        archive.read_tar(chained_headers(kind))


@pytest.mark.parametrize("size", [-512, -1, 1 << 62])
def test_a_size_that_none_has_is_refused(size: int) -> None:
    info = tarfile.TarInfo("a")
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    head[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)  # type: ignore[attr-defined]
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    with pytest.raises(BundleError):
        archive.read_tar(bytes(head) + bytes(1024))


def test_sparse_files_of_pax_are_refused() -> None:
    info = tarfile.TarInfo("a")
    info.size = 512
    info.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.realsize": "9",
    }
    with pytest.raises(BundleError):
        archive.read_tar(tar(info))


# ---------------------------------------------------------------------------- hostile compression


@pytest.mark.parametrize("compress", [lzma.compress, gzip.compress, bz2.compress, bytes])
def test_a_bomb_is_refused(compress: type[bytes]) -> None:
    data = compress(bytes((64 << 20) + 1))
    with pytest.raises(BundleError, match="more than 64 MiB"):
        decompression.decompressed(data)


@pytest.mark.parametrize(("dictionary", "good"), [(128 << 20, True), (192 << 20, False)])
def test_memory_of_xz_has_a_limit(dictionary: int, good: bool) -> None:
    # The encoder would need ten times as much memory: the size is written into its head.
    data = bytearray(lzma.compress(GOOD, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 4096}]))
    head = data[12:24]
    assert head[2:4] == b"\x21\x01"
    head[4] = {128 << 20: 30, 192 << 20: 31}[dictionary]
    data[12:24] = head[:8] + zlib_crc(head[:8])
    if good:
        assert decompression.decompressed(bytes(data)) == GOOD
    else:
        with pytest.raises(BundleError, match="Memory usage limit"):
            decompression.decompressed(bytes(data))


def zlib_crc(data: bytes) -> bytes:
    import zlib

    return zlib.crc32(data).to_bytes(4, "little")


@pytest.mark.parametrize("compress", [lzma.compress, gzip.compress, bz2.compress])
def test_a_stream_that_is_not_whole_is_refused(compress: type[bytes]) -> None:
    data = compress(GOOD)
    for damaged in (data[:-4], data + b"x", data[:40] + b"\xff" * 8 + data[48:]):
        with pytest.raises(BundleError):
            decompression.decompressed(damaged)


def test_decompression_has_a_time_limit() -> None:
    ticks: Iterator[float] = iter([0.0, 61.0])
    with pytest.raises(BundleError, match="within 60 s"):
        decompression.decompressed(lzma.compress(GOOD), clock=lambda: next(ticks))


# ------------------------------------------------------------------------------- hostile messages


def cfb(key: bytes, plain: bytes, before: bytes) -> bytes:
    """AES in CFB mode behind a block of ciphertext (cryptography calls its own deprecated)."""
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305 a block of CFB
    made = b""
    for start in range(0, len(plain), 16):
        part = plain[start : start + 16]
        before = bytes(a ^ b for a, b in zip(part, block.update(before), strict=False))
        made += before
    return made


def openpgp_cfb(key: bytes, plain: bytes) -> bytes:
    """OpenPGP's own mode of old, with its second beginning (RFC 4880, 13.9)."""
    prefix = os.urandom(16)
    begin = cfb(key, prefix + prefix[-2:], bytes(16))
    return begin + cfb(key, plain, begin[2:18])


def unprotected(plain: bytes) -> bytes:
    """A message without integrity protection: its key is SHA-256 of the passphrase."""
    import hashlib

    key = hashlib.sha256(PASSPHRASE.reveal()).digest()
    session = encode_packet(PacketType.SESSION_KEY, bytes([4, 9, 0, 8]))
    literal = encode_packet(PacketType.LITERAL, b"b\0" + bytes(4) + plain)
    body = openpgp_cfb(key, literal)
    return session + b"\xc9\xff" + len(body).to_bytes(4, "big") + body


def test_a_message_without_integrity_protection_is_refused() -> None:
    message = unprotected(GOOD)
    # gpg reads it where it is told to: it is a message.
    assert gpg("--ignore-mdc-error", "--decrypt", given=message) == GOOD
    with pytest.raises(BundleError, match="integrity"):
        bundle.unpack(message, PASSPHRASE)


def test_a_message_that_was_changed_is_refused() -> None:
    message = bytearray(encryption.ciphertext(bundle.pack(DATABASE, PASSPHRASE)))
    message[-30] ^= 1
    with pytest.raises(BundleError):
        bundle.unpack(bytes(message), PASSPHRASE)


def test_two_messages_are_not_one() -> None:
    message = encryption.ciphertext(bundle.pack(DATABASE, PASSPHRASE))
    with pytest.raises(BundleError):
        bundle.unpack(message + message, PASSPHRASE)
    with pytest.raises(BundleError, match="neither OpenPGP armour"):
        text = bundle.pack(DATABASE, PASSPHRASE)
        bundle.unpack(text + text, PASSPHRASE)


def test_a_bomb_inside_openpgps_own_compression_is_refused() -> None:
    message = gpg("--symmetric", "--compress-algo", "zlib", "-z", "9", given=bytes(80 << 20))
    assert len(message) < 1 << 20
    with pytest.raises(BundleError, match="more than 64 MiB"):
        bundle.unpack(message, PASSPHRASE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", "empty"),
        (b"A" * ((2 << 20) + 1), "characters"),
        (base64.b64encode(bytes((1 << 20) + 1)), "more than 1048576 bytes"),
        (b"no base64!", "neither OpenPGP armour nor base64"),
        (base64.b64encode(b"text"), "no OpenPGP message"),
        (b"-----BEGIN PGP MESSAGE-----\nYQ==\n-----END PGP MESSAGE-----", "not one armoured"),
        (b"-----BEGIN PGP MESSAGE-----\nodd\n\nYQ==\n-----END PGP MESSAGE-----", "behind its head"),
        (b"-----BEGIN PGP SIGNATURE-----\n\nYQ==\n-----END PGP SIGNATURE-----", "not one armoured"),
        (encode_packet(PacketType.LITERAL, b"b\0" + bytes(4) + GOOD), "integrity"),
        (encode_packet(PacketType.ENCRYPTED, b"\1" + bytes(60)), "one passphrase alone"),
    ],
)
def test_what_is_no_bundle_is_refused(text: bytes, expected: str) -> None:
    with pytest.raises(BundleError, match=expected):
        bundle.unpack(text, PASSPHRASE)


# ------------------------------------------------------------------------------------ what is in it


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((".sigul/client.conf",), "no NSS database"),
        ((".sigul/cert9.db", ".sigul/backup/cert8.db"), "more than one directory"),
        ((".sigul/cert9.db", ".gitconfig"), "git would obey"),
        ((".sigul/cert9.db", ".config/git/config"), "git would obey"),
    ],
)
def test_what_a_bundle_may_not_hold(names: Sequence[str], expected: str) -> None:
    with pytest.raises(BundleError, match=expected):
        bundle.pack(dict.fromkeys(names, b""), PASSPHRASE)


def test_both_formats_in_one_directory_are_one_database() -> None:
    held = {"nss/cert8.db": b"", "nss/key3.db": b"", "nss/cert9.db": b""}
    assert Bundle.of(dict(held)).nss_directory == "nss"
    assert Bundle.of({"cert9.db": b""}).nss_directory == "."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"[client]\nuser-name: $SIGUL_CONFIG_USR\n", "Jenkins"),
        (b"[nss]\nnss-password: ${SIGUL_CONFIG_PSW}\n", "Jenkins"),
        (b"user-name: x\n", "line 1"),
        (b"[client]\nnonsense\n", "line 2"),
        (b"[client]\na: 1\na: 2\n", "line 3"),
        (b"[client]\na: \xff\n", "UTF-8"),
        (b"[client]\n#" + b"x" * (1 << 20), "larger than"),
    ],
)
def test_a_configuration_that_is_none(text: bytes, expected: str) -> None:
    with pytest.raises(BundleError, match=expected):
        bundle.check_configuration(text)
    with pytest.raises(BundleError, match=expected):
        bundle.pack({**DATABASE, ".sigul/client.conf": text}, PASSPHRASE)


# ------------------------------------------------------------------------------------- the command


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command finds the passphrase, a NUL and a newline on standard input."""

    def read(_descriptor: int, _what: str) -> Secret:
        return Secret("of the key\nsecond line")

    monkeypatch.setattr(secret_input, "read_until_nul", read)


@pytest.mark.usefixtures("typed")
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nss = tmp_path / "nss"
    nss.mkdir()
    for name, content in DATABASE.items():
        (nss / Path(name).name).write_bytes(content)
    (tmp_path / "c.conf").write_bytes(CONFIGURATION)
    file, out = tmp_path / "b.asc", tmp_path / "out"
    told = ["--nss-dir", str(nss), "--config", str(tmp_path / "c.conf"), str(file)]
    assert stack.main(["bundle", "write", "--batch", *told]) == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stack.main(["bundle", "open", "--batch", str(file), str(out)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"nss-dir: {out}/.sigul",
        f"config: {out}/.sigul/client.conf",
    ]
    assert (out / ".sigul/client.conf").read_bytes() == CONFIGURATION
    assert stack.main(["bundle", "open", "--batch", str(file), str(out)]) == 1
    assert stack.main(["bundle", "write", "--batch", "--nss-dir", str(out), str(file)]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_packets_of_gnupgs_own_encryption_are_known() -> None:
    """AEAD as GnuPG 2.3 and later write it, in parts."""
    session = encode_packet(PacketType.SESSION_KEY, bytes([4, 9, 0, 8]))
    parts = b"\xd4\xe9" + bytes(512) + b"\x05" + bytes(5)
    encryption._check_packets(session + parts)
    kind, body, rest = split_packet(b"\xd2" + parts[1:])
    assert (kind, len(body), rest) == (PacketType.ENCRYPTED, 517, b"")
