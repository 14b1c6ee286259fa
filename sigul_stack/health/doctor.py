"""`sigul-stack doctor`: walks the layers of a component and names the first that fails.

The order is that of fault 10: what a layer rests on comes before it. Nothing is changed. NSS is
opened in this process, once: one component can be looked at in it, and it must not fork afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..config.bridge import BridgeSettings
from ..config.client import ClientSettings
from ..config.options import Loaded
from ..config.server import ServerSettings
from ..errors import SigulError
from ..pki.leaf import Role
from ..secret import Secret
from ..tools import GPG, GPG_AGENT, GPGCONF, Tool, tools_of
from ..transport.stream import Deadline
from .bridge import attached_servers
from .checks_bridge import BridgeOwnLook
from .checks_configuration import load, look_at_files, look_for_open_secrets
from .checks_network import BridgeLook
from .checks_nss import NSSLook
from .checks_request import ReadSecret, RequestLook, look_at_user
from .checks_server import ServerOwnLook
from .layers import Layer, Step, failed, from_text, ok, walk, warning
from .limits import Limits
from .report import Check, Report, State
from .server import attached_workers

#: How long one look at the network may take, in seconds.
LIMIT_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a person asks of the doctor besides the component and its file.

    `names` are what peers call the component. `ask_nss_password` serves where the configuration
    has none. `read_secret` gives the user's password, or the passphrase of `key`; without it rights
    are not looked at. `seconds` limits each look at the network, which `network` False leaves out.
    """

    user_name: str | None = None
    names: tuple[str, ...] = ()
    ask_nss_password: Callable[[], Secret] | None = None
    read_secret: ReadSecret | None = None
    key: str | None = None
    seconds: float = LIMIT_SECONDS
    network: bool = True


def examine(component: str, path: Path | None, wishes: Wishes | None = None) -> Report:
    """Look at `client`, `bridge` or `server` as the file `path` configures it."""
    wishes = wishes or Wishes()
    try:
        loaded = load(component, path, wishes.user_name)
    except SigulError as error:
        check = from_text(Layer.CONFIGURATION, State.FAILED, str(error))
        # What comes after it, in order, without settings to look with.
        rest = [Step(layer, _nothing, (Layer.CONFIGURATION,)) for layer in _AFTER[component]]
        return walk(component, [Step(Layer.CONFIGURATION, lambda: [check]), *rest])
    if isinstance(loaded.settings, ClientSettings):
        steps = _client(loaded.settings, loaded, wishes)
    elif isinstance(loaded.settings, BridgeSettings):
        steps = _bridge(loaded.settings, loaded, wishes)
    else:
        steps = _server(loaded.settings, loaded, wishes)
    first = Step(Layer.CONFIGURATION, lambda: look_at_files(loaded, component))
    return walk(component, [first, *steps])


_NSS_LAYERS: Final = (Layer.DATABASE, Layer.PASSWORD, Layer.CERTIFICATE, Layer.KEY)
_WAY: Final = (Layer.RESOLUTION, Layer.TCP, Layer.OUTER)
_AFTER: Final = {
    "client": (*_NSS_LAYERS, *_WAY, Layer.INNER),
    "bridge": (*_NSS_LAYERS, Layer.ROLES, Layer.PORTS),
    "server": (*_NSS_LAYERS, Layer.SERVER_DATABASE, Layer.KEY_STORE, *_WAY),
}


def _nothing() -> Iterator[Check]:
    return iter(())


