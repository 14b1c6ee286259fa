"""The bridge's parent process: holds the listening ports, and keeps a child that serves them.

It never opens NSS and never touches a peer: a process that forks may not have opened NSS, and NSS
sees a changed database only when it is opened anew. So to take new certificates into use, the next
child is started beside the serving one, and takes over without a moment in which nobody listens:

    next child: reads all afresh ─▶ "ready", takes clients ────────────────▶ takes servers ─▶ …
    old child:                        takes no more clients, ─▶ "handed over"; sends its waiting
                                      servers while some of     servers away, requests in flight
                                      its clients lack one      finish ─▶ gone

Invariant: the ports stay open from start to end; one child at a time takes servers, so that no
client waits at one child while all servers wait at the other. A child ends when its pipe from the
parent does. Where the next child cannot start, the serving one goes on.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from ..children import MAX_REPORT, Reloader, Stopper, as_report, fork
from ..errors import SigulError
from .orders import FAILED, HANDED_OVER, READY, Order, Orders

log = logging.getLogger(__name__)

#: Seconds that a next child has to be ready; the serving one goes on meanwhile.
READY_SECONDS: Final = 60.0
#: Pause before another child is started where the last one ended unexpectedly, in seconds; the
#: first restart is at once, later ones double it up to the longest.
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 30.0
#: Seconds beyond its shutdown-timeout for a child that has handed over: its last clients may still
#: be in their handshake or header.
HAND_OVER_SECONDS: Final = 60.0
#: Seconds beyond its limits that a child which is to end has, before it is killed.
KILL_AFTER_SECONDS: Final = 5.0

#: How often the end looks for children that take too long, in seconds.
_END_POLL_SECONDS: Final = 0.1

#: Addresses and a TCP port to listen on, and the kind of peer that comes there.
Port = tuple[tuple[str, ...], int, str]
#: Listening sockets, and the kind of peer that each is for.
Listeners = Mapping[socket.socket, str]


@dataclass(frozen=True, slots=True)
class Plan:
    """How to serve, from one reading of the configuration.

    `serve` is a child's work: it gets the listening sockets and its ends of the pipes to the
    parent. `shutdown_timeout` is in seconds.
    """

    serve: Callable[[Listeners, Orders], None]
    ports: tuple[Port, ...]
    shutdown_timeout: float


class Ports:
    """The listening sockets. `listen` opens those of an address and a port."""

    def __init__(self, listen: Callable[[tuple[str, ...], int], list[socket.socket]]) -> None:
        self._listen = listen
        self._sockets: dict[Port, list[socket.socket]] = {}

    def open(self, plan: Plan) -> list[Port]:
        """Open those of `plan` that are not open yet, and give them. Raises `TransportError`."""
        opened: list[Port] = []
        try:
            for port in plan.ports:
                if port not in self._sockets:
                    self._sockets[port] = self._listen(*port[:2])
                    opened.append(port)
                    for listener in self._sockets[port]:
                        # Of two processes that see a newcomer only one gets it.
                        listener.setblocking(False)
        except BaseException:
            self.close(opened)
            raise
        return opened

    def close(self, ports: Iterable[Port]) -> None:
        """Close these; children that have them keep them."""
        for port in ports:
            for listener in self._sockets.pop(port):
                listener.close()

    def close_all_but(self, plan: Plan | None) -> None:
        """Close what `plan` does not need."""
        needed = plan.ports if plan is not None else ()
        self.close([port for port in self._sockets if port not in needed])

    def of(self, plan: Plan) -> dict[socket.socket, str]:
        """The sockets of `plan`, and whom each is for."""
        return {item: port[2] for port in plan.ports for item in self._sockets[port]}


@dataclass(slots=True, eq=False)
class _Child:
    pid: int
    #: What it tells us; at its end when the child is.
    news: int
    #: What we tell it.
    orders: int
    plan: Plan
    ready_at: float | None = None
    #: Why it cannot serve.
    report: str = ""
    #: When it is killed, by `time.monotonic()`.
    deadline: float | None = None

    def tell(self, order: Order) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(self.orders, order.value)


class Parent:
    """Keeps a child serving by the newest plan that works. `renew` reads the configuration again.

    `renew` raises `SigulError` where that is invalid; then everything stays as it is.
    """

    def __init__(self, plan: Plan, ports: Ports, renew: Callable[[], Plan]) -> None:
        self._plan = plan
        self._ports = ports
        self._renew = renew
        self._children: dict[int, _Child] = {}
        #: The child that serves, and the one that is to.
        self._serving: _Child | None = None
        self._next: _Child | None = None
        #: The one that may accept servers.
        self._takes_servers: _Child | None = None
        self._started = False
        self._reload_again = False
        self._pause = 0.0
        self._start_at: float | None = None

    def run(self, stop: Stopper, reload: Reloader, ready: Callable[[], None]) -> None:
        """Serve until `stop` is readable; `ready` is called once the first child serves.

        Raises what keeps that one from it.
        """
        try:
            self._ports.open(self._plan)
            # What is imported stays for good: not looking at it again keeps its pages shared.
            gc.collect()
            gc.freeze()
            first = self._fork(self._plan, stop)
            while first is None or first.ready_at is None:
                if first is None or first.news not in self._children:
                    raise SigulError(
                        (first.report if first is not None else "")
                        or "the bridge's serving process failed; its log says more"
                    )
                if self._wait(stop, reload):
                    return
            self._started = True
            ready()
            while not self._wait(stop, reload):
                self._restart(stop)
        finally:
            self._end()

    # ------------------------------------------------------------------------------- the loop

    def _wait(self, stop: Stopper, reload: Reloader) -> bool:
        """Wait for something to happen, and see to it; whether it is time to stop."""
        poll = select.poll()
        for descriptor in (stop.fileno(), reload.fileno(), *self._children):
            poll.register(descriptor, select.POLLIN)
        ready = {descriptor for descriptor, _events in poll.poll(self._milliseconds())}
        for descriptor in ready & self._children.keys():
            self._read_news(self._children[descriptor])
        self._kill_late()
        if stop.fileno() in ready:
            return True
        if reload.fileno() in ready:
            reload.take()
            self._reload_again = True
        # One change at a time: who takes servers would else be nobody's knowledge.
        settled = self._next is None and self._takes_servers is self._serving
        if self._reload_again and settled:
            self._reload_again = False
            self._reload(stop)
        return False

    def _milliseconds(self) -> float | None:
        due = [child.deadline for child in self._children.values() if child.deadline is not None]
        if self._start_at is not None:
            due.append(self._start_at)
        return max(0.0, min(due) - time.monotonic()) * 1000 + 1 if due else None

    def _reload(self, stop: Stopper) -> None:
        log.info("Reading configuration and certificates again")
        try:
            plan = self._renew()
            self._ports.open(plan)
        except SigulError as error:
            log.error("The new configuration is not taken, the former one stays: %s", error)
            return
        self._start_at = None
        self._fork(plan, stop)

    def _restart(self, stop: Stopper) -> None:
        """Start a child where there is none, once its time has come."""
        if self._serving is not None or self._next is not None or self._start_at is None:
            return
        if time.monotonic() >= self._start_at:
            self._start_at = None
            self._fork(self._plan, stop)

    def _fork(self, plan: Plan, stop: Stopper) -> _Child | None:
        """Start the next child; None, with an error in the log, where there can be no process."""
        news_read, news_write = os.pipe()
        orders_read, orders_write = os.pipe()
        listeners = self._ports.of(plan)

        def work() -> None:
            # A pipe ends only when nobody has its other end any more.
            for descriptor in (news_read, orders_write):
                os.close(descriptor)
            for child in self._children.values():
                os.close(child.news)
                os.close(child.orders)
            # A port that this child does not serve would else stay open without anybody there.
            self._ports.close_all_but(plan)
            plan.serve(listeners, Orders(orders_read, news_write))

        def report(text: str) -> None:
            os.write(news_write, FAILED + as_report(text))

        # Signals, which may go to the whole group, are the parent's business.
        ignore = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP)
        try:
            pid = fork(work, stop=stop, ignore=ignore, report=report)
        except OSError as error:
            os.close(news_read)
            os.close(orders_write)
            log.error("No process can be started: %s", error.strerror)
            self._ports.close_all_but(self._plan)
            if self._serving is None:
                self._slow_down()
            return None
        finally:
            os.close(news_write)
            os.close(orders_read)
        self._next = _Child(pid, news_read, orders_write, plan)
        self._next.deadline = time.monotonic() + READY_SECONDS
        self._children[news_read] = self._next
        return self._next

    # --------------------------------------------------------------------------- children's news

    def _read_news(self, child: _Child) -> None:
        news = os.read(child.news, MAX_REPORT + len(FAILED))
        if not news:
            self._bury(child)
        elif news.startswith(FAILED):
            child.report = news.removeprefix(FAILED).decode("utf-8", "replace")
        else:
            for number in range(len(news)):
                self._take_news(child, news[number : number + 1])

    def _take_news(self, child: _Child, news: bytes) -> None:
        if news == READY:
            child.ready_at = time.monotonic()
            child.deadline = None
            self._plan = child.plan
            self._ports.close_all_but(child.plan)
            old, self._serving, self._next = self._serving, child, None
            if old is None:
                self._give_servers()
            else:
                log.info("Process %d serves; process %d lets its requests finish",
                         child.pid, old.pid)  # fmt: skip
                old.tell(Order.HAND_OVER)
        elif news == HANDED_OVER:
            limit = child.plan.shutdown_timeout + HAND_OVER_SECONDS
            child.deadline = time.monotonic() + limit
            if child is self._takes_servers:
                self._give_servers()

    def _give_servers(self) -> None:
        self._takes_servers = self._serving
        if self._serving is not None:
            self._serving.tell(Order.TAKE_SERVERS)

    def _bury(self, child: _Child) -> None:
        """See to what follows from the end of a child."""
        os.close(child.news)
        os.close(child.orders)
        del self._children[child.news]
        _pid, status = os.waitpid(child.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        if child is self._next:
            self._next = None
            self._ports.close_all_but(self._plan)
            if self._serving is not None:
                log.error(
                    "The new configuration is not taken, the former one stays: %s",
                    child.report or f"process {child.pid} {how}",
                )
            elif self._started:
                log.error("Process %d %s before it could serve: %s", child.pid, how, child.report)
                self._slow_down()
        elif child is self._serving:
            log.error("The serving process %d %s; another is started", child.pid, how)
            self._serving = None
            if child.ready_at is not None:
                lived = time.monotonic() - child.ready_at
                self._pause = 0.0 if lived > LONGEST_PAUSE_SECONDS else self._pause
            self._slow_down()
        elif code != 0:
            log.error("Process %d %s while its last requests finished", child.pid, how)
        if child is self._takes_servers:
            self._give_servers()

    def _slow_down(self) -> None:
        """A child that ends at once must not be started in a tight loop."""
        self._start_at = time.monotonic() + self._pause
        self._pause = min(max(2 * self._pause, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)

    # ------------------------------------------------------------------------------------ the end

    def _kill_late(self) -> None:
        now = time.monotonic()
        for child in self._children.values():
            if child.deadline is not None and now > child.deadline:
                log.error("Process %d did not do what it was told in time; it is killed", child.pid)
                child.deadline = None
                os.kill(child.pid, signal.SIGKILL)

    def _end(self) -> None:
        self._ports.close_all_but(None)
        now = time.monotonic()
        for child in self._children.values():
            child.tell(Order.END)
            limit = child.plan.shutdown_timeout if child.ready_at is not None else 0
            child.deadline = now + limit + KILL_AFTER_SECONDS
        while self._children:
            ready, _, _ = select.select(list(self._children), [], [], _END_POLL_SECONDS)
            for descriptor in ready:
                child = self._children[descriptor]
                if os.read(descriptor, MAX_REPORT) == b"":
                    os.close(child.news)
                    os.close(child.orders)
                    del self._children[descriptor]
                    os.waitpid(child.pid, 0)
            self._kill_late()
