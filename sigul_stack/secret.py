"""A type for passwords, passphrases and keys whose text never shows by accident.

`repr`, `str` and formatting give a placeholder; `reveal()` is the one way to the bytes, so that
a search for it lists every place where a secret is used. Imports nothing of the package.
"""

from __future__ import annotations

import hmac


class Secret:
    """Secret bytes. Compares in constant time; refuses to be pickled or formatted."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes | str) -> None:
        self._value = value.encode("utf-8") if isinstance(value, str) else bytes(value)

    @classmethod
    def random(cls, characters: int) -> Secret:
        """A new random secret of `characters` URL-safe base64 characters (6 bits each)."""
        import secrets  # a client needs none, and it takes 2 ms

        return cls(secrets.token_urlsafe(characters)[:characters])

    def reveal(self) -> bytes:
        """The secret bytes. Never log, format or put into an argument list what this returns."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a Secret is not to be pickled or copied to another process")
