"""OSTree's detached metadata of a commit (`.commitmeta`), with the signatures in it.

The object is a GVariant of type `a{sv}`, little-endian; its key `ostree.gpgsigs` has a value of
type `aay`: binary detached OpenPGP signatures. In GVariant's serialisation ("GVariant
Specification 1.0", in GLib's documentation)

* `a{sv}`   entries, each from a multiple of 8 on, then the offset of each one's end
* `{sv}`    the key and NUL; up to a multiple of 8; the variant; then the offset of the key's end
* `v`       the value; NUL; its type as text
* `aay`     the byte strings, then the offset of each one's end

where an offset has as few bytes (1, 2, 4 or 8) as the whole container's length needs. Entries other
than the signatures are kept as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from ..errors import ProtocolError, RemoteProtocolError
from .openpgp_issuer import is_of_other_data, issuer_key_id

SIGNATURES: Final = "ostree.gpgsigs"
_SIGNATURES_TYPE: Final = b"aay"
_ALIGNMENT: Final = 8
#: Largest detached metadata that are taken, in bytes.
MAX_BYTES: Final = 1 << 24


def with_signatures(metadata: bytes, signatures: Sequence[bytes]) -> bytes:
    """`metadata` (empty for none) with `signatures` beside those it has; none stands there twice.

    A signature takes the place of what its key has signed before: ostree, too, has one of a key.
    Raises `ProtocolError` for what are no detached metadata.
    """
    entries = _parse_entries(metadata)
    makers = {issuer_key_id(signature) for signature in signatures} - {None}
    present = [
        signature
        for signature in _parse_signatures(entries.get(SIGNATURES, b"\0" + _SIGNATURES_TYPE))
        if issuer_key_id(signature) not in makers
    ]
    for signature in signatures:
        if signature not in present:
            present.append(signature)
    array = _join([(signature, 1) for signature in present])
    return _entries({**entries, SIGNATURES: array + b"\0" + _SIGNATURES_TYPE})


def signatures_in(metadata: bytes) -> list[bytes]:
    """The signatures in `metadata`. Raises `ProtocolError` where there are none."""
    entries = _parse_entries(metadata)
    if SIGNATURES not in entries:
        raise _damaged("they hold no signature")
    return _parse_signatures(entries[SIGNATURES])


def check_signatures(metadata: bytes, commit: bytes | memoryview) -> None:
    """Raise `ProtocolError` where `metadata` are none, or have a signature of another commit's.

    ostree would call that one bad, and whoever looks at the commit does not know why.
    """
    entries = _parse_entries(metadata)
    for signature in _parse_signatures(entries.get(SIGNATURES, b"\0" + _SIGNATURES_TYPE)):
        if is_of_other_data(signature, commit):
            raise RemoteProtocolError(
                "these detached metadata have a signature of another commit",
                "give the .commitmeta of the commit that is signed, or none",
            )


# --- Writing -----------------------------------------------------------------------------------


def _entries(entries: Mapping[str, bytes]) -> bytes:
    parts = []
    for key, variant in entries.items():
        text = key.encode("utf-8") + b"\0"
        body = text + bytes(-len(text) % _ALIGNMENT) + variant
        size = offset_size(len(body), 1)
        parts.append((body + len(text).to_bytes(size, "little"), _ALIGNMENT))
    return _join(parts)


def _join(parts: Sequence[tuple[bytes, int]]) -> bytes:
    """An array of parts of variable length, each with its alignment."""
    body, ends = b"", []
    for part, alignment in parts:
        body += bytes(-len(body) % alignment) + part
        ends.append(len(body))
    size = offset_size(len(body), len(ends))
    return body + b"".join(end.to_bytes(size, "little") for end in ends)


def offset_size(length: int, offsets: int = 0) -> int:
    """Bytes of an offset in a container of `length` bytes, to which `offsets` will be added."""
    return next(size for size in (1, 2, 4, 8) if length + offsets * size < 1 << 8 * size)


# --- Reading -----------------------------------------------------------------------------------


def _parse_entries(data: bytes) -> dict[str, bytes]:
    """The variants in an `a{sv}`, each with its type, by key."""
    if len(data) > MAX_BYTES:
        raise _damaged(f"they have more than {MAX_BYTES} bytes")
    entries = {}
    for entry in _split(data, _ALIGNMENT):
        end = len(entry) - offset_size(len(entry))
        key_end = int.from_bytes(entry[end:], "little")
        text, nul, rest = entry[:end][:key_end].partition(b"\0")
        variant = entry[key_end + -key_end % _ALIGNMENT : end]
        if not entry or key_end > end or not nul or rest or b"\0" not in variant:
            raise _damaged("an entry is damaged")
        try:
            key = text.decode("utf-8")
        except UnicodeDecodeError:
            raise _damaged("a key is not UTF-8") from None
        if key in entries:
            raise _damaged(f"they hold '{key}' twice")
        entries[key] = variant
    return entries


def _parse_signatures(variant: bytes) -> list[bytes]:
    value, _, kind = variant.rpartition(b"\0")
    if kind != _SIGNATURES_TYPE:
        raise _damaged(f"'{SIGNATURES}' is of another type")
    return _split(value, 1)


def _split(data: bytes, alignment: int) -> list[bytes]:
    """The parts of an array of parts of variable length."""
    if not data:
        return []
    size = offset_size(len(data))
    table = int.from_bytes(data[-size:], "little")  # where the last part ends, the offsets begin
    if table > len(data) or (len(data) - table) % size:
        raise _damaged("an array is damaged")
    parts, start = [], 0
    for at in range(table, len(data), size):
        end = int.from_bytes(data[at : at + size], "little")
        start += -start % alignment
        if not start <= end <= table:
            raise _damaged("an array is damaged")
        parts.append(data[start:end])
        start = end
    return parts


def _damaged(what: str) -> ProtocolError:
    return RemoteProtocolError(
        f"these are no detached metadata of a commit ({what})", "give the commit's .commitmeta"
    )
