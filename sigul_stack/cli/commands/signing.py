"""Commands that sign, verify or decrypt a file, and the one that signs a git tag."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from ...errors import SigulError
from ...logevents import tell
from ..log_events import ProgramLog
from ..outcome import print_lines
from ..shared_arguments import argument
from . import log_proofs
from .arguments import (
    KEY,
    OUTPUT,
    PASSPHRASE,
    PASSPHRASE_OR_PASSWORD,
    PASSWORD,
    named_place,
)
from .command import CommandGroup
from .planning import Arguments, Call, Plan, Planning, Run, open_input

log = logging.getLogger(__name__)

COMMANDS = CommandGroup()

#: A CR that ends no line; one at the end of the text does. And how much is looked at, at a time.
_RETURN: Final = re.compile(rb"\r[^\n]")
_PIECE: Final = 1 << 20

#: Makes the request of a command that reads one file, and writes one.
_FileRequest = Callable[[Call, BinaryIO, BinaryIO], None]


def with_files(*, binary: bool, operand: str = "file") -> Callable[[_FileRequest], Plan]:
    """Make a plan of a request: open the file that `operand` names, and the output.

    `binary` says whether the output is for no terminal.
    """

    def planned(request: _FileRequest) -> Plan:
        def plan(planning: Planning) -> Run:
            source = planning.open_input(getattr(planning.arguments, operand))
            output = planning.open_output(binary=binary, source=source.path)
            return lambda call: request(call, source.seekable(), output)

        return plan

    return planned


def _has_return_in_line(text: BinaryIO) -> bool:
    """True where a CR in `text` ends no line; `text` is at its start afterwards."""
    before, found = b"", False
    # What cannot be read is told of when it is sent.
    with contextlib.suppress(OSError):
        while not found and (piece := text.read(_PIECE)):
            found = _RETURN.search(before + piece) is not None
            before = piece[-1:]
        text.seek(0)
    return found


@COMMANDS.planned(
    "sign-text",
    "Clear-sign a text",
    KEY,
    argument("file", help="file with the text"),
    OUTPUT,
    log_proofs.WRITE,
    secrets=[PASSPHRASE],
    dials_at_once=True,
)
@with_files(binary=False)
def sign_text(call: Call, text: BinaryIO, output: BinaryIO) -> None:
    """Write the clear-signed text."""
    if _has_return_in_line(text):
        tell(log, ProgramLog.TEXT_HAS_CARRIAGE_RETURN)
    call.client.sign_text(call.arguments.key, call.secrets["passphrase"], text, output)


def _data_misuse(arguments: Arguments) -> str | None:
    if arguments.output_dir is not None:
        if arguments.log_proof is not None:
            return "give --log-proofs DIR, and not --log-proof, with --output-dir"
        return "give -o/--output or --output-dir" if arguments.output is not None else None
    if arguments.log_proofs is not None:
        return "--log-proofs needs --output-dir; of one signature, --log-proof FILE has the proof"
    if len(arguments.file) > 1:
        return "--output-dir DIR is needed, for the signatures of many files"
    return None


@COMMANDS.planned(
    "sign-data",
    "Make a detached signature",
    KEY,
    argument("file", nargs="+", help="file to sign; many with --output-dir"),
    OUTPUT,
    argument("-a", "--armor", action="store_true", help="make an ASCII-armoured signature"),
    argument(
        "--output-dir",
        metavar="DIR",
        type=named_place,
        help="write each file's signature to DIR, which is made if need be, as FILE.sig, or"
        " FILE.asc with --armor",
    ),
    log_proofs.WRITE,
    log_proofs.WRITE_MANY,
    secrets=[PASSPHRASE],
    dials_at_once=True,
    misuse=_data_misuse,
)
def sign_data(planning: Planning) -> Run:
    """Open the file and the output, or check all files for `--output-dir`."""
    armor = planning.arguments.armor
    if planning.arguments.output_dir is not None:
        from . import many_files

        return many_files.plan(planning.arguments, armor=armor)
    data = planning.open_input(planning.arguments.file[0])
    output = planning.open_output(binary=not armor, source=data.path)

    def run(call: Call) -> None:
        call.client.sign_data(
            call.arguments.key, call.secrets["passphrase"], data.seekable(), output, armor=armor
        )

    return run


@COMMANDS.planned(
    "verify",
    "Verify a signature with a key's public part",
    KEY,
    argument("file", help="the file that is signed, or a clear-signed text"),
    argument("signature", nargs="?", help="its detached signature; none for clear-signed text"),
    PASSWORD,
    *log_proofs.CHECK,
    secrets=PASSPHRASE_OR_PASSWORD,
    misuse=log_proofs.misuse,
)
def verify(planning: Planning) -> Run:
    """Check that the files can be read, for gpg opens them by name; read the log's proof."""
    check = log_proofs.plan_check(planning.arguments)
    file = Path(planning.arguments.file)
    named = planning.arguments.signature
    signature = None if named is None else Path(named)
    for path in filter(None, (file, signature)):
        with open_input(path) as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                raise SigulError(f"'{path}' is no plain file, and gpg is to open it", "name one")

    def run(call: Call) -> None:
        import datetime

        from ...client.verify import verify as verify_with

        good = verify_with(
            call.client.get_public_key(call.arguments.key, **call.secrets), file, signature
        )
        made = datetime.datetime.fromtimestamp(good.made_at, datetime.UTC)
        who = f"key '{call.arguments.key}' ({good.fingerprint})"
        logged = [] if check is None else [check(file, signature, good.fingerprint)]
        print_lines([f"Good signature by {who}, made {made:%F %T} UTC", *logged])

    return run


