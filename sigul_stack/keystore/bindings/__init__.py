"""Bindings: a passphrase tied to something besides a person's knowledge, as a token or a TPM.

A bound passphrase is JSON, `[{"method": M, "value": V, …arguments}, …]`: one layer of
alternatives, any of which opens to what was bound, which may be such JSON again (the next layer
in). A single object stands for a list of one. Text that starts with neither `{` nor `[` is the
passphrase itself. docs/storage.md, "Bound passphrases", has the limits, and each method's values.

* `layers`: the lists of methods that configuration, command line and requests name.
* `value`: binding and unbinding a passphrase with such layers.
* `methods`: what a method offers, the methods there are, and those enabled here; then one file a
  method, and `running` their programs.

The client uses this package: it must import fast, and nothing of a method before it is used.
"""

from __future__ import annotations

from .layers import BindingPolicy, Layer, MethodUse, dump_layers, load_layers, parse_layer
from .methods import (
    BindingMethod,
    CannotBind,
    CannotUnbind,
    MethodFailed,
    Registry,
    enabled_methods,
)
from .value import bind, is_bound, unbind

__all__ = [
    "BindingMethod",
    "BindingPolicy",
    "CannotBind",
    "CannotUnbind",
    "Layer",
    "MethodFailed",
    "MethodUse",
    "Registry",
    "bind",
    "dump_layers",
    "enabled_methods",
    "is_bound",
    "load_layers",
    "parse_layer",
    "unbind",
]
