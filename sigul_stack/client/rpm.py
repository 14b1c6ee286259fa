"""RPM packages on the client: what is sent of one, and how a new signature header goes into it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from ..errors import SigulError
from ..protocol.codec import parse_whole, run_parser
from ..protocol.rpm import CorruptRPM, Head, Region, read_head, read_header
from ..secret import Secret

_COPY_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class RPMOptions:
    """How RPMs are to be signed.

    `file_signing_key` names an ECC or RSA key for signatures of the packages' files, which
    `file_signing_key_passphrase` unlocks. With `head_signing` only headers go to the server.
    `v3_signature` asks for a signature over header and payload besides the header's.
    """

    file_signing_key: str | None = None
    file_signing_key_passphrase: Secret | None = None
    head_signing: bool = False
    v3_signature: bool = False

    def fields(self, key: str) -> dict[str, str | bool]:
        """The outer fields."""
        fields: dict[str, str | bool] = {"key": key}
        if self.file_signing_key is not None:
            fields["file-signing-key"] = self.file_signing_key
        if self.head_signing:
            fields["head-signing"] = True
        if self.v3_signature:
            fields["v3-signature"] = True
        return fields

    def secrets(self, passphrase: Secret) -> dict[str, Secret]:
        """The inner fields."""
        secrets = {"passphrase": passphrase}
        if self.file_signing_key_passphrase is not None:
            secrets["file-signing-key-passphrase"] = self.file_signing_key_passphrase
        return secrets


@dataclass(frozen=True, slots=True)
class Package:
    """A package of a batch: the file to sign, and the file to make."""

    source: Path
    target: Path


def zero_length(name: str) -> SigulError:
    """The error for an RPM without content."""
    return SigulError(f"Cannot sign zero-length RPM file {name}")


def check_not_empty(package: BinaryIO) -> None:
    """Raise `SigulError` for a file of no bytes; its position is its start afterwards."""
    if not package.seek(0, os.SEEK_END):
        raise zero_length(str(getattr(package, "name", "")))
    package.seek(0)


def read_package_head(package: BinaryIO) -> Head:
    """The head of a package. Raises `SigulError` for an empty file and one that is no RPM."""
    check_not_empty(package)

    def read_exactly(count: int) -> bytes:
        data = package.read(count)
        if len(data) != count:
            raise CorruptRPM("the RPM is truncated")
        return data

    return run_parser(read_head(), read_exactly)


def splice(package: BinaryIO, head: Head, signature: bytes, output: BinaryIO) -> None:
    """Write `package` to `output` with the new signature header `signature`.

    Raises `CorruptRPM` where that is no signature header.
    """
    parse_whole(read_header(Region.SIGNATURE), signature)
    output.write(head.before_main(signature))
    package.seek(head.main_offset)
    while piece := package.read(_COPY_BYTES):
        output.write(piece)
