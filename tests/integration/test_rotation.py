"""Certificates change and daemons read them again, while clients make requests all the time.

No request may fail, in the foreground as in the background; only one that a killed process had in
its hands.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sigul_stack.pki import Authority, NSSDatabase, Role, Rollover, read_password, renew_leaf
from tests.faults.observe import children, workers
from tests.site import (
    DAEMON_SECONDS,
    PROGRAM_SECONDS,
    Site,
    free_port,
    has_ended,
    module,
    nul,
    popen,
    wait_until,
)

from .commands_support import ADMIN, Dialogue, done, failure
from .test_failures_in_flight import Gate

COMPONENTS = {"bridge": Role.BRIDGE, "server": Role.SERVER, "clients/admin": Role.CLIENT}
#: Requests that each client makes at least while something goes on.
ROUNDS = 1


@dataclass
class Daemon:
    """A daemon, however it was started."""

    pid: int
    log: Path

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def children(self) -> set[int]:
        """Its children that live and serve: that writes no signing log."""
        found = workers if "server" in self.log.name else children
        return {pid for pid, state in found(self.pid).items() if state != "Z"}

    def hang_up(self) -> None:
        os.kill(self.pid, signal.SIGHUP)

    def renewed(self) -> None:
        """Have it read all afresh, and wait until no process of before is left."""
        before = self.children()
        self.hang_up()
        wait_until(
            lambda: not before & self.children() and self.children(),
            DAEMON_SECONDS,
            f"the end of processes that had read the old certificates\n{self.text[-3000:]}",
        )

    def refused(self) -> str:
        """Have it read a configuration that is wrong; what it says about that."""
        so_far = len(self.text)
        self.hang_up()
        wait_until(
            lambda: "is not taken, the former one stays" in self.text[so_far:],
            DAEMON_SECONDS,
            "the refusal",
        )
        assert self.children()
        return self.text[so_far:]


@dataclass
class Running:
    """A running site."""

    site: Site
    bridge: Daemon
    server: Daemon

    def rollover(self) -> Rollover:
        ca = self.site.path("pki/ca")
        authority = Authority.open(ca, read_password(ca / "nss-password"))
        return Rollover(authority, lambda path: read_password(path / "nss-password"))

    def database(self, name: str) -> NSSDatabase:
        directory = self.site.path("pki") / name
        return NSSDatabase(directory, read_password(directory / "nss-password"))

    def serial(self, name: str) -> int:
        certificate = self.database(name).find(COMPONENTS[name].nickname).certificate
        return int(certificate.serial_number)

    def shown_serial(self) -> int:
        """The serial number of the certificate that the bridge shows to those who dial it."""
        shown = subprocess.run(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{self.site.client_port}"],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=PROGRAM_SECONDS, check=False,
        ).stdout  # fmt: skip
        told = subprocess.run(
            ["openssl", "x509", "-noout", "-serial"], input=shown, capture_output=True,
            timeout=PROGRAM_SECONDS, check=True,
        ).stdout  # fmt: skip
        return int(told.decode().strip().removeprefix("serial="), 16)


@dataclass
class Load:
    """Clients that make one request after the other until the end of the block."""

    site: Site
    results: list[list[str]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Load:
        data = self.site.path("data")
        data.write_bytes(b"some data\n")
        commands: list[tuple[list[str], bytes]] = [
            (["list-users"], nul(ADMIN)),
            (["list-users"], nul(ADMIN)),
            (["sign-data", "k", str(data), "-o", str(self.site.path("signature"))], nul("k-pw")),
        ]
        self.results = [[] for _ in commands]
        self._threads = [
            threading.Thread(target=self._run, args=(*command, results))
            for command, results in zip(commands, self.results, strict=True)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def _run(self, command: list[str], secrets: bytes, results: list[str]) -> None:
        while not self._stop.is_set():
            ended = self.site.sigul(*command, stdin=secrets, code=None)
            results.append(ended.stderr.decode(errors="replace") if ended.returncode else "")

    def go_on(self) -> None:
        """Wait until each client has made some more requests."""
        before = [len(results) for results in self.results]
        wait_until(
            lambda: all(
                len(results) >= count + ROUNDS
                for results, count in zip(self.results, before, strict=True)
            ),
            PROGRAM_SECONDS,
            "more requests",
        )
        self.check()

    def check(self) -> None:
        assert [text for results in self.results for text in results if text] == []

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PROGRAM_SECONDS)


@pytest.fixture(scope="module")
def prepared(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site, not running, with admin's key `k`."""
    site = Site.copy(template, tmp_path_factory.mktemp("rotation") / "site")
    site.extra = {"server": {"server": "workers: 2\n"}}
    site.configure()
    with site.running():
        done(site, "new-key", "k", secrets=[ADMIN, "k-pw"])
    return site


