"""One worker process: dials the bridge, waits for a request, serves it, ends.

Invariant: at most one request, so that no secret outlives it. Whatever happens to the supervisor,
an idle worker ends with it: the control pipe does, too.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import select
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from ..config.server import ServerSettings
from ..database import Database
from ..errors import (
    ProtocolError,
    RequestRefused,
    SigulError,
    Status,
    TransportError,
    quoted,
)
from ..evidence.writer import LogChannel, LogClient
from ..logcontext import LogContext, work_for
from ..logevents import tell
from ..metrics import ServerCount, requests_of_version
from ..protocol.knowledge import KNOWS, LOG, SERVER_WORDS, encode_words
from ..protocol.messages import UnknownVersion
from ..protocol.operations import BRIDGE_OPERATIONS
from ..system.pipes import ParentPipes
from ..transport import nss
from ..transport.chunked import ChunkedStream
from ..transport.dialling import dial_bridge
from ..transport.nested import ServingEnd, inner_session
from ..transport.nss_certificates import TOLD_BYTES
from ..transport.watchdog import Watchdog
from .decisions import Decision
from .ending import Watch
from .events import HANDSHAKE_SECONDS, WorkerEvent
from .guesses import Guard, GuessGuard, GuessTable, unguarded
from .handlers import HANDLERS, intake
from .log_events import ServerLog
from .phases import Outcome, Phase, Phases
from .request import (
    Answer,
    InnerReader,
    OpenInner,
    PayloadNotRead,
    Refused,
    receive,
    refusal_of,
    send_answer,
    send_error,
)
from .rights import AccessGranted, authorise
from .services import RequestContext, make_services, spool_limits
from .slots import Slots
from .spool import Account

log = logging.getLogger(__name__)

#: First and longest pause before the bridge is dialled again, in seconds; doubled in between, and
#: spread by a random factor of 0.5 to 1 so that servers do not come all at once.
FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 60.0
#: Limit on the wait for the TLS handshake of a bridge that has accepted the connection, in seconds.
#: Bridges of 1.x begin it only when a client comes; giving up earlier would leave them a dead
#: connection, which costs that client its request.
OLD_BRIDGE_SECONDS: Final = 3600.0
#: The time after which a waiting connection is made anew, in seconds: stateful firewalls
#: forget idle ones, and keep-alive does not pass all of them.
WAITING_SECONDS: Final = 6 * 3600.0
#: How nice a worker is with no, one or two further requests of its client's name beside it, and
#: with more. On a busy machine 0, 10, 15 and 19 are shares of 1, 1/10, 1/28 and 1/68.
NICENESS: Final = (0, 10, 15)
MOST_NICE: Final = 19
#: Seconds for the bridge to close after the reply.
CLOSE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Shared:
    """The memory that all workers of a server share, whichever configuration they serve by."""

    slots: Slots = field(default_factory=lambda: Slots(1))
    guesses: GuessTable = field(default_factory=GuessTable)
    #: The way to the signing log's writer; None: there is no such log.
    channel: LogChannel | None = None


class Worker:
    """The work of one process, from dialling to its end.

    The control pipe of `parent` ends when the supervisor wants idle workers to end, or has itself
    ended. Events go to the supervisor. What is not `shared` with others is this worker's alone.
    """

    def __init__(
        self, settings: ServerSettings, parent: ParentPipes, shared: Shared | None = None
    ) -> None:
        self._settings = settings
        self._parent = parent
        shared = shared or Shared()
        self._account = Account(
            spool_limits(settings), shared.slots, lambda: self._count(ServerCount.SPOOL_REFUSALS)
        )
        self._guard = GuessGuard(shared.guesses, settings.max_secret_delay, self._count)
        self._watchdog = Watchdog()
        self._phases = Phases()
        self._ready: ServingEnd | None = None
        self._log = None if shared.channel is None else shared.channel.client()

    def _count(self, what: ServerCount) -> None:
        self._parent.send(WorkerEvent.COUNTED, what.encode())

    def run(self, identity: nss.TLSIdentity, database: Database) -> None:
        """Serve one request, or none if the control pipe ends first."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                connection = dial_bridge(
                    self._settings,
                    self._settings.nss,
                    identity,
                    patience=OLD_BRIDGE_SECONDS,
                    wake=self._parent.fileno(),
                    watchdog=self._watchdog,
                )
                try:
                    connection.await_verdict()
                except TransportError:
                    connection.discard()
                    raise
            except TransportError as error:
                if self._wait(None, 0):
                    return
                delay = pause * random.uniform(0.5, 1)  # noqa: S311 - not a secret
                tell(log, ServerLog.CONNECT_FAILED, why=str(error), seconds=delay)
                if self._wait(None, delay):
                    return
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                continue
            pause = FIRST_PAUSE_SECONDS
            self._parent.send(
                WorkerEvent.ATTACHED, HANDSHAKE_SECONDS.pack(connection.handshake_seconds)
            )
            tell(log, ServerLog.WAITING_FOR_REQUEST)
            _warm_up(database)
            self._prepare_inner(identity)
            if self._wait(connection, WAITING_SECONDS) and not connection.has_input():
                # Said before any further request is acknowledged, so that the bridge takes another
                # worker for one that comes in this moment.
                connection.end_writing()
                connection.close()
                return
            if not connection.has_input():
                connection.close()
            elif self._serve(connection, identity, database):
                return
            self._parent.send(WorkerEvent.DETACHED)

    def _prepare_inner(self, identity: nss.TLSIdentity) -> None:
        """Have the inner session's end ready, so that reading its key is not the request's time."""
        if self._ready is None:
            # What is wrong with it is told to whose request meets it.
            with contextlib.suppress(SigulError):
                self._ready = ServingEnd(self._settings.nss, identity, self._watchdog)

    def _wait(self, connection: nss.TLSConnection | None, seconds: float) -> bool:
        """Wait for input on `connection` or the time to pass; True if the control pipe ended."""
        poll = select.poll()
        poll.register(self._parent, select.POLLIN)
        if connection is not None:
            if connection.pending():
                return False
            poll.register(connection.fileno(), select.POLLIN)
        return self._parent.fileno() in dict(poll.poll(seconds * 1000))

    def _serve(
        self, connection: nss.TLSConnection, identity: nss.TLSIdentity, database: Database
    ) -> bool:
        """Serve a request; False where the bridge only ended the connection instead."""
        chunked = ChunkedStream(connection, self._settings.idle_timeout)
        # The bridge goes on only when it knows that the request has reached a live machine.
        connection.acknowledge()
        try:
            chunked.receive()
        except SigulError as error:
            tell(log, ServerLog.WAITING_CONNECTION_ENDED, why=str(error))
            connection.discard()
            return False
        self._parent.send(WorkerEvent.BUSY)
        self._account.slots.begin()
        # Of no other worker's, this one's PID being in it, nor of one that had this PID before.
        now = time.time_ns() // 1_000_000 & 0xFFFFFFFF
        work_for(LogContext(f"w{os.getpid()}-{now:08x}"))

        open_inner = partial(self._open_inner, identity=identity)
        try:
            watch = Watch(chunked, self._parent, database)
            try:
                serve_request(
                    chunked,
                    open_inner,
                    self._settings,
                    database,
                    watch,
                    self._account,
                    self._guard.watch,
                    self._count,
                    signing_log=self._log,
                    bridge_name=connection.peer.common_name,
                    phases=self._phases,
                )
            except (UnknownVersion, PayloadNotRead) as error:
                tell(log, ServerLog.INNER_REQUEST_REFUSED, why=str(error))
            finally:
                watch.finish()
                self._parent.send(WorkerEvent.MEASURED, self._phases.encode())
            # Some bridges go on only when the server has ended; none has more to say to it.
            connection.end_writing()
            chunked.wait_for_close(CLOSE_SECONDS)
            connection.close()
        except SigulError as error:
            tell(log, ServerLog.REPLY_INCOMPLETE, why=str(error))
            connection.discard()
        except BaseException:
            # A connection that is only freed sends a close-notify, which looks like an orderly end.
            connection.discard()
            raise
        return True

    @contextlib.contextmanager
    def _open_inner(
        self, chunked: ChunkedStream, *, identity: nss.TLSIdentity
    ) -> Iterator[InnerReader]:
        tell(log, ServerLog.INNER_TLS_ACCEPTING)
        inner = inner_session(
            chunked,
            self._settings.nss,
            identity,
            timeout=self._settings.handshake_timeout,
            server_hostname=None,
            watchdog=self._watchdog,
            ready=self._ready,
        )
        with contextlib.ExitStack() as until_it_ends:
            with self._phases.measured(Phase.INNER_TLS):
                session = until_it_ends.enter_context(inner)
            self._be_nice(session.peer.common_name)
            tell(log, ServerLog.INNER_TLS_ACCEPTED, name=session.peer.common_name)
            self._parent.send_parts(WorkerEvent.CERTIFICATE, session.peer.certificate[:TOLD_BYTES])
            yield session

    def _be_nice(self, client_name: str) -> None:
        """Leave the processors to other clients, as far as this one has requests here already.

        Programs that are started inherit that. Nobody has to wait where a processor is free.
        """
        slots = self._account.slots
        slots.set_name(client_name)
        others = slots.others_of_name
        os.nice(NICENESS[others] if others < len(NICENESS) else MOST_NICE)


