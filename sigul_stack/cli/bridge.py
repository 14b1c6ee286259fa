"""`sigul_bridge`: the bridge's program."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

from ..bridge.service import Bridge
from ..config import load_bridge
from ..config.identity import drop_privileges, identity
from ..errors import SigulError
from ..protocol.status import encode_status
from ..transport import nss
from ..transport.status import status_socket
from .daemon import Control
from .options import daemon_parser, run_daemon
from .secret_input import SecretReader, with_nss_password


def main(argv: Sequence[str] | None = None) -> int:
    """Run the bridge; returns its exit code."""
    parser = daemon_parser(
        "sigul_bridge", "Connects Sigul clients with signing servers.", "bridge.conf"
    )
    options = parser.parse_args(argv)
    try:
        loaded = load_bridge(options.config_file)
        # Asked before the daemon may leave its terminal, used once it has.
        settings = dataclasses.replace(
            loaded.settings,
            nss=with_nss_password(loaded.settings.nss, SecretReader(batch=False)),
        )
        who = identity(settings.unix_user, settings.unix_group)
    except SigulError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1

    def work(control: Control) -> None:
        nss.open_database(settings.nss)
        bridge = Bridge(settings)
        bridge.open()
        drop_privileges(who)
        with status_socket(
            settings.status_socket, lambda: encode_status(bridge.status())
        ) as status:
            if status is not None:
                status.serve()
            control.ready()
            bridge.run(control.stop)

    return run_daemon("sigul_bridge", options, loaded, work)


if __name__ == "__main__":
    sys.exit(main())
