"""The binding method `pkcs11`: bound with a token's certificate, opened by its key on the token.

A value is what `openssl smime -encrypt -aes-256-cbc` writes: CMS enveloped data as an S/MIME text,
the form in which Sigul 1.2 writes and reads it. The argument `token` says which of the configured
tokens binds; a value without it is tried with each token that can open.

Settings: `pkcs11_tokens`, the names of the tokens, and for each NAME

* `pkcs11_NAME_pubkey`: a file with the certificate of its RSA key, PEM.
* `pkcs11_NAME_privkey`: the `pkcs11:` URI of the key itself. Without it the token can only bind.
* `pkcs11_NAME_pin`: the token's PIN.

OpenSSL reaches the token through its engine `pkcs11`, which takes the PIN from a descriptor: it
must never be an argument, and the URI is one. Only RSA keys: `openssl smime` knows no others.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ...errors import ConfigurationError
from ...secret import Secret
from ...system.programs import Finished, secret_pipe
from ...tools import OPENSSL, OPENSSL_PKCS11
from .methods import BindingMethod, MethodFailed, MethodSettings
from .running import only_arguments, run_tool


@dataclass(frozen=True, slots=True)
class Token:
    """One configured token. `privkey` is None where it can only bind."""

    name: str
    certificate: Path
    privkey: str | None
    pin: Secret | None


class PKCS11Method:
    """`pkcs11` with these tokens, by name."""

    def __init__(self, tokens: Mapping[str, Token]) -> None:
        self._tokens = dict(tokens)

    def bind(self, secret: Secret, arguments: Mapping[str, str]) -> str:
        """An S/MIME text that the token's private key opens."""
        only_arguments(arguments, frozenset({"token"}))
        token = self._token(arguments)
        if token is None:
            if len(self._tokens) != 1:
                raise MethodFailed(f"say which token: token={'|'.join(self._tokens)}")
            (token,) = self._tokens.values()
        try:
            secret.reveal().decode("utf-8")
        except UnicodeDecodeError:
            raise MethodFailed("the passphrase is not UTF-8 text", "choose another") from None
        finished = run_tool(
            ["openssl", "smime", "-encrypt", "-aes-256-cbc", "-binary", str(token.certificate)],
            package=OPENSSL.package,
            data=secret.reveal(),
        )
        if finished.returncode or not finished.stdout:
            raise MethodFailed(
                f"token {token.name}: openssl could not encrypt to '{token.certificate}'"
                f" ({_reason(finished)})",
                "it must be the PEM certificate of an RSA key",
            )
        return finished.stdout.decode("ascii")

    def unbind(self, value: str, arguments: Mapping[str, str]) -> Secret:
        """The secret in `value`, decrypted by a token's private key."""
        form, data = _message(value)
        token = self._token(arguments)
        able = [
            found
            for found in ([token] if token is not None else self._tokens.values())
            if found.privkey is not None
        ]
        if not able:
            raise MethodFailed(
                "the token can only bind here", "set pkcs11_NAME_privkey where it is plugged in"
            )
        failures = []
        for found in able:
            try:
                return _decrypt(found, form, data)
            except MethodFailed as error:
                failures.append(str(error))
        raise MethodFailed("; ".join(failures))

    def _token(self, arguments: Mapping[str, str]) -> Token | None:
        """The token that the arguments name, if they name one."""
        if "token" not in arguments:
            return None
        name = arguments["token"].lower()
        if name not in self._tokens:
            raise MethodFailed(
                f"there is no token {name!r} here",
                f"add it to pkcs11_tokens, or use one of: {', '.join(self._tokens)}",
            )
        return self._tokens[name]