@contextlib.contextmanager
def in_foreground(site: Site) -> Iterator[Running]:
    with site.running() as (bridge, server):
        yield Running(
            site, Daemon(bridge.popen.pid, bridge.log), Daemon(server.popen.pid, server.log)
        )


def start_in_background(site: Site, program: str) -> Daemon:
    site.run(
        *module(program), "-d", "-c", str(site.path(f"{program}.conf")),
        f"--internal-log-dir={site.path('log')}", f"--internal-pid-dir={site.path('run')}",
        stdin=b"",
    )  # fmt: skip
    return background_daemon(site, program)


def background_daemon(site: Site, program: str) -> Daemon:
    pid = int(site.path(f"run/sigul_{program}.pid").read_text())
    return Daemon(pid, site.path(f"log/sigul_{program}.log"))


@contextlib.contextmanager
def ended_afterwards(site: Site) -> Iterator[None]:
    try:
        yield
    finally:
        for program in ("server", "bridge"):
            with contextlib.suppress(FileNotFoundError):
                pid = background_daemon(site, program).pid
                os.kill(pid, signal.SIGTERM)
                wait_until(lambda pid=pid: has_ended(pid), DAEMON_SECONDS, "a daemon's end")


@contextlib.contextmanager
def in_background(site: Site) -> Iterator[Running]:
    with ended_afterwards(site):
        bridge = start_in_background(site, "bridge")
        yield Running(site, bridge, start_in_background(site, "server"))


