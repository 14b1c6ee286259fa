"""Work of a server before its first worker and after its last one, in a child of its own.

Before: whatever can be wrong with database, key store or settings is found and told at start, not
by the first request. After: helpers that GnuPG left running are ended.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ..config.server import ServerSettings
from ..database import DATABASE_TLS_CURE, ensure_usable, schema_report
from ..errors import SigulError, quoted
from ..evidence import signing_log
from ..evidence.log_files import LogInUse
from ..logevents import tell
from ..signing.osslsigncode import remove_leftovers
from ..system.wall import support
from ..tools import tools_of
from .keychanges import recover
from .log_events import ServerLog
from .services import (
    Services,
    database_url,
    make_keystore,
    make_services,
    open_database,
    signature_options,
    unproven_database,
)

log = logging.getLogger(__name__)

#: Seconds for the processes of a server that was killed to let go of the signing log.
FORMER_SECONDS: Final = 10.0


@contextlib.contextmanager
def _services(settings: ServerSettings) -> Iterator[Services]:
    with contextlib.closing(open_database(settings)) as database:
        yield make_services(settings, database)


def prepare(settings: ServerSettings) -> None:
    """Check and complete the server's data. Raises `SigulError` saying what is wrong with it."""
    for tool in tools_of("server", settings.binding.enabled):
        if tool.find() is None:
            # Asked for, those operations fail with the same words.
            tell(log, ServerLog.TOOL_MISSING, problem=str(tool.missing()), lost=tool.unavailable)
    for lack, cure in support().lacks():
        tell(log, ServerLog.FEATURE_MISSING, problem=lack, cure=cure)
    url = database_url(settings)
    if (problem := unproven_database(url)) is not None:
        tell(log, ServerLog.DATABASE_UNPROVEN, problem=problem, cure=DATABASE_TLS_CURE)
    result = ensure_usable(url, clock=lambda: datetime.now(UTC))
    if result.backup is not None:
        tell(log, ServerLog.DATABASE_MIGRATED, backup=str(result.backup))
    for oddity in schema_report(url).findings:
        tell(log, ServerLog.DATABASE_ODDITY, problem=oddity.problem, cure=oddity.cure)
    with _services(settings) as services:
        services.registry.check()
        services.keystore.prepare()
        for option in signature_options(settings).unfollowed:
            tell(log, ServerLog.OPTION_NOT_FOLLOWED, path=str(settings.gnupg_home), option=option)
        repair(settings)
        with services.database.read() as reader:
            keys = reader.keys()
        store = services.keystore
        for finding in (
            *store.check_consistency(keys),
            *store.odd_rows(keys),
            *store.weak_keys(keys),
        ):
            tell(log, ServerLog.STORE_FINDING, why=finding.text)
        tell(log, ServerLog.DATABASE_HAS_KEYS, count=len(keys))
    _prepare_log(settings)


def _prepare_log(settings: ServerSettings) -> None:
    """Make the signing log where there is none, and see that it is whole. Raises `SigulError`."""
    directory = settings.signing_log_directory
    try:
        vacant = signing_log.is_vacant(directory)
    except OSError as error:
        raise SigulError(
            f"the signing log {quoted(str(directory))} cannot be read: {error.strerror}",
            "see that it belongs to the server's user",
        ) from None
    if vacant:
        signing_log.create(directory, settings.signing_log_name or socket.gethostname())
        tell(log, ServerLog.SIGNING_LOG_MADE, path=str(directory))
    with _opened_log(directory) as opened:
        tell(log, ServerLog.SIGNING_LOG_OPENED, origin=opened.public_key.name, leaves=opened.size)


def _opened_log(directory: Path) -> signing_log.SigningLog:
    """Open the signing log, once a server that was killed has let go of it. Raises `SigulError`.

    Its writer ends behind its last worker.
    """
    end = time.monotonic() + FORMER_SECONDS
    while True:
        try:
            return signing_log.SigningLog.open(directory)
        except LogInUse:
            if time.monotonic() > end:
                raise
        time.sleep(0.1)


def check(settings: ServerSettings) -> None:
    """Check that workers could serve with `settings`; changes nothing, for others serve already.

    Raises `SigulError`.
    """
    with _services(settings) as services:
        services.registry.check()
        with services.database.read() as reader:
            reader.keys()


def repair(settings: ServerSettings) -> None:
    """Finish or take back what a worker's crash cut off."""
    remove_leftovers(settings.spool_directory)
    with _services(settings) as services:
        recover(settings.gnupg_home, services.keystore, services.database)


def shut_down(settings: ServerSettings) -> None:
    """End GnuPG's agent, which outlives the workers that it served."""
    make_keystore(settings).gnupg.stop_agent()
