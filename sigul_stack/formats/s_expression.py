"""Canonical S-expressions, as GnuPG's agent answers with them.

    expression = "(" {expression | string} ")", string = length in decimal digits ":" bytes

as in `(7:sig-val(3:rsa(1:s256:…)))` (Libgcrypt's manual, "S-expressions").
"""

from __future__ import annotations

import re
from typing import Final

#: Deeper than any signature.
_MAX_DEPTH: Final = 8
_LENGTH: Final = re.compile(rb"([0-9]{1,5}):")


class MalformedExpression(ValueError):
    """Bytes that are no canonical S-expression, or not the one that was meant."""


def numbers_in(data: bytes) -> dict[str, int]:
    """The numbers of lists of a name and a value in `data`, unsigned, by their names.

    Raises `MalformedExpression`.
    """
    found: dict[str, int] = {}
    lists: list[list[bytes | None]] = []
    at = 0
    while at < len(data):
        if data[at : at + 1] == b"(":
            lists.append([])
            at += 1
            if len(lists) > _MAX_DEPTH:
                raise MalformedExpression("it is too deep")
        elif data[at : at + 1] == b")" and lists:
            match lists.pop():
                case [bytes(name), bytes(value)]:
                    found[name.decode("latin-1")] = int.from_bytes(value, "big")
            if lists:
                lists[-1].append(None)
            at += 1
            if not lists:
                break
        elif (length := _LENGTH.match(data, at)) is not None and lists:
            end = length.end() + int(length[1])
            if end > len(data):
                raise MalformedExpression("it is cut short")
            lists[-1].append(data[length.end() : end])
            at = end
        else:
            raise MalformedExpression("it is no S-expression")
    if lists or not data or at < len(data.rstrip(b"\0")):
        raise MalformedExpression("it is cut short, or something follows it")
    return found
