"""The binding methods there are, and those of them that are enabled in this program.

A new method is a file in this package and a row in `_MODULES`; its name in `config.shared`, its
programs in `tools`, and its row in docs/configuration.md. The file is imported when its method is
first used, so that a method costs nothing where it is not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import MappingProxyType
from typing import cast

from ...errors import ConfigurationError
from ...secret import Secret
from .interface import BindingMethod

#: Method name → the module here that makes it, with a function `make(settings: MethodSettings)`.
_MODULES: Mapping[str, str] = MappingProxyType(
    {
        "test": "test",
        "pkcs11": "pkcs11",
        "keyring": "keyring",
        "keyctl": "keyring",  # its name in old sites
        "tpm": "tpm",
    }
)


@dataclass(frozen=True, slots=True)
class MethodSettings:
    """What `[binding]` says for all methods: each `METHOD_PARAMETER`, and those that are secret."""

    parameters: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Secret] = field(default_factory=dict)


class Registry:
    """The enabled binding methods, by name, in the order of the configuration."""

    def __init__(self, makers: Mapping[str, Callable[[], BindingMethod]]) -> None:
        self._makers = dict(makers)

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __contains__(self, name: object) -> bool:
        return name in self._makers

    def get(self, name: str) -> BindingMethod | None:
        """The method `name`, or None if it is not enabled.

        Raises `ConfigurationError` if its settings are wrong.
        """
        maker = self._makers.get(name)
        return maker() if maker else None

    def check(self) -> None:
        """Make each method once: raises `ConfigurationError` for settings that cannot be right."""
        for maker in self._makers.values():
            maker()


def enabled_methods(
    enabled: Iterable[str],
    parameters: Mapping[str, str] | None = None,
    secrets: Mapping[str, Secret] | None = None,
) -> Registry:
    """The methods that `[binding] enabled` lists, with the section's parameters.

    Raises `ConfigurationError` for a method that does not exist.
    """
    settings = MethodSettings(parameters or {}, secrets or {})
    makers = {}
    for name in enabled:
        if name not in _MODULES:
            raise ConfigurationError(
                f"[binding] enabled: there is no binding method {name!r}",
                f"choose from: {', '.join(sorted(_MODULES))}",
            )
        makers[name] = _maker(_MODULES[name], settings)
    return Registry(makers)


def _maker(module: str, settings: MethodSettings) -> Callable[[], BindingMethod]:
    def make() -> BindingMethod:
        found = import_module(f".{module}", __package__)
        return cast("Callable[[MethodSettings], BindingMethod]", found.make)(settings)

    return make