def _warm_up(database: Database) -> None:
    """Have the first queries ready, so that the time for that is not the request's."""
    try:
        with database.read() as reader:
            reader.user("")
            reader.access("", "")
    except SigulError as error:
        tell(log, ServerLog.REQUEST_BROKEN, why=str(error))


def serve_request(
    chunked: ChunkedStream,
    open_inner: OpenInner,
    settings: ServerSettings,
    database: Database,
    watch: Watch,
    account: Account | None = None,
    guard: Guard = unguarded,
    count: Callable[[ServerCount], None] = lambda _what: None,
    *,
    signing_log: LogClient | None = None,
    bridge_name: str | None = None,
    phases: Phases | None = None,
) -> None:
    """Receive, authorise, handle and answer one request. Raises where it cannot be answered.

    What it has in the spool counts in `account`. What is decided is in `signing_log`, where there
    is one, before anything of the answer leaves. `bridge_name` is as for `receive`. How long it
    takes, and what becomes of it, is noted in `phases`.
    """
    account = account or Account(spool_limits(settings))
    phases = phases or Phases()
    decision = Decision(signing_log)
    try:
        with phases.measured(Phase.RECEIVE):
            received = receive(
                chunked, open_inner, settings, account, decision, bridge_name, intake(settings)
            )
    except ProtocolError as error:
        phases.outcome = Outcome.REFUSED
        decision.invalid(error)
        raise
    phases.op, phases.version = received.op, received.version.number
    count(requests_of_version(ServerCount, received.version.number))
    proven = False
    try:
        if isinstance(received, Refused):
            raise received.reason
        watch.begin(received, decision)
        if received.op in BRIDGE_OPERATIONS:
            proven = True
            answer = _tell_checkpoint(decision)
            watch.begin_reply()
        else:
            services = make_services(settings, database, account, guard)
            with phases.measured(Phase.UNLOCK):
                granted = authorise(
                    received,
                    database,
                    services.registry,
                    services.name_check,
                    guard,
                    with_accesses=settings.require_subject_key_access,
                )
            if isinstance(granted, AccessGranted):
                decision.key(granted.key)
            proven = phases.proven = True
            account.slots.set_proven()
            watch.add(granted)
            context = RequestContext(
                received, granted, services, watch, decision=decision, phases=phases
            )
            answer = _handle(context)
    except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer
        refused = refusal_of(error, f"Request {quoted(received.op)}", proven=proven)
        watch.begin_reply()
        with phases.measured(Phase.LOG):
            decision.refused(refused, error)
        with phases.measured(Phase.REPLY):
            send_error(chunked, received, refused)
        if isinstance(error, RequestRefused):
            phases.outcome = Outcome.REFUSED
        return
    if received.knows is not None:
        words = SERVER_WORDS if signing_log is not None else SERVER_WORDS - {LOG}
        answer.fields = {**answer.fields, KNOWS: encode_words(words)}
    with phases.measured(Phase.REPLY) if answer.converse is None else contextlib.nullcontext():
        send_answer(chunked, received, answer)
    phases.outcome = Outcome.OK
    tell(
        log,
        ServerLog.REQUEST_DONE,
        op=received.op,
        user=received.text("user"),
        version=received.version.number,
    )


def _handle(context: RequestContext) -> Answer:
    """The answer to an authorised request, which is in the signing log; the reply has begun."""
    request = context.request
    answer = HANDLERS[request.op](context) or Answer()
    if request.wants_notes:
        answer.fields = {**answer.fields, **context.notes.fields()}
    if not context.changed:
        context.require_still()
    # One that cannot be sent in this version of the protocol is an error, while that can be.
    request.version.encode_length(answer.length)
    answer.fields = {**answer.fields, **context.log_done(answer.payload)}
    return answer


def _tell_checkpoint(decision: Decision) -> Answer:
    """The answer to the bridge, which asks for evidence of the log's checkpoint: no decision."""
    if decision.client is None:
        raise RequestRefused(Status.UNKNOWN_OP)
    return Answer(decision.client.checkpoint(decision.seen).fields())
