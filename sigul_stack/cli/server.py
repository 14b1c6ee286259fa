"""`sigul_server`: the signing server's program."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence

from ..config import ServerSettings, load_server
from ..config.identity import Identity, drop_privileges, identity
from ..errors import SigulError
from ..protocol.status import encode_status
from ..server.children import run_in_child
from ..server.news import Reporter
from ..server.startup import prepare, repair, shut_down
from ..server.supervisor import Supervisor
from ..server.worker import Worker
from ..transport import nss
from ..transport.status import status_socket
from .daemon import Control
from .options import daemon_parser, run_daemon
from .secret_input import SecretReader, with_nss_password


def main(argv: Sequence[str] | None = None) -> int:
    """Run the signing server; returns its exit code."""
    parser = daemon_parser(
        "sigul_server",
        "Holds signing keys and serves the requests that a bridge passes on.",
        "server.conf",
    )
    options = parser.parse_args(argv)
    try:
        loaded = load_server(options.config_file)
        # Asked before the daemon may leave its terminal; workers could not ask for it.
        settings = dataclasses.replace(
            loaded.settings,
            nss=with_nss_password(loaded.settings.nss, SecretReader(batch=False)),
        )
        who = identity(settings.unix_user, settings.unix_group)
    except SigulError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return run_daemon(
        "sigul_server", options, loaded, lambda control: _work(settings, who, control)
    )


def _work(settings: ServerSettings, who: Identity | None, control: Control) -> None:
    def become() -> None:
        """Drop privileges; programs that are started then find a home of that user, too."""
        drop_privileges(who)
        os.environ["HOME"] = str(settings.gnupg_home)

    def check() -> None:
        nss.open_database(settings.nss)
        nss.load_identity(settings.server_cert_nickname)
        become()
        prepare(settings)

    def serve(lifeline: int, reporter: Reporter) -> None:
        nss.open_database(settings.nss)
        certificate = nss.load_identity(settings.server_cert_nickname)
        become()
        Worker(settings, lifeline=lifeline, reporter=reporter).run(certificate)

    def mend() -> None:
        become()
        repair(settings)

    def clean_up() -> None:
        become()
        shut_down(settings)

    run_in_child(check, "checking the server's data")
    try:
        supervisor = Supervisor(
            serve,
            repair=mend,
            workers=settings.workers,
            max_requests=settings.max_requests,
            shutdown_timeout=settings.shutdown_timeout,
        )
        with status_socket(
            settings.status_socket, lambda: encode_status(supervisor.status()), who
        ) as status:
            control.ready()
            supervisor.run(control.stop, status)
    finally:
        run_in_child(clean_up, "ending the server's helpers")


if __name__ == "__main__":
    sys.exit(main())
