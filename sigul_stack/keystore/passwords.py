"""Users' passwords: hashed for the database, and verified against what it holds; their length.

SHA-512 crypt, as a Sigul 1.2 server has it (docs/storage.md, "Users' passwords"). This is kept on
purpose: a 1.2 server must be able to verify what this one stored, and every refusal must cost the
same, whether the user exists, has a password, or is only guessed at; were new users' hashes
stronger, time would tell them from old ones. A password opens requests to the server, behind two
layers of TLS with client certificates; keys are locked with passphrases of their own.

libpass computes it in Python over OpenSSL's SHA-512 (about 3 ms): Python 3.13 has no `crypt`, and
`crypt` takes no bytes that are not UTF-8.
"""

from __future__ import annotations

import re
from typing import Final

from passlib.hash import sha512_crypt

from sigul_stack.errors import KeystoreError
from sigul_stack.secret import Secret

#: The longest password, in bytes: what an inner field holds.
MAX_PASSWORD_BYTES: Final = 255
#: Rounds of the hashes made here: SHA-512 crypt's default.
ROUNDS: Final = 5000
#: The most rounds that a stored hash may ask for (about a quarter of a second); a hash that asks
#: for more is treated as malformed, so that a row in the database cannot stop a worker for hours.
MAX_ROUNDS: Final = 500_000

_STORED: Final = re.compile(
    rb"\$6\$(?:rounds=(?P<rounds>[1-9][0-9]{3,8})\$)?[./0-9A-Za-z]{0,16}\$[./0-9A-Za-z]{86}",
    re.ASCII,
)
# Verified where there is nothing to verify, at the same cost; no password is known for it.
_DUMMY: Final = "$6$nobodyhasthispwd$" + 86 * "."


def hash_password(password: Secret) -> bytes:
    """The crypt(3) string to store for `password`.

    Raises `KeystoreError` for a password that is empty, longer than `MAX_PASSWORD_BYTES` or with a
    NUL byte.
    """
    plain = password.reveal()
    if not _acceptable(plain):
        raise KeystoreError(
            "The password cannot be used: choose one of at least 1 and at most "
            f"{MAX_PASSWORD_BYTES} bytes without a NUL byte"
        )
    text: str = sha512_crypt.using(rounds=ROUNDS, salt_size=16).hash(plain)
    return text.encode("ascii")


def require_length(secret: Secret, least: int) -> None:
    """Raise `KeystoreError` where a new password or passphrase has fewer than `least` characters.

    Secrets are UTF-8; what is not counts as a character for each piece that is none. One character
    asks for nothing: what is empty is refused where it would be used, in words of its own.
    """
    length = len(secret.reveal().decode("utf-8", "replace"))
    if length < least and least > 1:
        raise KeystoreError(
            f"a new password or passphrase has at least {least} characters at this server"
            f" (min-secret-length), and this one has {length}",
            "choose a longer one",
        )


def verify_password(password: Secret, stored: bytes | None) -> bool:
    """Check `password` against `stored`, the crypt(3) string of the right one.

    False, at the same cost as a wrong password, where `stored` is None, malformed or asks for
    more than `MAX_ROUNDS`, and for a password that `hash_password` would refuse: an empty one is
    wrong even where what is stored was made from it.
    """
    plain = password.reveal()
    acceptable = _acceptable(plain)
    text = None if stored is None else _usable(stored)
    # Always run, and only then decided: a refusal must not show by its time what was missing.
    same = sha512_crypt.verify(plain if acceptable else b"", text or _DUMMY)
    return bool(same and acceptable and text is not None)


def _acceptable(plain: bytes) -> bool:
    return 0 < len(plain) <= MAX_PASSWORD_BYTES and b"\0" not in plain


def _usable(stored: bytes) -> str | None:
    """`stored` as text where it is a hash that may be verified."""
    match = _STORED.fullmatch(stored)
    if match is None or int(match["rounds"] or ROUNDS) > MAX_ROUNDS:
        return None
    return stored.decode("ascii")
