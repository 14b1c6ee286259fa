"""Commands about who may use a key, and with which passphrase."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from ...client.output import write_new_file
from ...errors import DeadlineExceeded, PeerClosed, ProtocolError
from ...keystore.bindings import BindingPolicy, bind, enabled_methods, parse_layer
from ...secret import Secret
from .execution import Invocation
from .printing import print_lines

log = logging.getLogger(__name__)


def list_key_users(call: Invocation) -> None:
    """`sigul list-key-users KEY`: names, one a line."""
    print_lines(call.client.list_key_users(call.arguments.key, **call.secrets))


def revoke_key_access(call: Invocation) -> None:
    """`sigul revoke-key-access KEY USER`."""
    call.client.revoke_key_access(call.arguments.key, call.arguments.user, **call.secrets)


def grant_key_access(call: Invocation) -> None:
    """`sigul grant-key-access KEY USER`."""
    with _new_passphrase(call) as new_passphrase:
        call.client.grant_key_access(
            call.arguments.key,
            call.arguments.user,
            call.secrets["passphrase"],
            new_passphrase,
            server_binding=call.arguments.server_binding_method,
            client_binding=call.arguments.client_binding_method,
        )


def change_passphrase(call: Invocation) -> None:
    """`sigul change-passphrase KEY`."""
    with _new_passphrase(call) as new_passphrase:
        call.client.change_passphrase(
            call.arguments.key,
            call.secrets["passphrase"],
            new_passphrase,
            server_binding=call.arguments.server_binding_method,
            client_binding=call.arguments.client_binding_method,
        )


@contextlib.contextmanager
def _new_passphrase(call: Invocation) -> Iterator[Secret]:
    """The new passphrase: typed, or random and written, bound, to a new file.

    The file is on disk before the server learns the passphrase, so that it cannot get lost, and
    goes away again where the server certainly did not take it.
    """
    path = call.arguments.write_passphrase_file
    if path is None:
        yield call.secrets["new_passphrase"]
        return
    binding = call.settings.binding
    policy = BindingPolicy.parse(binding.forced, binding.forced_first, binding.default)
    layers = policy.layers([parse_layer(text) for text in call.arguments.client_binding_method])
    passphrase = Secret.random(call.settings.passphrase_length)
    registry = enabled_methods(binding.enabled, binding.parameters, binding.secrets)
    write_new_file(path, bind(passphrase, layers, registry).reveal())
    try:
        yield passphrase
    except (PeerClosed, DeadlineExceeded, ProtocolError):
        log.warning(
            "'%s' is kept: whether the server took its passphrase is not known; try it, and remove"
            " the file if it does not work",
            path,
        )
        raise
    except BaseException:
        path.unlink(missing_ok=True)
        raise
