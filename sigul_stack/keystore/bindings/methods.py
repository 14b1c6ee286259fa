"""Binding methods: what each offers, which there are, and which of them are enabled here.

A new method is a file in this package and a row in `_MODULES`; its name in `config.shared`, its
programs in `tools`, and its row in docs/configuration.md. The file is imported when its method is
first used, so that a method costs nothing where it is not needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import MappingProxyType
from typing import Protocol

from ...errors import ConfigurationError, KeystoreError
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
        """The secret bound to `value`. Raises `MethodFailed`, also for a value of a wrong form."""


@dataclass(frozen=True, slots=True)
class MethodSettings:
    """Settings of all methods, `METHOD_PARAMETER` in `[binding]`; the secret ones apart."""

    parameters: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Secret] = field(default_factory=dict)


#: Method name → the module here that makes it, with a function `make(settings)`.
_MODULES: Mapping[str, str] = MappingProxyType(
    {
        "test": "test",
        "pkcs11": "pkcs11",
        "keyring": "keyring",
        "keyctl": "keyring",  # its name in old sites
        "tpm": "tpm",
    }
)


class Registry:
    """The enabled binding methods, by name, in the order of the configuration."""

    def __init__(self, enabled: Iterable[str], settings: MethodSettings) -> None:
        self._enabled = tuple(dict.fromkeys(enabled))
        self._settings = settings

    def __iter__(self) -> Iterator[str]:
        return iter(self._enabled)

    def get(self, name: str) -> BindingMethod | None:
        """The method `name`, or None if it is not enabled under any name that it has.

        Raises `ConfigurationError` if its settings are wrong.
        """
        module = _MODULES.get(name)
        if module is None or module not in map(_MODULES.get, self._enabled):
            return None
        method: BindingMethod = import_module(f".{module}", __package__).make(self._settings)
        return method

    def check(self) -> None:
        """Make each method once: raises `ConfigurationError` for settings that cannot be right."""
        for name in self._enabled:
            self.get(name)


def enabled_methods(
    enabled: Iterable[str],
    parameters: Mapping[str, str] | None = None,
    secrets: Mapping[str, Secret] | None = None,
) -> Registry:
    """The methods that `[binding] enabled` lists, with the section's parameters.

    Raises `ConfigurationError` for a method that does not exist.
    """
    names = list(enabled)
    for name in names:
        if name not in _MODULES:
            raise ConfigurationError(
                f"[binding] enabled: there is no binding method {name!r}",
                f"choose from: {', '.join(sorted(_MODULES))}",
            )
    return Registry(names, MethodSettings(parameters or {}, secrets or {}))
