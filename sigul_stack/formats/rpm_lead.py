"""The lead of an RPM package: the first 96 bytes, and what is none (rpm's documentation).

    u8[4] ED AB EE DB, u8 major, u8 minor, u16 type (0 binary, 1 source), u16 architecture,
    u8[66] name, u16 operating system, u16 type of signature, u8[16] reserved

All but the magic number, the major version and the type of signature is legacy, and the lead is
under no digest: what a package is, its main header says.
"""

from __future__ import annotations

from typing import Final

from ..errors import ProtocolError
from .file_kinds import kind_of

LEAD_BYTES: Final = 96

_MAGIC: Final = b"\xed\xab\xee\xdb"
#: Major versions of packages whose headers are of format 4. Some builders write 4.
_MAJORS: Final = (3, 4)
_SOURCE: Final = 1
#: `signature type` in the lead: the signature is a header of its own.
_HEADER_SIGNATURE: Final = 5
#: The cure for what did not arrive whole.
GET_AGAIN: Final = "get or build it again"
_REBUILD: Final = "rebuild it with a newer rpm"


class CorruptRPM(ProtocolError):
    """Bytes that are no RPM package of version 4, or not all of one."""


class UnsupportedRPM(CorruptRPM):
    """An RPM package that may be whole, and is of another format."""


def check_lead(data: bytes) -> None:
    """Raise `CorruptRPM` unless `data` begin with the lead of a package of version 4.

    Fewer bytes than a lead has are all of a file: of a package that was cut, or of another one.
    """
    if not data or not data.startswith(_MAGIC[: len(data)]):
        kind = kind_of(data)
        cure = "name the RPM itself; where this was downloaded, download it again"
        raise CorruptRPM(
            "the file is not an RPM" + (f": it is {kind}" if kind else ""), cure if kind else ""
        )
    if len(data) < LEAD_BYTES:
        raise CorruptRPM("the RPM is truncated", GET_AGAIN)
    if (major := data[4]) not in _MAJORS:
        raise unsupported(major)
    if int.from_bytes(data[78:80], "big") != _HEADER_SIGNATURE:
        raise UnsupportedRPM(
            "the RPM's lead says that its signature is no header, as before RPM 3, or is damaged",
            _REBUILD,
        )


def unsupported(version: int) -> UnsupportedRPM:
    """The error for a package of format `version`."""
    if version > max(_MAJORS):
        return UnsupportedRPM(
            f"RPMs of format {version} are not signed yet", "build it as format 4 (_rpmformat 4)"
        )
    return UnsupportedRPM(
        f"RPMs of format {version} are not signed: it is older than RPM 3, or its lead is damaged",
        _REBUILD,
    )


def says_source(lead: bytes) -> bool:
    """True where the lead says that this is a source package."""
    return int.from_bytes(lead[6:8], "big") == _SOURCE
