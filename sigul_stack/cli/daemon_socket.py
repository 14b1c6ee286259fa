"""The status socket of the bridge or server that runs here, found by its configuration."""

from __future__ import annotations

from pathlib import Path

from ..config import load_bridge, load_server
from ..errors import ConfigurationError, SigulError
from ..transport.status_socket import sockets_of
from .shared_arguments import Argument, config_file

#: A daemon answers at once or not at all, in seconds.
ANSWER_SECONDS = 5.0

CONFIGURATION: Argument = config_file(
    "configuration file of the bridge or the server that runs here", required=True
)


def daemon_socket(file: Path) -> tuple[str, Path]:
    """`bridge` or `server`, whose configuration `file` is, and its status socket.

    Raises `ConfigurationError`.
    """
    # Imported here: only these commands and doctor guess.
    from ..health.configuration_checks import guess_component

    component = guess_component(file)
    if component not in ("bridge", "server"):
        raise ConfigurationError(f"'{file}' is not the configuration of a bridge or server")
    return component, socket_of(component, file)


def socket_of(component: str, file: Path) -> Path:
    """The status socket of the `bridge` or `server` whose configuration `file` is.

    Raises `ConfigurationError`.
    """
    load = load_bridge if component == "bridge" else load_server
    path: Path | None = load(file).settings.status_socket
    if path is None:
        raise ConfigurationError(
            "the daemon has no status socket",
            "set status-socket in [daemon], for example /run/sigul/status.sock, and start it again",
        )
    return path


def sockets_there(path: Path) -> list[Path]:
    """The sockets of all processes of the daemon whose status socket is `path`.

    Raises `SigulError`.
    """
    try:
        return sockets_of(path)
    except OSError as error:
        raise SigulError(
            f"'{path.parent}' cannot be read: {error.strerror}", "use the daemon's user, or root"
        ) from None
