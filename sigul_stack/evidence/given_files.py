"""Files that people name: public keys, a witness's private key, proofs.

    public keys      NAME+ID+KEY (`signed_note`), one a line; empty lines and `#` say nothing
    private key      one line, mode 0600; its public half in the file with `.pub` behind the name

What is read has a limit, and nothing is judged but its form.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ..errors import SigulError
from ..formats.merkle_tree import NotProven
from ..formats.signed_note import (
    LOG_KEY,
    MAX_PROOF_BYTES,
    WITNESS_KEY,
    LogProof,
    PrivateKey,
    PublicKey,
)
from ..secret import Secret
from ..system.files import write_whole

#: Largest file of public keys, and largest of a private one, in bytes.
_MAX_KEYS: Final = 64 * 1024
_MAX_KEY: Final = 4096
#: Ending of the public key's name.
PUBLIC_ENDING: Final = ".pub"
_KINDS: Final = {LOG_KEY: "log", WITNESS_KEY: "witness"}


def read_text(path: Path, limit: int, what: str) -> str:
    """The text of a file of at most `limit` bytes, which is `what`. Raises `SigulError`."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise unreadable(path, error) from error
    if len(data) > limit:
        raise NotProven(f"'{path}' is no {what}: it has more than {limit} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise NotProven(f"'{path}' is no {what}: it is no text") from None


def unreadable(path: Path, error: OSError) -> SigulError:
    """The error of a file that cannot be read."""
    return SigulError(f"'{path}' cannot be read: {error.strerror}", "name a file that you may read")


def read_proof(path: Path) -> LogProof:
    """The proof in a file, unjudged. Raises `SigulError`."""
    return LogProof.parse(read_text(path, MAX_PROOF_BYTES, "proof"))


def read_keys(path: Path, kind: int = LOG_KEY) -> tuple[PublicKey, ...]:
    """The public keys of a kind (`LOG_KEY`, `WITNESS_KEY`) in a file, one at least.

    Raises `SigulError`.
    """
    found = []
    lines = read_text(path, _MAX_KEYS, "file of keys").splitlines()
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                key = PublicKey.parse(line)
                if key.type != kind:
                    raise NotProven(f"this is no {_KINDS[kind]}'s key")
            except NotProven as error:
                raise NotProven(
                    f"line {number} of '{path}': {error.problem}",
                    "name a file with NAME+ID+KEY in a line; a server has it in key.pub of its"
                    " signing log",
                ) from None
            found.append(key)
    if not found:
        raise NotProven(
            f"'{path}' has no key of a {_KINDS[kind]}", "name a file with NAME+ID+KEY in a line"
        )
    return tuple(found)


def read_witness_key(path: Path) -> PrivateKey:
    """The private key of a witness in a file. Raises `SigulError`."""
    try:
        key = PrivateKey.parse(Secret(read_text(path, _MAX_KEY, "private key")))
        if key.type != WITNESS_KEY:
            raise NotProven("it is the key of a log, not of a witness")
    except NotProven as error:
        raise NotProven(
            f"the witness's key '{path}' cannot be used: {error.problem}",
            "make one: sigul-stack witness key FILE --name NAME",
        ) from None
    return key


def make_witness_key(path: Path, name: str) -> PublicKey:
    """Make a witness's key: the new files `path` and `path.pub`. Raises `SigulError`."""
    key = PrivateKey.new(name, WITNESS_KEY)
    public = path.with_name(path.name + PUBLIC_ENDING)
    try:
        write_whole(public, f"{key.public.encode()}\n".encode(), replace=False, mode=0o644)
        try:
            write_whole(path, key.encode().reveal() + b"\n", replace=False)
        except OSError:
            public.unlink()
            raise
    except OSError as error:
        raise SigulError(
            f"the key '{path}' cannot be made: {error.strerror or error}", "name a new file"
        ) from error
    return key.public
