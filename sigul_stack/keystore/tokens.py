"""Keys on PKCS#11 tokens: which one a `pkcs11:` URI means, its public key and its certificates.

The tokens are those that the system's p11-kit knows. What is on one is told by `token_probe`, a
program of its own; the PIN goes to it through a pipe. Nothing is ever written to a token.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import quote

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ..errors import KeystoreError, shortened
from ..formats import pkcs11_uri
from ..secret import Secret
from ..system.programs import run
from ..tools import OPENSSL_PKCS11, P11_KIT, RAISE_SIGNING_TIMEOUT, Tool
from .pem import PublicKey

#: How long the look at a token may take, in seconds.
TIME_LIMIT: Final = 60.0

_LOOK: Final = "`pkcs11-tool --module p11-kit-proxy.so -L` shows the tokens, as the server's user"
_CURES: Final[Mapping[str, tuple[str, str]]] = {
    "no-library": (
        "PyKCS11 is not installed, without which no token is read",
        "pip install 'sigul-stack[pkcs11]'",
    ),
    "module": ("the PKCS#11 modules of p11-kit cannot be used ({})", "`p11-kit list-modules`"),
    "none": ("no token is there that the key's URI means", f"plug it in; {_LOOK}"),
    "several": ("the key's URI means several tokens ({})", "add serial=… to the URI"),
    "pin": ("the token refuses the PIN", "see that it was not changed on the token"),
    "locked": ("the token's PIN is locked ({})", "unlock it with the token's own tool"),
    "token": ("the token cannot be read ({})", _LOOK),
}


class TokenError(KeystoreError):
    """A token, or a key on it, cannot be used."""


@dataclass(frozen=True, slots=True)
class TokenReference:
    """The way of another program to a key on a token.

    `uri` means that key alone; `engine` is OpenSSL's for tokens, and `module` p11-kit's own, paths.
    """

    uri: str
    engine: str
    module: str


@dataclass(frozen=True, slots=True)
class TokenKey:
    """A private key on a token. `certificates` are those with its id: label and PEM of each."""

    uri: str
    public: PublicKey | None
    certificates: tuple[tuple[str, bytes], ...]

    def reference(self) -> TokenReference:
        """The way of programs to it. Raises `ToolMissing`."""
        return TokenReference(self.uri, _path(OPENSSL_PKCS11), _path(P11_KIT))


class TokenKeys(Protocol):
    """The keys on tokens, by the URI of a private key. Other ways to a token have these methods."""

    def find(self, uri: str, pin: Secret) -> Sequence[TokenKey]:
        """Every private key that `uri` means. Raises `TokenError` where that is none."""
        ...

    def public(self, uri: str, pin: Secret | None) -> bytes:
        """The public key, PEM; without a PIN from what the token shows to everybody."""
        ...


class P11Kit:
    """The keys on the tokens that p11-kit knows."""

    def find(self, uri: str, pin: Secret) -> Sequence[TokenKey]:
        """Every private key that `uri` means.

        Raises `TokenError` where token, PIN or key will not do; `ToolMissing`.
        """
        wanted = _parsed(uri)
        seen = _look(wanted, pin)
        keys = [key for key in _part(seen, "keys") if _meant(wanted, key)]
        if not keys:
            raise TokenError(
                "the token has no private key that the URI means",
                "`pkcs11-tool -O --login` lists them, as the server's user",
            )
        return [
            TokenKey(
                uri=_exact(seen["token"], key),
                public=_public_key(seen, key),
                certificates=tuple(
                    (found["label"], certificate.public_bytes(serialization.Encoding.PEM))
                    for found in _part(seen, "certificates")
                    if found["id"] == key["id"] and (certificate := _certificate(found))
                ),
            )
            for key in keys
        ]

    def public(self, uri: str, pin: Secret | None) -> bytes:
        """The public key, PEM. Raises `TokenError` where it cannot be had; `ToolMissing`."""
        wanted = _parsed(uri)
        seen = _look(wanted, pin)
        found = {}
        for kind in ("keys", "public", "certificates"):
            for item in _part(seen, kind):
                # A certificate has a label of its own.
                label = None if kind == "certificates" and wanted.id is not None else wanted.object
                if (label is None or label == item["label"]) and _meant(wanted, item, label=False):
                    public = _public_key(seen, item)
                    if public is not None:
                        pem = public.public_bytes(
                            serialization.Encoding.PEM,
                            serialization.PublicFormat.SubjectPublicKeyInfo,
                        )
                        found[pem] = True
            if found:
                break
        if not found:
            raise TokenError(
                "the token does not show the public key",
                "ask with a key passphrase, which opens the token"
                if pin is None
                else "put the public key or a certificate on it, with the private key's id",
            )
        if len(found) > 1:
            raise TokenError(
                "the key's URI means several keys", "only a URI with id=… or object=… means one"
            )
        return next(iter(found))


def _parsed(uri: str) -> pkcs11_uri.TokenURI:
    try:
        return pkcs11_uri.parse(uri, as_typed=True)
    except pkcs11_uri.InvalidURI as error:
        raise TokenError(
            f"the key's fingerprint is no URI of a key on a token: {error.problem}",
            "delete-key, then sigul_server_add_pkcs11_token",
        ) from error


def _meant(wanted: pkcs11_uri.TokenURI, item: Mapping[str, str], *, label: bool = True) -> bool:
    return wanted.matches_object(
        item["label"] if label else wanted.object or "", bytes.fromhex(item["id"])
    )


def _part(seen: Mapping[str, Any], kind: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = seen[kind]
    return found


def _look(wanted: pkcs11_uri.TokenURI, pin: Secret | None) -> dict[str, Any]:
    """All that is on the token. Raises `TokenError`."""
    try:
        code = None if pin is None else pin.reveal().decode("utf-8")
    except UnicodeDecodeError:
        raise TokenError("the PIN is no text", "add the key again, with the right PIN") from None
    question = {"module": _path(P11_KIT), "token": dict(wanted.token), "pin": code}
    finished = run(
        # Not from whatever lies in the directory that this is started in.
        [sys.executable, "-P", "-m", f"{__package__}.token_probe"],
        package="python3",
        time_limit=TIME_LIMIT,
        timeout_cure=RAISE_SIGNING_TIMEOUT,
        stdin=json.dumps(question).encode(),
        # The tokens' libraries find their configuration through it.
        environment={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    try:
        seen = json.loads(finished.stdout)
    except ValueError:
        raise TokenError(
            f"the look at the token ended without an answer ({shortened(finished.reason, 100)})",
            "the token's PKCS#11 module has crashed; see the kernel's log",
        ) from None
    if error := seen.get("error"):
        problem, cure = _CURES[error]
        raise TokenError(problem.format(shortened(" ".join(str(seen["text"]).split()), 100)), cure)
    found: dict[str, Any] = seen
    return found


def _exact(token: Mapping[str, str], key: Mapping[str, str]) -> str:
    """A URI of that key on that token, and of no other."""
    parts = [f"{name}={quote(text, safe='')}" for name, text in token.items() if text]
    if key["id"]:
        parts.append("id=" + "".join(f"%{byte:02X}" for byte in bytes.fromhex(key["id"])))
    if key["label"]:
        parts.append(f"object={quote(key['label'], safe='')}")
    return "pkcs11:" + ";".join([*parts, "type=private"])


def _public_key(seen: Mapping[str, Any], item: Mapping[str, str]) -> PublicKey | None:
    """The public key that goes with an object, wherever on the token it is told."""
    if (found := _from_numbers(item)) is not None or not item["id"]:
        return found
    for other in _part(seen, "public"):
        if other["id"] == item["id"] and (found := _from_numbers(other)) is not None:
            return found
    for other in _part(seen, "certificates"):
        certificate = _certificate(other) if other["id"] == item["id"] else None
        key = None if certificate is None else certificate.public_key()
        if isinstance(key, PublicKey):
            return key
    return None


def _certificate(item: Mapping[str, str]) -> x509.Certificate | None:
    """A certificate of a token, whose public key can be read; None for another."""
    try:
        found = x509.load_der_x509_certificate(base64.b64decode(item["der"]))
        found.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None
    return found


def _from_numbers(item: Mapping[str, str]) -> PublicKey | None:
    try:
        if "MODULUS" in item:
            modulus, exponent = (int(item[name], 16) for name in ("MODULUS", "PUBLIC_EXPONENT"))
            return rsa.RSAPublicNumbers(exponent, modulus).public_key()
        if "EC_POINT" in item:
            return _on_curve(bytes.fromhex(item["EC_PARAMS"]), bytes.fromhex(item["EC_POINT"]))
    except (ValueError, UnsupportedAlgorithm):
        return None
    return None


#: Object identifiers of curves, DER.
_CURVES: Final[Mapping[str, ec.EllipticCurve]] = {
    "06082a8648ce3d030107": ec.SECP256R1(),
    "06052b81040022": ec.SECP384R1(),
    "06052b81040023": ec.SECP521R1(),
}


def _on_curve(parameters: bytes, point: bytes) -> PublicKey | None:
    curve = _CURVES.get(parameters.hex())
    if curve is None:
        return None
    size = 1 + 2 * ((curve.key_size + 7) // 8)
    # An OCTET STRING with the point, or (as some modules have it) the point alone.
    return ec.EllipticCurvePublicKey.from_encoded_point(curve, point[-size:])


def _path(tool: Tool) -> str:
    found = tool.find()
    if found is None:
        raise tool.missing()
    return str(found)
