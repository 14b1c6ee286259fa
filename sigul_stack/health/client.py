"""Whether a client reaches its bridge, and with a secret, whether it reaches the server and may."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from ..client import Client
from ..config.client import ClientSettings
from ..errors import RequestRefused, Status
from ..secret import Secret
from ..transport.stream import Deadline
from . import probes
from .common import Own, shake_hands, told_handshake
from .layers import Layer, Step, failed, ok
from .limits import Limits
from .report import Check


@dataclass(frozen=True, slots=True)
class Deep:
    """A harmless request through both layers.

    `list-users` with an administrator's password; with a `key`, that key's public part with the
    user's passphrase. `read_secret` is called when it is needed, and may raise `SigulError`.
    """

    read_secret: Callable[[], Secret]
    key: str | None = None


def client_steps(
    settings: ClientSettings, limits: Limits, deep: Deep | None = None
) -> tuple[Step, ...]:
    """What to look at, where the client's commands would run."""
    own = Own(settings.nss, settings.client_cert_nickname, limits)
    deadline = Deadline(limits.timeout_seconds, "looking from the client")
    needed = (Layer.DATABASE, Layer.RESOLUTION)
    steps = (
        *own.steps(),
        Step(Layer.RESOLUTION, partial(_name, settings)),
        Step(Layer.OUTER, partial(_bridge, settings, own, deadline), needed),
    )
    if deep is None:
        return steps
    request = partial(_request, settings, deep, deadline)
    return (*steps, Step(Layer.INNER, request, (Layer.OUTER,)))


def _name(settings: ClientSettings) -> Iterator[Check]:
    host = settings.bridge_address or settings.bridge_hostname
    yield ok(Layer.RESOLUTION, f"'{host}' is {', '.join(probes.resolve(host))}")


def _bridge(settings: ClientSettings, own: Own, deadline: Deadline) -> Iterator[Check]:
    host = settings.bridge_address or settings.bridge_hostname
    done = shake_hands(own, host, settings.bridge_port, settings.bridge_hostname, deadline)
    yield told_handshake(own.limits, done)


def _request(settings: ClientSettings, deep: Deep, deadline: Deadline) -> Iterator[Check]:
    secret = deep.read_secret()
    left = deadline.remaining()
    client = Client(
        dataclasses.replace(
            settings, connect_timeout=left, handshake_timeout=left, reply_timeout=left
        )
    )
    begin = time.monotonic()
    refusal: RequestRefused | None = None
    try:
        if deep.key is None:
            what = f"list-users: {len(client.list_users(secret))} users"
        else:
            size = len(client.get_public_key(deep.key, passphrase=secret))
            what = f"get-public-key {deep.key}: {size} bytes"
    except RequestRefused as error:
        refusal = error
    seconds = time.monotonic() - begin
    # A refusal is a server's word, so the layers below are sound.
    yield ok(
        Layer.INNER,
        f"the server '{settings.server_hostname}' answered through both layers in {seconds:.3f} s",
        request_seconds=round(seconds, 6),
    )
    yield ok(Layer.RIGHTS, what) if refusal is None else _refused(refusal, settings, deep)


def _refused(error: RequestRefused, settings: ClientSettings, deep: Deep) -> Check:
    finding = f"the server refused the request of '{settings.user_name}': {error}"
    if error.status != Status.AUTHENTICATION_FAILED:
        return failed(Layer.RIGHTS, finding, "the server's log names the reason")
    wanted = (
        "an administrator, and the password be theirs"
        if deep.key is None
        else f"a user of the key '{deep.key}', and the passphrase be theirs"
    )
    return failed(
        Layer.RIGHTS,
        finding,
        f"'{settings.user_name}' has to be {wanted}; the server's log names the reason",
    )
