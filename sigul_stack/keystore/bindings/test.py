"""The binding method `test`: it binds with nothing, for tests only.

Its value is the passphrase itself, and it opens where its argument `may_unbind` is `1`.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...secret import Secret
from .methods import BindingMethod, MethodFailed, MethodSettings


class TestMethod:
    """`test`: the value is the passphrase."""

    __test__ = False  # pytest is not to take it for a test

    def bind(self, secret: Secret, arguments: Mapping[str, str]) -> str:
        """The passphrase as text."""
        try:
            return secret.reveal().decode("utf-8")
        except UnicodeDecodeError:
            raise MethodFailed(
                "the passphrase is not UTF-8 text", "bind it with another method"
            ) from None

    def unbind(self, value: str, arguments: Mapping[str, str]) -> Secret:
        """The passphrase, if `may_unbind` is `1`."""
        if arguments.get("may_unbind") != "1":
            raise MethodFailed("may_unbind is not 1", "bind the passphrase with test,may_unbind=1")
        return Secret(value)


def make(settings: MethodSettings) -> BindingMethod:
    """The method; it has no settings."""
    return TestMethod()