@pytest.fixture(
    scope="module",
    params=[
        in_foreground,
        pytest.param(
            in_background, marks=pytest.mark.once("how Python processes start and are told")
        ),
    ],
)
def running(
    request: pytest.FixtureRequest, prepared: Site, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A running site, whose daemons read their certificates again many times."""
    site = Site.copy(prepared, tmp_path_factory.mktemp("running") / "site")
    with request.param(site) as running:
        yield running


# More than 5 s: each is renewed by itself, with clients at work all the time.
def test_leaves_are_renewed_one_by_one(running: Running) -> None:
    so_far = len(running.server.text)
    authority = running.rollover().authority
    with Load(running.site) as load:
        load.go_on()
        for name, role in COMPONENTS.items():
            before = running.serial(name)
            renew_leaf(authority, running.database(name), role.nickname, new_key=name == "bridge")
            assert running.serial(name) != before
            if name in ("bridge", "server"):
                daemon: Daemon = getattr(running, name)
                daemon.renewed()
            load.go_on()
        assert running.shown_serial() == running.serial("bridge")
    load.check()
    assert len(running.bridge.children()) == 1
    assert "next attempt in" not in running.server.text[so_far:]


def test_workers_that_wait_are_sent_away_and_dial_again_at_once(running: Running) -> None:
    so_far = len(running.server.text)
    running.bridge.renewed()
    wait_until(
        lambda: (
            "The connection that waited at the bridge has ended" in running.server.text[so_far:]
        ),
        DAEMON_SECONDS,
        "a worker that was sent away",
    )
    done(running.site, "list-users", secrets=[ADMIN])
    assert "next attempt in" not in running.server.text[so_far:]


#: What a rollover under running daemons proves something about. To them each step of it is like the
#: renewal of a leaf, which runs with them in any case, and which of its certificates go together is
#: in test_pki_rollover.
PROVEN = (
    *("sigul_stack/bridge/parent.py", "sigul_stack/cli/daemon.py", "sigul_stack/pki/rollover.py"),
    *("sigul_stack/cli/daemon_start.py", "sigul_stack/server/supervisor.py"),
)


# More than 5 s: three steps for each of five databases, with clients at work all the time.
@pytest.mark.parametrize(
    "running",
    [pytest.param(way, marks=pytest.mark.long(*PROVEN)) for way in (in_foreground, in_background)],
    indirect=True,
)
def test_the_authority_is_rolled_over(running: Running, tmp_path: Path) -> None:
    site = running.site
    directories = [site.path("pki") / name for name in COMPONENTS]
    old = running.rollover().authority.certificate
    old_client = tmp_path / "client"
    with Load(site) as load:
        running.rollover().begin(directories)
        for daemon in (running.bridge, running.server):
            daemon.renewed()
            load.go_on()
        shutil.copytree(directories[2], old_client)
        for directory in reversed(directories):
            running.rollover().issue([directory])
            if directory.name in ("bridge", "server"):
                daemon = getattr(running, directory.name)
                daemon.renewed()
            load.go_on()
        assert running.shown_serial() == running.serial("bridge")
        # With the old certificate a client is still let in; once the old CA is gone no more.
        conf = site.path("client.conf").read_text().replace(str(directories[2]), str(old_client))
        site.path("old.conf").write_text(conf)
        done(site, "list-users", secrets=[ADMIN], config="old.conf")
        running.rollover().finish()
        for daemon in (running.server, running.bridge):
            daemon.renewed()
            load.go_on()
    load.check()
    assert running.rollover().authority.certificate != old
    assert failure(site, "list-users", secrets=[ADMIN], config="old.conf")
    # The client may be told first, and gone, before the bridge has written it down.
    wait_until(
        lambda: "SEC_ERROR_UNKNOWN_ISSUER" in running.bridge.text, DAEMON_SECONDS, "the reason"
    )


@pytest.mark.once("how our processes start and are told")
def test_a_configuration_that_is_wrong_changes_nothing(running: Running) -> None:
    site = running.site
    with Load(site) as load:
        for name in ("bridge", "server"):
            daemon: Daemon = getattr(running, name)
            path = site.path(f"{name}.conf")
            good = path.read_text()
            path.write_text(good.replace("[nss]", "[nss"))
            assert "neither a [section]" in daemon.refused()
            path.write_text(
                good.replace(f"nss-dir: {site.path('pki')}/{name}", "nss-dir: /nowhere")
            )
            assert "does not contain a valid NSS database" in daemon.refused()
            path.write_text(good)
            password = site.path("pki") / name / "nss-password"
            right = password.read_bytes()
            password.write_bytes(b"wrong")
            assert "Provided NSS password is incorrect" in daemon.refused()
            password.write_bytes(right)
            load.go_on()
            # And what is right again is taken.
            daemon.renewed()
            load.go_on()
    load.check()


def test_a_port_that_is_taken_changes_nothing(running: Running) -> None:
    site = running.site
    path = site.path("bridge.conf")
    good = path.read_text()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        other = f"client-listen-port: {taken.getsockname()[1]}"
        path.write_text(good.replace(f"client-listen-port: {site.client_port}", other))
        assert "cannot listen on 127.0.0.1 port" in running.bridge.refused()
    path.write_text(good)
    done(site, "list-users", secrets=[ADMIN])


@pytest.mark.once("how our processes start and are told")
def test_a_killed_serving_process_is_replaced(running: Running) -> None:
    for _ in range(2):
        (serving,) = running.bridge.children()
        os.kill(serving, signal.SIGKILL)
        # Clients that come at once wait until there is another.
        done(running.site, "list-users", secrets=[ADMIN])
        assert serving not in running.bridge.children()
    assert "was ended by signal 9; another is started" in running.bridge.text
    running.bridge.renewed()
    done(running.site, "list-users", secrets=[ADMIN])


# --------------------------------------------------------------------------- sites of their own


@pytest.fixture
def own(prepared: Site, tmp_path: Path) -> Iterator[Site]:
    site = Site.copy(prepared, tmp_path / "site")
    yield site
    site.stop_all()


@pytest.mark.once("how our processes start and are told")
def test_a_long_request_is_finished_by_the_processes_that_began_it(
    own: Site, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")
    bridge, server = own.start_bridge(), own.start_server(environment=gate.environment)
    (own.path("data")).write_bytes(b"data")
    gate.close("PKSIGN")
    request = popen(
        [
            *module("sigul"), "--batch", "-c", str(own.path("client.conf")),
            "sign-data", "k", str(own.path("data")), "-o", str(own.path("signature")),
        ],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=own.environment,
    )  # fmt: skip
    assert request.stdin is not None
    request.stdin.write(nul("k-pw"))
    request.stdin.close()
    request.stdin = None
    worker = gate.wait()
    old = bridge.serving
    for _ in range(2):
        serving = bridge.serving
        for daemon in (bridge, server):
            daemon.popen.send_signal(signal.SIGHUP)
        wait_until(lambda serving=serving: bridge.serving != serving, DAEMON_SECONDS, "a new child")
        assert done(own, "list-users", secrets=[ADMIN]) == b"admin\n"
        assert not has_ended(old)
        assert not has_ended(worker)
        assert request.poll() is None
    gate.open()
    _, errors = request.communicate(timeout=PROGRAM_SECONDS)
    assert (request.returncode, errors) == (0, b"")
    wait_until(lambda: has_ended(old), DAEMON_SECONDS, "the old child's end")
    # An end in the middle of it all is still an end.
    bridge.popen.send_signal(signal.SIGHUP)
    assert (server.stop(), bridge.stop()) == (0, 0)


@pytest.mark.once("how our processes start and are told")
def test_clients_that_wait_for_a_server_get_one_whichever_process_has_them(own: Site) -> None:
    bridge = own.start_bridge()
    command = [*module("sigul"), "--batch", "-c", str(own.path("client.conf")), "list-users"]

    def start() -> subprocess.Popen[bytes]:
        process = popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=own.environment,
        )  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(nul(ADMIN))
        process.stdin.close()
        process.stdin = None
        return process

    clients = [start(), start()]
    bridge.wait_for("Request 'list-users'", 2)
    old = bridge.serving
    bridge.popen.send_signal(signal.SIGHUP)
    wait_until(lambda: bridge.serving != old, DAEMON_SECONDS, "a new child")
    clients.append(start())
    bridge.wait_for("Request 'list-users'", 3)
    assert not has_ended(old)
    own.start("server")
    for client in clients:
        out, errors = client.communicate(timeout=PROGRAM_SECONDS)
        assert (client.returncode, out, errors) == (0, b"admin\n", b"")
    wait_until(lambda: has_ended(old), DAEMON_SECONDS, "the old child's end")


@pytest.mark.once("how our processes start and are told")
def test_a_bridge_whose_parent_is_killed_is_gone(own: Site) -> None:
    bridge = own.start_bridge()
    serving = bridge.serving
    own.processes.remove(bridge)
    assert bridge.stop(signal.SIGKILL) == -signal.SIGKILL
    wait_until(lambda: has_ended(serving), DAEMON_SECONDS, "the child's end")
    with own.running():
        assert done(own, "list-users", secrets=[ADMIN]) == b"admin\n"


def test_a_password_that_was_typed_opens_the_new_database_too(own: Site) -> None:
    with ended_afterwards(own):
        for name in ("bridge", "server"):
            file = own.path("pki") / name / "nss-password"
            password = file.read_text().strip()
            path = own.path(f"{name}.conf")
            path.write_text(path.read_text().replace(f"nss-password-file: {file}\n", ""))
            file.rename(file.with_name("password"))
            dialogue = Dialogue(
                own, *module(name), "-d", "-c", str(path),
                f"--internal-log-dir={own.path('log')}", f"--internal-pid-dir={own.path('run')}",
            )  # fmt: skip
            dialogue.answer("NSS database password", password)
            dialogue.end()
        for name in ("bridge", "server"):
            background_daemon(own, name).renewed()
        assert done(own, "list-users", secrets=[ADMIN]) == b"admin\n"


@pytest.mark.once("how our processes start and are told")
def test_settings_are_read_again(own: Site) -> None:
    bridge, server = own.start_bridge(), own.start_server(2)
    old_port = own.client_port
    own.extra = {"server": {"server": "workers: 3\n"}}
    own.client_port = free_port()
    own.configure()
    bridge.popen.send_signal(signal.SIGHUP)
    server.popen.send_signal(signal.SIGHUP)
    wait_until(lambda: len(workers(server.popen.pid)) == 3, DAEMON_SECONDS, "three workers")
    assert done(own, "list-users", secrets=[ADMIN]) == b"admin\n"
    shown = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{old_port}"],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=PROGRAM_SECONDS, check=False,
    )  # fmt: skip
    assert shown.returncode != 0
