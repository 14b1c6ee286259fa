"""Names for files that are not what was asked for, by their first bytes.

For messages alone: people name the wrong file, or a download left an error page in its place, and
"it is an HTML page" sends them to the cure. Nothing is decided by it, so a few kinds that are met
in the field do, and no library that parses what strangers send.
"""

from __future__ import annotations

from typing import Final

#: Bytes of a file that are looked at.
LOOKED_AT: Final = 512

#: The first bytes of a kind of file, and what it is in a sentence that begins with "it is".
_KINDS: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\x7fELF", "an ELF program"),
    (b"MZ", "a PE image"),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"BZh", "compressed with bzip2"),
    (b"\xfd7zXZ\0", "compressed with xz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"!<arch>\ndebian", "a Debian package"),
    (b"!<arch>\n", "an ar archive"),
    (b"drpm", "a delta RPM without an RPM's headers"),
    (b"070701", "a cpio archive"),
    (b"070702", "a cpio archive"),
    (b"\xed\xab\xee\xdb", "an RPM"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"%PDF-", "a PDF document"),
    (b"version https://git-lfs.github.com/", "a Git LFS pointer instead of the file"),
    (b"-----BEGIN PGP PRIVATE KEY BLOCK-----", "an armoured OpenPGP secret key"),
    (b"-----BEGIN PGP PUBLIC KEY BLOCK-----", "an armoured OpenPGP public key"),
    (b"-----BEGIN PGP SIGNED MESSAGE-----", "a clear-signed text"),
    (b"-----BEGIN PGP SIGNATURE-----", "an OpenPGP signature"),
    (b"-----BEGIN PGP MESSAGE-----", "an OpenPGP message"),
    (b"-----BEGIN PGP ", "an OpenPGP armour of another kind"),
    (b"-----BEGIN OPENSSH PRIVATE KEY-----", "an OpenSSH private key"),
    (b"---- BEGIN SSH2 ", "an SSH key"),
    (b"PuTTY-User-Key-File-", "an SSH private key of PuTTY's"),
    (b"ssh-", "an SSH public key"),
    (b"ecdsa-sha2-", "an SSH public key"),
    (b"sk-", "an SSH public key"),
    (b"-----BEGIN CERTIFICATE", "an X.509 certificate in PEM"),
    (b"-----BEGIN PUBLIC KEY-----", "a public key in PEM"),
    (b"-----BEGIN RSA PUBLIC KEY-----", "a public key in PEM"),
    (b"-----BEGIN RSA PRIVATE KEY-----", "a private RSA key in PEM"),
    (b"-----BEGIN EC PRIVATE KEY-----", "a private ECC key in PEM"),
    (b"-----BEGIN EC PARAMETERS-----", "a private ECC key in PEM"),
    (b"-----BEGIN PRIVATE KEY-----", "a private key in PEM"),
    (b"-----BEGIN ENCRYPTED PRIVATE KEY-----", "a private key in PEM"),
    (b"-----BEGIN ", "a file in PEM"),
    (b"\x30\x82", "in DER, as keys of PKCS#8 and PKCS#12 and certificates are"),
    (b"untrusted comment: ", "a key of signify or minisign"),
    (b"AGE-SECRET-KEY-", "a key of age"),
    (b"age-encryption.org/", "a file encrypted with age"),
)
_TAR: Final = (257, b"ustar")
_KEYBOX: Final = (8, b"KBXf")
_MARKUP: Final = ((b"<!doctype html", b"<html"), (b"<?xml",))


def kind_of(data: bytes) -> str | None:
    """The kind of the file that begins with `data`, to follow "it is"; None for an unknown one."""
    for start, name in _KINDS:
        if data.startswith(start):
            return name
    for (at, magic), name in ((_TAR, "a tar archive"), (_KEYBOX, "a keybox of GnuPG's")):
        if data[at : at + len(magic)] == magic:
            return name
    text = data[:LOOKED_AT].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for starts, name in zip(_MARKUP, ("an HTML page", "an XML document"), strict=True):
        if text.startswith(starts):
            return name
    return None
