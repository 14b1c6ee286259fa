"""Bind a passphrase with layers, and open what was bound.

A layer's JSON is written as Sigul 1.2 writes it: the arguments, then `value`, then `method`
(docs/storage.md, "Bound passphrases").
Neither a value nor a passphrase may ever reach a log or a message.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ...errors import ConfigurationError, KeystoreError
from ...logevents import tell
from ...secret import Secret
from ..log_events import KeystoreLog
from .layers import MAX_ALTERNATIVES, MAX_ARGUMENTS, MAX_LAYERS, Layer
from .methods import CannotBind, CannotUnbind, Registry

_log = logging.getLogger(__name__)

#: The largest bound passphrase in bytes. A PKCS#11 value has a few kilobytes, and each layer
#: around it repeats it once for each alternative.
MAX_BOUND = 1 << 19


@dataclass(frozen=True, slots=True)
class _BoundValue:
    """One alternative of a bound passphrase."""

    method: str
    arguments: Mapping[str, str]
    value: str = field(repr=False)


def is_bound(passphrase: Secret | bytes) -> bool:
    """True if `passphrase` is a bound one, by its first character."""
    text = passphrase.reveal() if isinstance(passphrase, Secret) else passphrase
    return text.startswith((b"{", b"["))


def bind(secret: Secret, layers: Sequence[Layer], registry: Registry) -> Secret:
    """`secret` bound with each of `layers` in turn; itself if there are none.

    Raises `CannotBind`: a method is not enabled or failed, or the result would be too large.
    """
    if is_bound(secret):
        try:
            _parse(secret)
        except CannotUnbind:
            raise CannotBind(
                "a passphrase that starts with { or [ would be taken for a bound one",
                "choose another",
            ) from None
    if len(layers) > MAX_LAYERS:
        raise CannotBind(f"more than {MAX_LAYERS} binding layers", "use fewer")
    for layer in layers:
        bound = []
        for use in layer:
            try:
                method = registry.get(use.method)
                value = None if method is None else method.bind(secret, use.arguments)
            except (KeystoreError, ConfigurationError) as error:
                raise CannotBind(
                    f"cannot bind with {use.method}: {error.problem}", error.cure
                ) from error
            if value is None:
                raise CannotBind(
                    f"binding method {use.method!r} is not enabled here",
                    f"add it to [binding] enabled, or use one of: {', '.join(registry)}",
                )
            bound.append({**use.arguments, "value": value, "method": use.method})
        secret = Secret(json.dumps(bound))
        if len(secret.reveal()) > MAX_BOUND:
            raise CannotBind(
                f"the bound passphrase is larger than {MAX_BOUND} bytes",
                "use fewer layers or alternatives",
            )
    return secret


def unbind(bound: Secret | bytes, registry: Registry) -> Secret:
    """The passphrase itself, with all layers opened; `bound` as it is if it is not bound.

    Raises `CannotUnbind`: no alternative of a layer opens (which is also logged, in the words
    that scripts look for), or this is no bound passphrase, or it has more than `MAX_LAYERS`.
    """
    secret = bound if isinstance(bound, Secret) else Secret(bound)
    for _ in range(MAX_LAYERS):
        if not is_bound(secret):
            return secret
        secret = _open_layer(_parse(secret), registry)
    if is_bound(secret):
        raise CannotUnbind(f"the passphrase has more than {MAX_LAYERS} layers", "bind it anew")
    return secret


def _open_layer(alternatives: Sequence[_BoundValue], registry: Registry) -> Secret:
    reasons = []
    for bound in alternatives:
        try:
            method = registry.get(bound.method)
            if method is not None:
                return method.unbind(bound.value, bound.arguments)
            reasons.append(f"{bound.method} is not in [binding] enabled")
        except (KeystoreError, ConfigurationError) as error:
            tell(_log, KeystoreLog.UNBIND_FAILED, method=bound.method, why=str(error))
            reasons.append(f"{bound.method}: {error}")
    tried = ", ".join(f"method: {b.method}, args: {dict(b.arguments)}" for b in alternatives)
    # Scripts match this line.
    tell(_log, KeystoreLog.UNBIND_IMPOSSIBLE, tried=tried)
    raise CannotUnbind(f"none of the bindings of the passphrase opens here ({'; '.join(reasons)})")


def _parse(secret: Secret) -> list[_BoundValue]:
    text = secret.reveal()
    if len(text) > MAX_BOUND:
        raise CannotUnbind(f"the bound passphrase has more than {MAX_BOUND} bytes", "bind it anew")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        # The error of json would quote the text.
        raise CannotUnbind(
            "the passphrase looks like a bound one, but is not JSON", "bind it anew"
        ) from None
    alternatives = found if isinstance(found, list) else [found]
    if not 0 < len(alternatives) <= MAX_ALTERNATIVES:
        raise CannotUnbind("the bound passphrase has no alternative, or too many", "bind it anew")
    return [_parse_alternative(alternative) for alternative in alternatives]


def _parse_alternative(found: object) -> _BoundValue:
    if isinstance(found, dict) and len(found) <= MAX_ARGUMENTS + 2:
        arguments = dict(found)
        method, value = arguments.pop("method", None), arguments.pop("value", None)
        if (
            isinstance(method, str)
            and method.isidentifier()
            and isinstance(value, str)
            and all(_is_text(text) for text in (value, *arguments.values()))
        ):
            return _BoundValue(method, arguments, value)
    raise CannotUnbind(
        'an alternative of the bound passphrase is not {"method": …, "value": …}', "bind it anew"
    )


def _is_text(found: object) -> bool:
    """True if this is a string of whole characters: JSON can also spell halves of them."""
    if not isinstance(found, str):
        return False
    try:
        found.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