def _decrypt(token: Token, form: str, data: bytes) -> Secret:
    with ExitStack() as cleanup:
        uri = token.privkey or ""
        inherit = []
        if token.pin is not None:
            descriptor = cleanup.enter_context(secret_pipe(token.pin))
            inherit.append(descriptor)
            # Behind what the URI already asks for, if it does.
            uri += f"{'&' if '?' in uri else '?'}pin-source=/proc/self/fd/{descriptor}"
        # Without the certificate, which may have been renewed since: the key is what counts.
        finished = run_tool(
            [
                *("openssl", "smime", "-decrypt", "-inform", form),
                *("-engine", "pkcs11", "-keyform", "engine", "-inkey", uri),
            ],
            package=OPENSSL.package,
            data=data,
            inherit=inherit,
            # The tokens' libraries find their configuration through it.
            environment={**os.environ, "LC_ALL": "C"},
        )
    if finished.returncode or not finished.stdout:
        if "invalid engine" in finished.stderr or "could not load the shared" in finished.stderr:
            raise MethodFailed(
                "openssl has no engine pkcs11 here", f"install the package {OPENSSL_PKCS11.package}"
            )
        raise MethodFailed(
            f"token {token.name} did not open it ({_reason(finished)})",
            "see whether it is plugged in, and whether pkcs11_NAME_privkey and pkcs11_NAME_pin"
            " are right",
        )
    try:
        # A wrong key is not always noticed by openssl, which then decrypts to nonsense.
        finished.stdout.decode("utf-8")
    except UnicodeDecodeError:
        raise MethodFailed(
            f"token {token.name} opened it to what is no text: its key is not the one that bound"
            " it",
            "plug in the token that has that key, or bind the passphrase anew",
        ) from None
    return Secret(finished.stdout)


def _message(value: str) -> tuple[str, bytes]:
    """The form of a value for openssl's `-inform`, and its bytes. Raises `MethodFailed`."""
    if value.startswith("-----BEGIN "):
        return "PEM", value.encode("utf-8")
    try:
        return "DER", base64.b64decode("".join(value.split()), validate=True)
    except (ValueError, binascii.Error):
        return "SMIME", value.encode("utf-8")


def _reason(finished: Finished) -> str:
    """The reason that openssl or its engine gives in words, before its own error codes."""
    lines = [line.strip() for line in finished.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if ":error:" in line]
    if errors:
        # thread:error:code:library:function:reason:file:line:
        return errors[0].split(":")[5]
    return finished.reason


def make(settings: MethodSettings) -> BindingMethod:
    """The method with the tokens of `[binding]`. Raises `ConfigurationError`."""
    names = settings.parameters.get("pkcs11_tokens", "").replace(",", " ").lower().split()
    tokens = {name: _make_token(name, settings) for name in names}
    if not tokens:
        raise ConfigurationError(
            "[binding] pkcs11_tokens names no token",
            "list their names there, or take pkcs11 out of enabled",
        )
    return PKCS11Method(tokens)


def _make_token(name: str, settings: MethodSettings) -> Token:
    certificate = settings.parameters.get(f"pkcs11_{name}_pubkey")
    if not certificate:
        raise ConfigurationError(
            f"[binding] pkcs11_{name}_pubkey is not set", "name a file with the token's certificate"
        )
    path = Path(certificate).expanduser().absolute()
    if not path.is_file():
        raise ConfigurationError(
            f"[binding] pkcs11_{name}_pubkey: there is no file '{path}'",
            "put the token's certificate there, in PEM",
        )
    privkey = settings.parameters.get(f"pkcs11_{name}_privkey") or None
    if privkey is not None and not privkey.startswith("pkcs11:"):
        raise ConfigurationError(
            f"[binding] pkcs11_{name}_privkey must be a URI, pkcs11:…",
            "`p11tool --list-keys` or `pkcs11-tool -O` tell what to write",
        )
    pin = settings.secrets.get(f"pkcs11_{name}_pin")
    if privkey is not None and "pin-value=" in privkey:
        raise ConfigurationError(
            f"[binding] pkcs11_{name}_privkey holds a PIN, which everybody on the machine could"
            " see",
            f"move it to pkcs11_{name}_pin or pkcs11_{name}_pin-file",
        )
    if privkey is not None and pin is not None and "pin-source=" in privkey:
        raise ConfigurationError(
            f"[binding] pkcs11_{name}_privkey names a pin-source beside pkcs11_{name}_pin",
            "give one of the two",
        )
    return Token(name, path, privkey, pin)
