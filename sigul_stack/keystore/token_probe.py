"""A program that looks into a PKCS#11 token: `python -m sigul_stack.keystore.token_probe`.

A module is somebody's C code, which may hang, crash or keep threads: it is loaded in a process of
its own, which `tokens` starts with a time limit. Standard input is JSON: `module` (a path), `token`
(what its texts must be, of `token`, `manufacturer`, `serial`, `model`) and `pin` (null: no login).
Standard output is JSON: what is on the one token that is meant, or `error` (one of `ERRORS`) with
`text`. Nothing is written to the token, and no PIN goes to a token that is not meant.
"""

from __future__ import annotations

import base64
import json
import sys
from typing import Any, Final

#: What can be wrong, by the word that stands for it.
ERRORS: Final = ("no-library", "module", "none", "several", "pin", "locked", "token")
#: Most objects of a kind that are looked at.
_MAX_OBJECTS: Final = 4096


class _Failed(Exception):
    def __init__(self, error: str, text: str = "") -> None:
        super().__init__(text)
        self.error = error


def _stripped(text: str) -> str:
    return text.rstrip(" \0")


def _look(wanted: dict[str, Any]) -> dict[str, Any]:
    try:
        import PyKCS11
    except ImportError as error:
        raise _Failed("no-library", str(error)) from error
    library = PyKCS11.PyKCS11Lib()
    try:
        library.load(wanted["module"])
        slots = library.getSlotList(tokenPresent=True)
    except PyKCS11.PyKCS11Error as error:
        raise _Failed("module", str(error)) from error
    found = []
    for slot in slots:
        try:
            info = library.getTokenInfo(slot)
        except PyKCS11.PyKCS11Error:
            continue  # taken out at this moment, or of no use
        texts = {
            "token": _stripped(info.label),
            "manufacturer": _stripped(info.manufacturerID),
            "serial": _stripped(info.serialNumber),
            "model": _stripped(info.model),
        }
        if not info.flags & PyKCS11.CKF_TOKEN_INITIALIZED:
            continue
        if not info.flags & PyKCS11.CKF_LOGIN_REQUIRED:
            continue  # as p11-kit's own of trusted certificates: none has a private key
        if all(texts[name] == _stripped(value) for name, value in wanted["token"].items()):
            found.append((slot, texts))
    if not found:
        raise _Failed("none")
    if len(found) > 1:
        raise _Failed("several", ", ".join(f"serial={texts['serial']}" for _, texts in found))
    ((slot, texts),) = found
    session = library.openSession(slot)
    if wanted["pin"] is not None:
        try:
            session.login(wanted["pin"])
        except PyKCS11.PyKCS11Error as error:
            if error.value in (PyKCS11.CKR_PIN_INCORRECT, PyKCS11.CKR_PIN_LEN_RANGE):
                raise _Failed("pin") from error
            if error.value in (PyKCS11.CKR_PIN_LOCKED, PyKCS11.CKR_PIN_EXPIRED):
                raise _Failed("locked", str(error)) from error
            raise
    return {"token": texts, **_objects(PyKCS11, session)}


def _objects(pkcs11: Any, session: Any) -> dict[str, list[dict[str, str]]]:
    def read(handle: Any, *names: str) -> dict[str, Any]:
        numbers = [getattr(pkcs11, f"CKA_{name}") for name in names]
        return dict(zip(names, session.getAttributeValue(handle, numbers), strict=True))

    def listed(kind: int) -> list[tuple[Any, dict[str, str]]]:
        handles = session.findObjects([(pkcs11.CKA_CLASS, kind)])[:_MAX_OBJECTS]
        found = []
        for handle in handles:
            values = read(handle, "LABEL", "ID")
            identity = bytes(values["ID"] or ()).hex()
            found.append((handle, {"label": _stripped(values["LABEL"] or ""), "id": identity}))
        return found

    def numbers(handle: Any) -> dict[str, str]:
        """The numbers of a public RSA or EC key; empty for others."""
        kind = read(handle, "KEY_TYPE")["KEY_TYPE"]
        names = {
            pkcs11.CKK_RSA: ("MODULUS", "PUBLIC_EXPONENT"),
            pkcs11.CKK_EC: ("EC_PARAMS", "EC_POINT"),
        }.get(kind, ())
        values = read(handle, *names) if names else {}
        if any(not value for value in values.values()):
            return {}
        return {name: bytes(value).hex() for name, value in values.items()}

    def private(handle: Any) -> dict[str, str]:
        try:
            return numbers(handle)
        except pkcs11.PyKCS11Error:
            return {}  # an EC key's private half does not tell its point

    return {
        "keys": [{**at, **private(handle)} for handle, at in listed(pkcs11.CKO_PRIVATE_KEY)],
        "public": [{**at, **numbers(handle)} for handle, at in listed(pkcs11.CKO_PUBLIC_KEY)],
        "certificates": [
            {**at, "der": base64.b64encode(bytes(read(handle, "VALUE")["VALUE"])).decode()}
            for handle, at in listed(pkcs11.CKO_CERTIFICATE)
        ],
    }


def main() -> int:
    """Look, and tell; the exit code is 0 whatever was found."""
    wanted = json.load(sys.stdin)
    try:
        result = _look(wanted)
    except _Failed as failed:
        result = {"error": failed.error, "text": str(failed)}
    except Exception as error:  # noqa: BLE001 - told to whoever asked: modules fail in many ways
        result = {"error": "token", "text": f"{type(error).__name__}: {error}"}
    json.dump(result, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
