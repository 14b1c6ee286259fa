"""RPM packages on the client: what is sent of one, and how a new signature header goes into it.

A package is a file here, or an RPM of Koji's that the bridge fetches: of that one the client knows
the MD5, from the hub itself, and the server signs nothing else.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from ..errors import SigulError
from ..formats.file_kinds import LOOKED_AT
from ..formats.rpm_head import CorruptRPM, Head, read_head, read_header
from ..formats.rpm_lead import GET_AGAIN, check_lead
from ..formats.rpm_tags import Region
from ..kojihub import NEVRA, HubRPM
from ..protocol.codec import run_parser
from ..secret import Secret

_COPY_BYTES: Final = 1 << 20
#: What is sent of a package with head signing ends at a multiple of this, in bytes, and with at
#: least so many behind the main header: bridges of 1.2 cut packages there, and the code over what
#: is sent has to hold for what their server gets.
HEAD_STEP: Final = 4096
_BEHIND_HEAD: Final = 16
#: Most zeros behind a signature header of a reply: it may be padded to a multiple of 8 bytes.
MAX_PADDING: Final = 7


@dataclass(frozen=True, slots=True)
class RPMOptions:
    """Options of signing RPMs.

    `file_signing_key` names an ECC or RSA key for signatures of the packages' files, which
    `file_signing_key_passphrase` unlocks. With `head_signing` only headers go to the server, and
    what lies close behind them.
    `v3_signature` asks for a signature over header and payload besides the header's.
    """

    file_signing_key: str | None = None
    file_signing_key_passphrase: Secret | None = None
    head_signing: bool = False
    v3_signature: bool = False
    #: Have the bridge store the signature in Koji; `returned` False: and send nothing back.
    store_in_koji: bool = False
    returned: bool = True
    koji_instance: str | None = None

    def fields(self, key: str) -> dict[str, str | bool]:
        """The outer fields."""
        fields: dict[str, str | bool | None] = {
            "key": key,
            "file-signing-key": self.file_signing_key,
            "head-signing": self.head_signing or None,
            "v3-signature": self.v3_signature or None,
            "import-signature": self.store_in_koji or None,
            "return-data": None if self.returned else False,
            "koji-instance": self.koji_instance,
        }
        return {name: value for name, value in fields.items() if value is not None}

    def check_remote(self) -> None:
        """Raise `SigulError` where an RPM of Koji's cannot be signed with these options."""
        if self.head_signing and self.returned:
            raise SigulError(
                "of an RPM of Koji's, head signing returns a signature header alone",
                "give --store-in-koji --koji-only, or leave --head-signing out",
            )

    def fields_of(self, head: Head | None, remote: HubRPM | None) -> dict[str, str | bytes]:
        """The fields of one package: of Koji's, and of one whose name the reply will not tell."""
        if remote is not None:
            return {**_named(remote.nevra), "rpm-sigmd5": remote.sigmd5}
        if head is not None and self.store_in_koji:
            return _named(nevra_of(head))
        return {}

    def secrets(self, passphrase: Secret) -> dict[str, Secret]:
        """The inner fields."""
        secrets = {"passphrase": passphrase}
        if self.file_signing_key_passphrase is not None:
            secrets["file-signing-key-passphrase"] = self.file_signing_key_passphrase
        return secrets


def _named(nevra: NEVRA) -> dict[str, str | bytes]:
    return {
        "rpm-name": nevra.name,
        "rpm-epoch": nevra.epoch or "",
        "rpm-version": nevra.version,
        "rpm-release": nevra.release,
        "rpm-arch": nevra.arch,
    }


def nevra_of(head: Head) -> NEVRA:
    """The name of the package that `head` is of (tags of rpm's main header)."""
    name, version, release, arch = (head.main.string(tag) for tag in (1000, 1001, 1002, 1022))
    if name is None or version is None or release is None or arch is None:
        raise CorruptRPM("the RPM does not say what its name, version, release and arch are")
    epoch = head.main.integer(1003)
    return NEVRA(name, str(epoch or ""), version, release, "src" if head.source else arch)


@dataclass(frozen=True, slots=True)
class Package:
    """A package of a batch: the file to sign, and the file to make (None: none comes back).

    `remote` is what Koji knows of one that the bridge fetches; `source` is then its name.
    """

    source: Path
    target: Path | None
    remote: HubRPM | None = None


class ZeroLengthRPM(SigulError):
    """An RPM has no content."""

    is_answer = True

    def __init__(self, name: str) -> None:
        # Scripts compare this.
        super().__init__(f"Cannot sign zero-length RPM file {name}")


def check_not_empty(package: BinaryIO) -> None:
    """Raise `SigulError` for a file of no bytes; its position is its start afterwards."""
    if not package.seek(0, os.SEEK_END):
        raise ZeroLengthRPM(str(getattr(package, "name", "")))
    package.seek(0)


def read_package_head(package: BinaryIO) -> Head:
    """The head of a package. Raises `SigulError` for an empty file and one that is no RPM."""
    check_not_empty(package)
    check_lead(package.read(LOOKED_AT))  # of a short file, which a reader takes for a cut RPM
    package.seek(0)
    return run_parser(read_head(), _exact_reader(package))


def sent_of(head: Head, size: int) -> int:
    """The bytes that are sent with head signing of a package of `size` bytes with that head."""
    return min(size, -(-(head.length + _BEHIND_HEAD) // HEAD_STEP) * HEAD_STEP)


def is_source(package: BinaryIO) -> bool:
    """True for a source package; whatever else it is, its position is its start afterwards."""
    try:
        return read_package_head(package).source
    except SigulError:
        return False
    finally:
        package.seek(0)


def _exact_reader(file: BinaryIO) -> Callable[[int], bytes]:
    def read_exactly(count: int) -> bytes:
        data = file.read(count)
        if len(data) != count:
            raise CorruptRPM("the RPM is truncated", GET_AGAIN)
        return data

    return read_exactly


def splice(package: BinaryIO, head: Head, signature: bytes, output: BinaryIO) -> None:
    """Write `package` to `output` with the new signature header `signature`.

    It may be padded as it is in a file. Raises `CorruptRPM` where it is no signature header.
    """
    reply = io.BytesIO(signature)
    header = run_parser(read_header(Region.SIGNATURE), _exact_reader(reply))
    padding = reply.read()
    if len(padding) > MAX_PADDING or any(padding):
        raise CorruptRPM("the server sent more than a signature header")
    output.write(head.before_main(bytes(header.raw)))
    package.seek(head.main_offset)
    while piece := _rest(package):
        output.write(piece)


def _rest(package: BinaryIO) -> bytes:
    """Some more of a package. Raises `SigulError`: an `OSError` would be taken for the output's."""
    try:
        return package.read(_COPY_BYTES)
    except OSError as error:
        raise SigulError(
            f"the RPM cannot be read to its end: {error.strerror}", "name a file that can be"
        ) from error
