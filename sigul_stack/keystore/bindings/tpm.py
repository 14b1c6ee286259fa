"""The binding method `tpm`: a TPM 2.0 opens it, and where asked only a machine in the same state.

A random AES-256 key is sealed by the TPM under its owner's primary key (made anew each time, from
a fixed template, always the same), and the passphrase is encrypted with that key, for a TPM seals
no more than 128 bytes. The argument `pcrs` names registers that must then hold what they hold now,
`[BANK:]N[+N…]`, as `sha256:0+2+7`; without it any state will do.

A value is `tpm2.PUBLIC.PRIVATE.DATA`, each part in base64: the sealed object's public and private
area (TPM2B_PUBLIC, TPM2B_PRIVATE), and a nonce of 12 bytes with the AES-GCM ciphertext. Values of
Sigul 1.2 are of a TPM 1.2: no TPM 2.0 opens them.

Settings: `tpm_tcti`, how tpm2-tools reach the TPM, where it is not their own default. It should be
a resource manager (`device:/dev/tpmrm0`): without one, a TPM serves one request at a time.

The programs exchange files in a temporary directory. They hold no secret that the TPM has not
encrypted.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ...secret import Secret
from ...system.programs import Finished
from ...tools import TPM2_TOOLS
from .methods import BindingMethod, MethodFailed, MethodSettings
from .running import only_arguments, run_tool

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM


_PREFIX = "tpm2"
_KEY_SIZE = 32
_NONCE_SIZE = 12
_BANK = "sha256"
_PCRS = re.compile(r"(?:(sha1|sha256|sha384|sha512):)?(\d{1,2}(?:[+ ,]\d{1,2})*)")
_LAST_PCR = 23


class TPMMethod:
    """`tpm`, through `tcti` (None: the tools' default)."""

    def __init__(self, tcti: str | None) -> None:
        self._environment = {} if tcti is None else {"TPM2TOOLS_TCTI": tcti}

    def bind(self, secret: Secret, arguments: Mapping[str, str]) -> str:
        """A value that this TPM opens while its registers `pcrs` stay as they are."""
        only_arguments(arguments, frozenset({"pcrs"}))
        pcrs = _pcrs(arguments)
        key, nonce = os.urandom(_KEY_SIZE), os.urandom(_NONCE_SIZE)
        attributes = "fixedtpm|fixedparent|noda"
        with self._primary() as directory:
            public, private = directory / "public", directory / "private"
            options = ["-a", f"{attributes}|userwithauth"]
            if pcrs is not None:
                policy = directory / "policy"
                self._run("tpm2_createpolicy", "--policy-pcr", "-l", pcrs, "-L", str(policy))
                options = ["-a", attributes, "-L", str(policy)]
            self._run(
                *("tpm2_create", "-C", str(directory / "primary"), "-g", "sha256", "-i", "-"),
                *("-u", str(public), "-r", str(private), *options),
                data=key,
            )
            parts = public.read_bytes(), private.read_bytes()
        encrypted = nonce + _cipher(key).encrypt(nonce, secret.reveal(), None)
        encoded = [base64.b64encode(part).decode("ascii") for part in (*parts, encrypted)]
        return ".".join([_PREFIX, *encoded])

    def unbind(self, value: str, arguments: Mapping[str, str]) -> Secret:
        """The secret that this TPM bound to `value`."""
        from cryptography.exceptions import InvalidTag

        pcrs = _pcrs(arguments)
        public, private, encrypted = _parts(value)
        with self._primary() as directory:
            (directory / "public").write_bytes(public)
            (directory / "private").write_bytes(private)
            self._run(
                *("tpm2_load", "-C", str(directory / "primary"), "-u", str(directory / "public")),
                *("-r", str(directory / "private"), "-c", str(directory / "sealed")),
            )
            key = self._run(
                *("tpm2_unseal", "-c", str(directory / "sealed")),
                *([] if pcrs is None else ["-p", f"pcr:{pcrs}"]),
            )
        try:
            return Secret(
                _cipher(key).decrypt(encrypted[:_NONCE_SIZE], encrypted[_NONCE_SIZE:], None)
            )
        except (InvalidTag, ValueError):
            raise MethodFailed("the value is damaged", "bind the passphrase anew") from None

    @contextmanager
    def _primary(self) -> Iterator[Path]:
        """A temporary directory with the context of the owner's primary key, `primary`."""
        with tempfile.TemporaryDirectory(prefix="sigul-tpm-") as name:
            directory = Path(name)
            self._run(
                *("tpm2_createprimary", "-C", "o", "-g", "sha256", "-G", "ecc256:aes128cfb"),
                *("-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted"
                  "|decrypt"),
                *("-c", str(directory / "primary")),
            )  # fmt: skip
            yield directory

    def _run(self, program: str, *arguments: str, data: bytes = b"") -> bytes:
        """The output of a program of tpm2-tools. Raises `MethodFailed`."""
        finished = run_tool(
            [program, *arguments],
            package=TPM2_TOOLS.package,
            data=data,
            environment=self._environment,
        )
        # Without a resource manager what a program has loaded stays, some sessions too, and three
        # of each are all there is room for. With one, this sees nobody else's.
        for kind in ("--transient-object", "--loaded-session"):
            run_tool(
                ["tpm2_flushcontext", kind],
                package=TPM2_TOOLS.package,
                environment=self._environment,
            )
        if finished.returncode:
            raise MethodFailed(
                f"{program} failed ({_reason(finished)})",
                "see whether it is the TPM that bound it, its PCRs are as they were, and this"
                " user may use it (group tss)",
            )
        return finished.stdout


def _reason(finished: Finished) -> str:
    """The tool's own first message; the libraries' lines (`ERROR:esys:…`) say less."""
    own = [line for line in finished.stderr.splitlines() if line.startswith("ERROR: ")]
    return own[0].removeprefix("ERROR: ") if own else finished.reason


def _cipher(key: bytes) -> AESGCM:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if len(key) != _KEY_SIZE:
        raise MethodFailed("the TPM gave back no key of this method", "bind the passphrase anew")
    return AESGCM(key)


def _pcrs(arguments: Mapping[str, str]) -> str | None:
    """The registers as tpm2-tools write them, or None where none are asked for."""
    text = arguments.get("pcrs")
    if text is None:
        return None
    found = _PCRS.fullmatch(text)
    numbers = sorted({int(number) for number in re.split(r"[+ ,]", found[2])}) if found else []
    if found is None or numbers[-1] > _LAST_PCR:
        raise MethodFailed(
            f"pcrs={text!r} is no list of registers 0 to {_LAST_PCR}",
            "write pcrs=7 or pcrs=sha256:0+2+7",
        )
    return f"{found[1] or _BANK}:{','.join(map(str, numbers))}"


def _parts(value: str) -> tuple[bytes, bytes, bytes]:
    """Public area, private area, and nonce with ciphertext. Raises `MethodFailed`."""
    prefix, *texts = value.split(".")
    try:
        public, private, encrypted = (base64.b64decode(text, validate=True) for text in texts)
    except (ValueError, binascii.Error):
        prefix = ""
    if prefix != _PREFIX:
        raise MethodFailed(
            "the value is not one of a TPM 2.0 (Sigul 1.2 used TPM 1.2)", "bind the passphrase anew"
        )
    return public, private, encrypted


def make(settings: MethodSettings) -> BindingMethod:
    """The method; `tpm_tcti` may say how to reach the TPM."""
    return TPMMethod(settings.parameters.get("tpm_tcti") or None)
