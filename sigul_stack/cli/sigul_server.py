"""`sigul_server`: the signing server's program."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, NoReturn

from ..config import load_server
from ..config.identity import Identity, drop_privileges, drop_privileges_unless_roots, identity
from ..config.server import ServerSettings
from ..evidence.writer import LogChannel, write_log
from ..logevents import tell
from ..observe.exposition import Samples, text
from ..observe.text_file import write_text_file
from ..protocol.status import encode_ended, encode_status
from ..server.capacity import Capacity
from ..server.events import WorkerEvent, encode_logged
from ..server.guesses import GuessTable
from ..server.services import open_database
from ..server.slots import USUAL_SLOTS, Slots
from ..server.startup import check, prepare, repair, shut_down
from ..server.supervisor import ServerPlan, Supervisor
from ..server.worker import Shared, Worker
from ..system.files import opened
from ..system.memory import lock_memory
from ..system.open_files import CURE, USUAL, raise_limit
from ..system.pipes import ParentPipes
from ..system.processes import run_in_child
from ..system.turns import Turns
from ..transport import nss
from ..transport.nss_certificates import Look
from ..transport.status_socket import status_socket
from .daemon import Control
from .daemon_start import DaemonConfiguration, run_daemon
from .hardening import harden_process
from .log_events import ProgramLog
from .outcome import run_program

log = logging.getLogger(__name__)

#: Open files of the supervisor for each worker: its ends of pipes, and its end as a descriptor.
_FILES_OF_A_WORKER: Final = 4


def main(argv: Sequence[str] | None = None) -> int:
    """Run the signing server; returns its exit code."""
    harden_process()
    return run_daemon(
        "sigul_server",
        "Holds signing keys and serves the requests that a bridge passes on.",
        "server.conf",
        load_server,
        _work,
        argv,
    )


def _work(source: DaemonConfiguration[ServerSettings], control: Control) -> None:
    settings = source.settings
    capacity = Capacity.of(settings)
    processes = 2 * (capacity.workers + capacity.max_requests)
    wanted = USUAL + _FILES_OF_A_WORKER * processes
    if (limit := raise_limit(wanted)) < wanted:
        tell(log, ProgramLog.FILES_LIMITED, limit=limit, wanted=wanted, cure=CURE)
    _make_stores(settings, source.identity)
    run_in_child(partial(_run_with_nss, prepare, settings), "checking the server's data")
    # All workers of a former configuration may be there beside those of the next one.
    count = max(USUAL_SLOTS, processes)
    channel = LogChannel()
    shared = Shared(Slots(count, Turns()), GuessTable(), channel)
    try:
        supervisor = Supervisor(
            _plan(settings, shared, source.digests),
            lambda: _plan(source.read_again(), shared, source.digests),
            stop=control.stop,
            reload=control.reload,
            slots=shared.slots,
            channel=channel,
        )
        with status_socket(
            settings.status_socket,
            lambda: encode_status(supervisor.status()),
            source.identity,
            commands={
                "end": lambda name: encode_ended(supervisor.end(name)),
                "metrics": lambda _argument: supervisor.metrics(),
            },
        ) as status:
            control.ready()
            supervisor.run(status)
    finally:
        run_in_child(partial(_run_as_user, shut_down, settings), "ending the server's helpers")


def _make_stores(settings: ServerSettings, who: Identity | None) -> None:
    """Make the key stores and the signing log's directory, as root for the configured user.

    Only in a directory of root's, where that user could not: in others he makes them himself, and
    may have put in their places what root is not to follow.
    """
    if who is None or os.geteuid():
        return
    for store in (settings.gnupg_home, settings.keys_storage, settings.signing_log_directory):
        with contextlib.suppress(OSError), opened(store.parent, os.O_DIRECTORY) as parent:
            found = os.fstat(parent)
            if found.st_uid or stat.S_IMODE(found.st_mode) & 0o022:
                continue
            os.mkdir(store.name, 0o700, dir_fd=parent)
            os.chown(store.name, who.uid, who.gid, dir_fd=parent, follow_symlinks=False)
            tell(log, ProgramLog.STORE_MADE, path=str(store), user_id=who.uid)


def _plan(settings: ServerSettings, shared: Shared, loaded: Mapping[str, str]) -> ServerPlan:
    identity(settings.unix_user, settings.unix_group)  # a name that is wrong is told now
    # Driver and statements are loaded here: each worker would spend a third of its time on that.
    # Nothing is connected before a worker asks.
    database = open_database(settings)
    database.compile_for_requests()

    def serve(parent: ParentPipes) -> None:
        certificate = _become_with_nss(settings)
        Worker(settings, parent, shared).run(certificate, database)

    def log_writer(parent: ParentPipes) -> None:
        assert shared.channel is not None  # noqa: S101 - a server has one
        _become(settings)
        write_log(
            shared.channel.receiver,
            settings.signing_log_directory,
            lambda size, when: parent.send(WorkerEvent.LOGGED, encode_logged(size, when)),
        )

    def write_metrics(samples: Samples) -> None:
        assert settings.metrics_file is not None  # noqa: S101 - else nobody calls it
        drop_privileges(identity(settings.unix_user, settings.unix_group))
        write_text_file(settings.metrics_file, samples)

    if settings.metrics_file is not None:
        text(Samples())  # loads what that takes here, once, and not in each child

    def look(certificates: Look, tell: Callable[[bytes], None]) -> None:
        _become_with_nss(settings)
        certificates.run(tell)

    capacity = Capacity.of(settings)
    return ServerPlan(
        serve,
        check=partial(_run_with_nss, check, settings),
        repair=partial(_run_as_user, repair, settings),
        look=look,
        write_log=log_writer,
        workers=capacity.workers,
        max_requests=capacity.max_requests,
        shutdown_timeout=settings.shutdown_timeout,
        loaded=loaded,
        write_metrics=None if settings.metrics_file is None else write_metrics,
        metrics_names=settings.metrics_names,
        spool_limit=settings.max_spool_size,
    )


def _run_with_nss(work: Callable[[ServerSettings], None], settings: ServerSettings) -> None:
    _become_with_nss(settings, tell=True)
    work(settings)


def _run_as_user(work: Callable[[ServerSettings], None], settings: ServerSettings) -> None:
    _become(settings)
    work(settings)


def _become_with_nss(settings: ServerSettings, *, tell: bool = False) -> nss.TLSIdentity:
    """Open NSS, while root where only root can change its database, and drop privileges.

    `tell`: have the log say what is odd about the certificate; workers need not, each anew.
    """
    who = identity(settings.unix_user, settings.unix_group)
    drop_privileges_unless_roots(who, settings.nss.path)
    nss.open_database(settings.nss)
    certificate = nss.load_identity(settings.server_cert_nickname, tell=tell)
    _become(settings)
    return certificate


def _become(settings: ServerSettings) -> None:
    """Drop privileges, and lock this process's memory.

    Programs that are started then find a home of that user, too.
    """
    drop_privileges(identity(settings.unix_user, settings.unix_group))
    lock_memory(changes_user=False)
    os.environ["HOME"] = str(settings.gnupg_home)


def program() -> NoReturn:
    """The installed program: `main`, whatever its standard streams are."""
    sys.exit(run_program(main))


if __name__ == "__main__":
    program()
