"""Options that are set and have no effect beside the others: each is a warning at a daemon's start.

An option that has its own default says nothing, as in files that list all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from .ini import Advice, ConfigEntry, ConfigFiles
from .shared import BINDING_METHODS

if TYPE_CHECKING:
    from .bridge import BridgeSettings
    from .server import ServerSettings

#: Binding methods that are one under two names.
_SAME: Final = frozenset({"keyring", "keyctl"})
_LEAVE_OUT: Final = "leave the line out"


def idle_of_server(files: ConfigFiles, settings: ServerSettings) -> Iterator[Advice]:
    """The warnings about a server's options."""
    for kind, name in (("ECC", "ecc-default-curve"), ("RSA", "rsa-key-size")):
        if kind not in settings.allowed_key_types:
            yield from _idle(
                _unlike(files, settings, "keys", name),
                f"allowed-key-types does not list {kind}",
                f"{_LEAVE_OUT}, or add {kind} to allowed-key-types",
            )
    if settings.lenient_username_check:
        yield from _idle(
            _unlike(files, settings, "server", "proxy-usernames"),
            "with lenient-username-check any certificate may speak for any user",
            "leave lenient-username-check out, which is the wider of the two",
        )
    binding = settings.binding
    if not binding.forced and not binding.forced_first:
        yield from _idle(
            files.find("binding", ("forced-binding-methods-position",)),
            "there are no forced-binding-methods",
            f"{_LEAVE_OUT}, or add forced-binding-methods",
        )
    enabled = _SAME.union(binding.enabled) if _SAME & {*binding.enabled} else {*binding.enabled}
    for entry in files.section("binding"):
        method, _, _ = entry.option.partition("_")
        if method in BINDING_METHODS and method not in enabled and "_" in entry.option:
            yield from _idle(
                [entry],
                f"the method {method} is not enabled",
                f"{_LEAVE_OUT}, or add {method} to enabled",
            )


def idle_of_bridge(files: ConfigFiles, settings: BridgeSettings) -> Iterator[Advice]:
    """The warnings about a bridge's options."""
    instances = {name.lower() for name in settings.koji.instances}
    for entry in files.section("koji"):
        for prefix in ("koji-config-", "required-fas-group-"):
            name = entry.option.removeprefix(prefix)
            if name != entry.option and name not in instances:
                yield from _idle(
                    [entry],
                    f"koji-instances does not list {name!r}",
                    f"{_LEAVE_OUT}, or add {name} to koji-instances",
                )
    if settings.required_fas_group is None and not settings.koji.required_groups:
        yield from _idle(
            files.find("bridge", ("fas-user-name", "fas-password", "fas-password-file")),
            "no group is required",
            f"{_LEAVE_OUT}, or set required-fas-group",
        )
    address = settings.management.listen
    if address is None:
        yield from _idle(
            files.find("management", ("metrics-names", "socket-group")),
            "there is no management address",
            f"{_LEAVE_OUT}, or set listen",
        )
    elif address.path is None:
        yield from _idle(
            files.find("management", ("socket-group",)),
            "the management address is no Unix socket",
            f"{_LEAVE_OUT}, or set listen to unix:/PATH",
        )


def _unlike(
    files: ConfigFiles, settings: ServerSettings, section: str, name: str
) -> Iterator[ConfigEntry]:
    """The entry of an option that has another value than its default."""
    field = type(settings).__dataclass_fields__[name.replace("-", "_")]
    if getattr(settings, field.name) != field.default:
        yield from files.find(section, (name,))


def _idle(entries: Iterable[ConfigEntry], why: str, cure: str) -> Iterator[Advice]:
    for entry in entries:
        if entry.text:
            yield Advice(f"{entry.place} has no effect: {why}", cure, of_daemon=True)
