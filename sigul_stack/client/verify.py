"""Verifying a signature with a public key and nothing else: gpg in a home of its own.

The home is made for one verification and holds the one key that the server gave, so that a
signature by any other is not good, whoever trusts it elsewhere; the person's own key rings and
configuration play no part.

The verdict comes from gpg's status lines (doc/DETAILS of GnuPG): its exit code also tells about
signatures of others beside ours.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import SigulError
from ..system.programs import run
from ..system.wall import Wall
from ..tools import GPG_VERIFY

#: Time for gpg, in seconds, besides what the file's size adds.
_SECONDS: Final = 60.0
#: Bytes of a file that gpg digests in a second on the slowest machine that is supported.
_BYTES_PER_SECOND: Final = 20 << 20

_BEGIN = b"-----BEGIN PGP SIGNED MESSAGE-----"
_END = b"-----END PGP SIGNATURE-----"

#: The status lines of a signature that does not count, and how to say so.
_FAULTS: Final = {
    "BADSIG": "the signature is not of this file: one of the two was changed",
    "EXPSIG": "the signature has expired",
    "EXPKEYSIG": "the key has expired",
    "REVKEYSIG": "the key has been revoked",
}


class BadSignature(SigulError):
    """A signature that is not good; the message says why."""


@dataclass(frozen=True, slots=True)
class GoodSignature:
    """The signer and the time: the primary key's fingerprint, and seconds since 1970."""

    fingerprint: str
    made_at: int


class Verifier:
    """A home of gpg's with one key; made by `verifier`. From any thread."""

    def __init__(self, home: str, seconds: float) -> None:
        self._home = home
        self._seconds = seconds

    def verify(self, file: Path, signature: Path | None) -> GoodSignature:
        """Check `signature` of `file`, or where it is None the clear-signed text `file`.

        Raises `BadSignature`; `SigulError` where the files cannot be read; `ToolMissing`.
        """
        if signature is None:
            _check_clear_signed(file)
        words = [file] if signature is None else [signature, file]
        status = _gpg(
            self._home, "--verify", "--", *(str(word.absolute()) for word in words),
            seconds=self._seconds + file.stat().st_size / _BYTES_PER_SECOND, files=words,
        )  # fmt: skip
        return _verdict(status)


@contextlib.contextmanager
def verifier(public_key: bytes, *, seconds: float = _SECONDS) -> Iterator[Verifier]:
    """A `Verifier` with the armoured OpenPGP key `public_key`, for many signatures.

    gpg has `seconds` to import that, and again for each signature, and then what the file's size
    adds.

    Raises `SigulError` where the key is none of OpenPGP's; `ToolMissing`.
    """
    if not public_key.lstrip().startswith(b"-----BEGIN PGP PUBLIC KEY BLOCK-----"):
        raise SigulError(
            "only signatures of gnupg keys can be verified", "openssl knows the others"
        )
    with tempfile.TemporaryDirectory(prefix="sigul-verify-") as home:
        _gpg(home, "--import", given=public_key, seconds=seconds)
        yield Verifier(home, seconds)


def verify(
    public_key: bytes, file: Path, signature: Path | None, *, seconds: float = _SECONDS
) -> GoodSignature:
    """Check one signature with `public_key`, an armoured OpenPGP key; see `Verifier.verify`."""
    with verifier(public_key, seconds=seconds) as keyring:
        return keyring.verify(file, signature)


def _check_clear_signed(file: Path) -> None:
    """Refuse what gpg would leave out of its verdict: text before or behind the signed one."""
    try:
        with file.open("rb") as stream:
            lines = [line.rstrip() for line in stream if line.strip()]
    except OSError as error:
        raise SigulError(f"'{file}' cannot be read: {error.strerror}") from error
    if _BEGIN not in lines:
        raise BadSignature(f"'{file}' is no clear-signed text", "name its SIGNATURE as well")
    if (lines[0], lines[-1]) != (_BEGIN, _END) or lines.count(_BEGIN) != 1:
        raise BadSignature(f"'{file}' holds more than one clear-signed text", "take the rest out")


def _verdict(status: list[list[str]]) -> GoodSignature:
    for words in status:
        if words[0] in _FAULTS:
            raise BadSignature(_FAULTS[words[0]])
    good = [words for words in status if words[0] == "GOODSIG"]
    valid = [words for words in status if words[0] == "VALIDSIG"]
    if good and valid and len(valid[0]) > 10:
        return GoodSignature(valid[0][10], int(valid[0][3]))
    if any(words[0] in ("ERRSIG", "NO_PUBKEY") for words in status):
        raise BadSignature("the signature is another key's")
    raise BadSignature("there is no signature that gpg can read")


def _gpg(
    home: str,
    *arguments: str,
    given: bytes = b"",
    seconds: float = _SECONDS,
    files: Sequence[Path] = (),
) -> list[list[str]]:
    """Run gpg, which sees `home` and `files` and nothing else; the words of its status lines."""
    done = run(
        [
            "gpg", "--homedir", home, "--batch", "--no-tty", "--no-options", "--no-autostart",
            "--trust-model", "always", "--no-auto-key-retrieve", "--no-auto-check-trustdb",
            *arguments,
        ],
        package=GPG_VERIFY.package,
        time_limit=seconds,
        stdin=given,
        status_option="--status-fd",
        timeout_cure="see what else keeps the machine busy",
        wall=Wall(read=tuple(files), write=(Path(home),)),
    )  # fmt: skip
    status = [line.split()[1:] for line in done.status.splitlines() if line.startswith("[GNUPG:] ")]
    # Its exit code also tells that it reached no agent, which there is none of.
    if arguments[0] == "--import" and not any(words[0] == "IMPORT_OK" for words in status):
        raise SigulError(f"gpg does not take the server's public key: {done.reason}")
    return status
