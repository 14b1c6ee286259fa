"""Binding layers: which methods a passphrase is to be bound with.

As people write it, one layer is `method1,key=value|method2,key=value`: alternatives, each a
method and its arguments. Each configuration line, or repeated option, is a further layer, which
binds what the one before it gave. Between client and server (the request fields `server-binding`
and `client-binding`) it is JSON: a list of layers, each a list of objects
`{"method": M, …arguments}`. Reading takes a layer also as one such object or as the text above.

Requests come from anybody with a key's passphrase, so everything is limited. Nothing here knows
what the methods do, or which are enabled.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .methods import CannotBind

#: Limits of what is read: layers around a passphrase, alternatives in a layer, arguments of a
#: method, and characters of the JSON (a field's value on the wire is far smaller).
MAX_LAYERS = 16
MAX_ALTERNATIVES = 16
MAX_ARGUMENTS = 16
MAX_TEXT = 1 << 16

#: What an argument may not be called, for the bound value keeps these beside the arguments.
RESERVED = frozenset({"method", "value"})


@dataclass(frozen=True, slots=True)
class MethodUse:
    """A binding method with its arguments, in the order given."""

    method: str
    arguments: Mapping[str, str]

    def __str__(self) -> str:
        return ",".join([self.method, *(f"{key}={value}" for key, value in self.arguments.items())])


#: One layer: alternatives, of which any one opens what the layer binds.
Layer = tuple[MethodUse, ...]


def parse_layer(text: str) -> Layer:
    """The layer that `text` describes. Raises `CannotBind` saying what is wrong with it."""
    uses = []
    for alternative in text.split("|"):
        method, *pairs = alternative.strip().split(",")
        arguments: dict[str, str] = {}
        for pair in pairs:
            key, equals, value = pair.partition("=")
            if not equals or key.strip() in arguments:
                raise CannotBind(
                    f"binding {text!r}: {pair!r} is no key=value, or repeats a key",
                    "write method,key=value",
                )
            arguments[key.strip()] = value.strip()
        uses.append(_use(method.strip(), arguments))
    return _layer(uses)


def load_layers(text: str) -> tuple[Layer, ...]:
    """The layers in a request's JSON field. Raises `CannotBind`."""
    if len(text) > MAX_TEXT:
        raise CannotBind(f"the binding list has more than {MAX_TEXT} characters", "shorten it")
    try:
        found = json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise CannotBind(f"the binding list is not JSON ({error})", "correct the client") from None
    layers = found if isinstance(found, list) else [found]
    if len(layers) > MAX_LAYERS:
        raise CannotBind(f"more than {MAX_LAYERS} binding layers", "use fewer")
    return tuple(_load_layer(layer) for layer in layers)


def dump_layers(layers: Iterable[Layer]) -> str:
    """`layers` as JSON for a request's field; `load_layers` reads it."""
    return json.dumps(
        [[{"method": use.method, **use.arguments} for use in layer] for layer in layers]
    )


@dataclass(frozen=True, slots=True)
class BindingPolicy:
    """Layers that the configuration forces on everybody, and those it gives by default."""

    forced: tuple[Layer, ...] = ()
    forced_first: bool = True
    default: tuple[Layer, ...] = ()

    @classmethod
    def parse(
        cls, forced: Iterable[str], forced_first: bool, default: Iterable[str]
    ) -> BindingPolicy:
        """A policy from `[binding]`'s lines. Raises `CannotBind`."""
        return cls(tuple(map(parse_layer, forced)), forced_first, tuple(map(parse_layer, default)))

    def layers(self, requested: Sequence[Layer]) -> tuple[Layer, ...]:
        """The layers for a request that names `requested`; none means the default ones."""
        return self._with_forced(tuple(requested) or self.default)

    def only_forced(self) -> tuple[Layer, ...]:
        """The layers where no others apply: those of new and imported keys."""
        return self._with_forced(())

    def _with_forced(self, chosen: tuple[Layer, ...]) -> tuple[Layer, ...]:
        return self.forced + chosen if self.forced_first else chosen + self.forced


def _load_layer(found: object) -> Layer:
    if isinstance(found, str):
        return parse_layer(found)
    return _layer([_load_use(one) for one in (found if isinstance(found, list) else [found])])


def _load_use(found: object) -> MethodUse:
    if not isinstance(found, dict):
        raise CannotBind('a binding is not of the form {"method": …}', "correct the client")
    arguments = dict(found)
    method = arguments.pop("method", None)
    if not isinstance(method, str):
        raise CannotBind('a binding has no "method"', "correct the client")
    return _use(method, arguments)


def _use(method: str, arguments: dict[str, object] | dict[str, str]) -> MethodUse:
    if not method.isidentifier():
        raise CannotBind(f"{method!r} is no name of a binding method", "write method,key=value")
    if len(arguments) > MAX_ARGUMENTS:
        raise CannotBind(f"{method} with more than {MAX_ARGUMENTS} arguments", "leave some out")
    checked = {}
    for key, value in arguments.items():
        if not key or key in RESERVED or not isinstance(value, str):
            raise CannotBind(
                f"{method} has an argument {key!r} that is reserved or no text", "leave it out"
            )
        checked[key] = value
    return MethodUse(method, checked)


def _layer(uses: list[MethodUse]) -> Layer:
    if not 0 < len(uses) <= MAX_ALTERNATIVES:
        raise CannotBind(f"a binding layer needs 1 to {MAX_ALTERNATIVES} alternatives")
    return tuple(uses)


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is repeated")
    return result