@COMMANDS.planned(
    "decrypt",
    "Decrypt a message",
    KEY,
    argument("file", help="file with the message"),
    OUTPUT,
    secrets=[PASSPHRASE],
    dials_at_once=True,
)
@with_files(binary=False)
def decrypt(call: Call, message: BinaryIO, output: BinaryIO) -> None:
    """Write the clear text."""
    call.client.decrypt(call.arguments.key, call.secrets["passphrase"], message, output)


@COMMANDS.planned(
    "sign-git-tag",
    "Sign an annotated tag of the git repository here, in its place",
    KEY,
    argument("tag", help="the tag's name"),
    log_proofs.WRITE,
    secrets=[PASSPHRASE],
    dials_at_once=True,
)
def sign_git_tag(planning: Planning) -> Run:
    """Read the tag of the repository that this is run in."""
    from ...client.git_tag import read_tag

    name = planning.arguments.tag
    tag = read_tag(Path.cwd(), name)

    def run(call: Call) -> None:
        signature = call.client.sign_git_tag(
            call.arguments.key, call.secrets["passphrase"], tag.content
        )
        if call.proof is not None:
            call.proof.check()
        new = tag.replace(signature)
        event = ProgramLog.TAG_SIGNED_ANEW if tag.was_signed else ProgramLog.TAG_SIGNED
        tell(log, event, tag=name, old=tag.object_id, new=new)

    return run


@COMMANDS.planned(
    "sign-container",
    "Sign a container image",
    KEY,
    argument("manifest", help="file with the image's manifest"),
    argument("reference", help="the name under which the image is published"),
    OUTPUT,
    log_proofs.WRITE,
    secrets=[PASSPHRASE],
    dials_at_once=True,
)
def sign_container(planning: Planning) -> Run:
    """Look at the reference, and open the manifest and the output."""
    from ...formats.container_manifest import MAX_MANIFEST, check_reference, read_claim

    check_reference(planning.arguments.reference)
    manifest = planning.open_input(planning.arguments.manifest)
    output = planning.open_output(binary=True, source=manifest.path)

    def run(call: Call) -> None:
        file, reference = manifest.seekable(), call.arguments.reference
        # The server looks at it as well; it has no way to tell this person of more than a refusal.
        content = file.read(MAX_MANIFEST + 1)
        for warning in read_claim(content, reference).warnings:
            tell(log, ProgramLog.MANIFEST_WARNING, path=str(manifest.path), why=str(warning))
        call.client.sign_container(
            call.arguments.key,
            call.secrets["passphrase"],
            content,
            reference,
            output,
            file_name=manifest.path.name,
        )

    return run


@COMMANDS.planned(
    "sign-ostree",
    "Sign an OSTree commit",
    KEY,
    argument("hash", help="the commit's name: the SHA-256 of its object"),
    argument("file", help="file with the commit object"),
    OUTPUT,
    argument(
        "--commitmeta",
        metavar="FILE",
        type=Path,
        help="the .commitmeta that the commit has: what it holds is kept, signatures too",
    ),
    log_proofs.WRITE,
    secrets=[PASSPHRASE],
    dials_at_once=True,
)
def sign_ostree(planning: Planning) -> Run:
    """Open the commit and the output, and read the detached metadata that the commit has."""
    commit = planning.open_input(planning.arguments.file)
    output = planning.open_output(binary=True, source=commit.path)
    metadata = _commitmeta(planning.arguments.commitmeta)

    def run(call: Call) -> None:
        output.write(
            call.client.sign_ostree(
                call.arguments.key,
                call.secrets["passphrase"],
                call.arguments.hash,
                commit.seekable(),
                metadata=metadata,
            )
        )

    return run


def _commitmeta(path: Path | None) -> bytes:
    """The detached metadata in the file `path`; nothing without one. Raises `SigulError`."""
    if path is None:
        return b""
    from ...formats import commitmeta

    with open_input(path) as file:
        # A byte more than may be there, so that a longer file is refused and not cut off.
        metadata = file.read(commitmeta.MAX_BYTES + 1)
    try:
        commitmeta.with_signatures(metadata, [])
    except SigulError as error:
        raise SigulError(f"'{path}': {error}") from None
    return metadata