def _client(settings: ClientSettings, loaded: Loaded[ClientSettings], wishes: Wishes) -> list[Step]:
    look = NSSLook(
        Role.CLIENT,
        settings.nss,
        settings.client_cert_nickname,
        loaded.files,
        wishes.names,
        wishes.ask_nss_password,
    )
    bridge = BridgeLook(
        settings.bridge_hostname,
        settings.bridge_address,
        settings.bridge_port,
        look,
        wishes.seconds,
        shows_certificate=True,
        server_name=settings.server_hostname,
    )
    requests = RequestLook(settings, look, wishes.seconds, wishes.read_secret, wishes.key)
    own = Step(Layer.CERTIFICATE, lambda: look_at_user(settings, look), (Layer.CERTIFICATE,))
    return [
        _tools("client", settings.binding.enabled),
        *_with(look.steps(), own),
        *(bridge.steps() if wishes.network else ()),
        *(requests.steps() if wishes.network else ()),
        _secrets(loaded, "client", look),
    ]


def _bridge(settings: BridgeSettings, loaded: Loaded[BridgeSettings], wishes: Wishes) -> list[Step]:
    look = NSSLook(
        Role.BRIDGE,
        settings.nss,
        settings.bridge_cert_nickname,
        loaded.files,
        wishes.names,
        wishes.ask_nss_password,
    )
    own = BridgeOwnLook(settings, look, wishes.seconds)

    def running() -> Iterator[Check]:
        return attached_servers(settings, Deadline(wishes.seconds, "reading the status"), failed)

    return [
        _tools("bridge", ()),
        *look.steps(),
        *(step for step in own.steps() if wishes.network or step.layer is not Layer.PORTS),
        *_status(settings.status_socket, running),
        _secrets(loaded, "bridge", look),
    ]


def _server(settings: ServerSettings, loaded: Loaded[ServerSettings], wishes: Wishes) -> list[Step]:
    look = NSSLook(
        Role.SERVER,
        settings.nss,
        settings.server_cert_nickname,
        loaded.files,
        wishes.names,
        wishes.ask_nss_password,
    )
    bridge = BridgeLook(
        settings.bridge_hostname,
        settings.bridge_address,
        settings.bridge_port,
        look,
        wishes.seconds,
        shows_certificate=False,
    )

    def running() -> Iterator[Check]:
        deadline = Deadline(wishes.seconds, "reading the status")
        return attached_workers(settings, Limits(), deadline)

    return [
        _tools("server", settings.binding.enabled),
        *look.steps(),
        *ServerOwnLook(settings).steps(),
        *(bridge.steps() if wishes.network else ()),
        *_status(settings.status_socket, running),
        _secrets(loaded, "server", look),
    ]


def _status(path: Path | None, look: Callable[[], Iterator[Check]]) -> tuple[Step, ...]:
    """The status of a daemon that tells it, and what that says about its peers."""
    return () if path is None else (Step(Layer.STATUS, look, (Layer.CONFIGURATION,)),)


def _with(steps: tuple[Step, ...], own: Step) -> Iterator[Step]:
    """`steps`, and `own` behind the one of its layer."""
    for step in steps:
        yield step
        if step.layer is own.layer:
            yield own


def _tools(component: str, bindings: tuple[str, ...]) -> Step:
    return Step(Layer.TOOLS, lambda: map(_look_at_tool, tools_of(component, bindings)))


def _look_at_tool(tool: Tool) -> Check:
    path, uses = tool.find(), ", ".join(tool.needed_for)
    if path is not None:
        version = tool.version()
        return ok(
            Layer.TOOLS,
            " ".join(filter(None, (tool.name, version, f"({path}) for {uses}"))),
            **{"tool": tool.name, "path": str(path), "version": version, "package": tool.package},
        )
    missing = f"{tool.name} is missing; until it is there, not available: {uses}"
    cure = f"install the package {tool.package}"
    # A server does not start without GnuPG; of the others each costs its own operations.
    judge = failed if tool in (GPG, GPGCONF, GPG_AGENT) else warning
    return judge(Layer.TOOLS, missing, cure, tool=tool.name, package=tool.package)


def _secrets(loaded: Loaded[Any], component: str, look: NSSLook) -> Step:
    def found() -> Iterator[Check]:
        yield from look_for_open_secrets(loaded, component)
        yield from look.secrets()

    return Step(Layer.SECRETS, found)
