"""What a binding method offers, and the errors of this package. No method may need more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ...errors import KeystoreError
from ...secret import Secret


class CannotBind(KeystoreError):
    """A passphrase cannot be bound as was asked: the method, its arguments or the secret."""


class CannotUnbind(KeystoreError):
    """No alternative of a bound passphrase opens here, or it is no bound passphrase at all."""


class MethodFailed(KeystoreError):
    """One method did not bind or open one value; the message says why. Others may still do."""


class BindingMethod(Protocol):
    """One way of binding. Its settings are given when it is made; it keeps nothing between calls.

    `arguments` are the `key=value` pairs of a layer. They are kept beside the value, in the
    clear, and given again when it is to be opened: they hold no secrets.
    """

    def bind(self, secret: Secret, arguments: Mapping[str, str]) -> str:
        """The value that stands for `secret`. Raises `MethodFailed`."""

    def unbind(self, value: str, arguments: Mapping[str, str]) -> Secret:
        """What was bound to `value`. Raises `MethodFailed`, also for a value of a wrong form."""
