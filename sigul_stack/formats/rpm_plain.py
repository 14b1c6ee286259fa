"""Packages whose headers are in all as rpm itself writes them: which those are, and their digests.

rpm refuses a package for much that no digest shows: an entry of another type than rpm knows for its
tag, an entry that is there twice or lies elsewhere, a digest that is no text of hexadecimal digits.
None of that is judged here. A *plain* package is one that cannot have any of it, since

* both headers are, byte for byte, what `encode_header` makes of their entries: sorted by tag, each
  tag once, nothing between their data but padding, all in one region;
* each entry of the main header has a tag that rpm knows, and the type that rpm writes for it;
* the signature header has digests, sizes and reserved space, in the one form that rpm gives them,
  and nothing else: no OpenPGP signatures, no signatures of files;
* there is a SHA-256 of the main header, and one of the payload.

Whatever is not plain is no fault: it may be whole, and others (`rpmkeys`) have to look at it. So
this must never call a package plain that rpm might refuse; that it misses some costs time alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from .rpm_head import Head
from .rpm_header import Header, HeaderEntry, header_parts
from .rpm_tags import EntryType, MainTag, Region, SignatureTag

#: Tags of a main header, by type, as rpm 4.18 and 4.20 both know them; a test compares this with
#: the library of the machine. Tags that only one of them knows are not here.
_TAGS: Final[Mapping[EntryType, str]] = MappingProxyType(
    {
        EntryType.CHAR: "1029",
        EntryType.INT16: "1030 1033",
        EntryType.INT32: (
            "1003 1006 1008-1009 1028 1034 1037 1045-1046 1048 1051-1053 1068-1069 1080 1095-1096"
            " 1106 1112 1114 1116 1119 1127-1129 1134 1140-1141 1143-1145 1158 1161 5011 5017-5027"
            " 5032-5033 5037 5045 5048 5051 5054 5057 5068 5070 5072 5078 5080 5082 5084-5085 5093"
        ),
        EntryType.INT64: "5008-5009",
        EntryType.STRING: (
            "1000-1002 1007 1010-1011 1014-1015 1020-1026 1044 1064 1079 1094 1122-1126 1132"
            " 1151-1152 1155 5012 5034 5062 5096 5098-5101"
        ),
        EntryType.BIN: "1012-1013 1043 1146",
        EntryType.STRING_ARRAY: (
            "100 1018-1019 1027 1035-1036 1039-1040 1047 1049-1050 1054-1055 1059-1062 1065-1067"
            " 1081-1082 1085-1092 1097-1099 1113 1115 1117-1118 1120-1121 1133 1135 1142 1147-1150"
            " 1153-1154 1156-1157 1159-1160 5000-5002 5005-5007 5010 5030-5031 5035-5036 5046-5047"
            " 5049-5050 5052-5053 5055-5056 5066-5067 5069 5071 5076-5077 5079 5081 5086-5089 5092"
            " 5097"
        ),
        EntryType.I18NSTRING: "1004-1005 1016",
    }
)

#: Programs of scripts, which rpm knows as arrays, and writes as one text where they are one word.
ONE_OR_MORE: Final = frozenset({1085, 1086, 1087, 1088, 1091, 1153, 1154})

#: What a signature header may have: type and number of values (None: any).
_SIGNATURE_ENTRIES: Final[Mapping[int, tuple[EntryType, int | None]]] = MappingProxyType(
    {
        SignatureTag.SHA1_HEADER: (EntryType.STRING, 1),
        SignatureTag.SHA256_HEADER: (EntryType.STRING, 1),
        SignatureTag.LONG_SIZE: (EntryType.INT64, 1),
        SignatureTag.LONG_ARCHIVE_SIZE: (EntryType.INT64, 1),
        SignatureTag.SIZE: (EntryType.INT32, 1),
        SignatureTag.MD5: (EntryType.BIN, 16),
        SignatureTag.PAYLOAD_SIZE: (EntryType.INT32, 1),
        SignatureTag.RESERVED_SPACE: (EntryType.BIN, None),
    }
)

#: OpenPGP's number of SHA-256. rpm takes the payload's digest for one of SHA-256, whatever the
#: header says: a package with another one is not plain, though its digest may be right.
_SHA256: Final = 8
_SHA256_DIGITS: Final = 64


def _types() -> Iterator[tuple[int, EntryType]]:
    for kind, listed in _TAGS.items():
        for part in listed.split():
            first, _, last = part.partition("-")
            for tag in range(int(first), int(last or first) + 1):
                yield tag, kind


#: The type of each tag that a plain package's main header may have.
MAIN_TYPES: Final[Mapping[int, EntryType]] = MappingProxyType(dict(_types()))


@dataclass(frozen=True, slots=True)
class PlainDigests:
    """The digests and sizes that a plain package records of its bytes behind the head.

    `payload` is the payload's SHA-256; `md5` the MD5 of main header and payload, and `sizes` what
    is said of their size in bytes, as far as those are recorded.
    """

    payload: bytes
    md5: bytes | None
    sizes: frozenset[int]


def plain_digests(head: Head) -> PlainDigests | None:
    """The record that a package has of what is not in its head; None where it is not plain.

    The digests of its main header are compared here, too. Raises nothing.
    """
    signature, main = head.signature, head.main
    if not (_is_main(main) and _is_signature(signature)):
        return None
    if not (_is_as_written(signature, Region.SIGNATURE) and _is_as_written(main, Region.MAIN)):
        return None
    if not _main_header_matches(head):
        return None
    payload = main.entries.get(MainTag.PAYLOAD_DIGEST)
    if payload is None or _number(main, MainTag.PAYLOAD_DIGEST_ALGORITHM) != _SHA256:
        return None
    digest = _digest(payload)
    # That of the payload before it is compressed: rpm compares it where the other is another.
    other = main.entries.get(MainTag.PAYLOAD_DIGEST_ALT)
    if digest is None or (other is not None and _digest(other) is None):
        return None
    md5 = signature.entries.get(SignatureTag.MD5)
    sizes = (SignatureTag.SIZE, SignatureTag.LONG_SIZE)
    return PlainDigests(
        digest,
        None if md5 is None else bytes(md5.data),
        frozenset(_number(signature, tag) for tag in sizes if tag in signature),
    )


def _is_main(main: Header) -> bool:
    return all(
        MAIN_TYPES.get(tag) == entry.type or (tag in ONE_OR_MORE and entry.type == EntryType.STRING)
        for tag, entry in main.entries.items()
    )


def _is_signature(signature: Header) -> bool:
    for entry in signature.entries.values():
        kind, count = _SIGNATURE_ENTRIES.get(entry.tag, (None, None))
        if entry.type != kind or count not in (None, entry.count):
            return False
    return SignatureTag.SHA256_HEADER in signature


def _is_as_written(header: Header, region: Region) -> bool:
    """Whether a header is what rpm writes for its entries. Nothing large is copied."""
    left = memoryview(header.raw)
    for part in header_parts(region, header.entries.values()):
        if left[: len(part)] != part:
            return False
        left = left[len(part) :]
    return not left


def _main_header_matches(head: Head) -> bool:
    raw, signature = head.main.raw, head.signature.entries
    found = {SignatureTag.SHA256_HEADER: hashlib.sha256(raw).hexdigest()}
    if SignatureTag.SHA1_HEADER in signature:
        found[SignatureTag.SHA1_HEADER] = hashlib.sha1(raw, usedforsecurity=False).hexdigest()
    return all(signature[tag].data == digest.encode() + b"\0" for tag, digest in found.items())


def _digest(entry: HeaderEntry) -> bytes | None:
    """The one SHA-256 in an entry; None where that is none as rpm writes it."""
    if entry.count != 1 or len(entry.data) != _SHA256_DIGITS + 1:
        return None
    text = bytes(entry.data[:-1])
    try:
        found = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        return None
    # `fromhex` takes upper case and blanks, too.
    return found if found.hex().encode() == text else None


def _number(header: Header, tag: int) -> int:
    """The one number in an entry; -1 where there is none, or there are several."""
    entry = header.entries.get(tag)
    return -1 if entry is None or entry.count != 1 else int.from_bytes(entry.data, "big")
