"""What goes wrong in the middle of requests: full disks, killed processes, ends and restarts.

Whatever happens, the client is told, the server serves on, and keys are whole or not there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sigul_stack.cli.outcome import BUSY, MAY_HAVE_HAPPENED
from tests.copies import without
from tests.faults.observe import workers as workers_of
from tests.site import (
    DAEMON_SECONDS,
    PROGRAM_SECONDS,
    Process,
    Site,
    has_ended,
    module,
    nul,
    popen,
    wait_until,
    without_ids,
)

from .commands_support import (
    ADMIN,
    assert_consistent,
    database_content,
    done,
    end_agent,
    failure,
    leftovers,
    person,
    rows,
    secret_parts,
    stored_fingerprints,
)

MIB = 1024**2
REAL_GPGCONF = shutil.which("gpgconf")
REAL_GPG, REAL_GPGCONF = shutil.which("gpg"), shutil.which("gpgconf")
#: How long a gpg stands at a closed gate at most, in seconds.
GATE_SECONDS = 60.0


class Gate:
    """A gpg for the server that waits, before it does a certain thing, until it may go on.

    Then the real gpg does it. Gives up waiting after a minute, so that nothing stays behind.
    It asks through a Unix socket: that is what gpg's wall leaves it besides the home.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        script, path = directory / "gpg", directory / "gate"
        script.write_text(
            "#!/usr/bin/python3 -IS\n"
            "import os, signal, socket, sys\n"
            "signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
            "try:\n"
            "    with socket.socket(socket.AF_UNIX) as gate:\n"
            f"        gate.connect({str(path)!r})\n"
            "        words = [str(os.getppid()), str(os.getpid()), *sys.argv[1:], '']\n"
            "        gate.sendall(' '.join(words).encode() + b'\\n')\n"
            f"        gate.settimeout({GATE_SECONDS})\n"
            "        gate.recv(1)\n"
            "except OSError:\n"
            "    pass  # nobody holds up one that is left no sockets\n"
            f"os.execv({REAL_GPG!r}, ['gpg', *sys.argv[1:]])\n"
        )
        script.chmod(0o755)
        # Who starts the agent says so, and its place is taken by a gate on the way to it.
        starter = directory / "gpgconf"
        starter.write_text(
            "#!/usr/bin/python3 -IS\n"
            "import socket, subprocess, sys\n"
            f"status = subprocess.call([{REAL_GPGCONF!r}, *sys.argv[1:]])\n"
            "if '--launch' in sys.argv:\n"
            "    with socket.socket(socket.AF_UNIX) as gate:\n"
            f"        gate.connect({str(path)!r})\n"
            "        home = sys.argv[sys.argv.index('--homedir') + 1]\n"
            "        gate.sendall(b'0 0 started ' + home.encode() + b'\\n')\n"
            f"        gate.settimeout({GATE_SECONDS})\n"
            "        gate.recv(1)\n"
            "sys.exit(status)\n"
        )
        starter.chmod(0o755)
        self.environment = {"PATH": f"{directory}:{os.environ['PATH']}"}
        self._what = ""
        self._reached: list[tuple[int, int]] = []
        self._open = threading.Event()
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen(64)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, connection.makefile("r") as stream, contextlib.suppress(OSError):
            worker, own, words = stream.readline().split(" ", 2)
            if words.startswith("started "):
                self._stand_before(Path(words.removeprefix("started ").rstrip("\n")))
            elif self._what and f" {self._what} " in f" {words}":
                self._reached.append((int(worker), int(own)))
                self._open.wait(GATE_SECONDS)
            connection.sendall(b"x")

    def _stand_before(self, home: Path) -> None:
        """Take the place of the agent of a server's home, and pass on what is said to it."""
        usual, real = home / "S.gpg-agent", home / "S.gpg-agent.real"
        if home.name.startswith(".new-") or not usual.is_socket():
            return
        owner = usual.stat()
        usual.rename(real)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(usual))
        os.chown(usual, owner.st_uid, owner.st_gid)
        usual.chmod(0o700)
        listening.listen(64)

        def serve() -> None:
            while True:
                near, _ = listening.accept()
                threading.Thread(target=self._pass_on, args=(near, real), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()

    def _pass_on(self, near: socket.socket, real: Path) -> None:
        """Pass on what a process says to the agent, a line at a time, and what comes back."""
        credentials = near.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        worker = int.from_bytes(credentials[:4], sys.byteorder)
        with near, socket.socket(socket.AF_UNIX) as far, contextlib.suppress(OSError):
            far.connect(str(real))
            back = threading.Thread(target=self._pass_back, args=(near, far), daemon=True)
            back.start()
            with near.makefile("rb") as stream, contextlib.suppress(OSError):
                for line in stream:
                    if self._what and line.startswith(self._what.encode()):
                        self._reached.append((worker, worker))
                        self._open.wait(GATE_SECONDS)
                    far.sendall(line)
            with contextlib.suppress(OSError):
                far.shutdown(socket.SHUT_RDWR)
            back.join()

    @staticmethod
    def _pass_back(near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := far.recv(4096):
                near.sendall(data)
        with contextlib.suppress(OSError):
            near.shutdown(socket.SHUT_RDWR)

    def close(self, what: str) -> None:
        """From now on hold gpg up where it is given the option `what`, or its agent the command."""
        self._reached.clear()
        self._open.clear()
        self._what = what

    def wait(self) -> int:
        """Wait until gpg stands at the gate; the number of the process that started it."""
        wait_until(lambda: bool(self._reached), DAEMON_SECONDS, "gpg at the gate")
        return self._numbers()[0]

    def _numbers(self) -> tuple[int, int]:
        """The process that started gpg, and gpg's own; of a command of the agent's who gave it."""
        return self._reached[-1]

    def send_away(self) -> None:
        """End the gpg that stands at the gate, unless it has ended with its worker."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._numbers()[1], signal.SIGKILL)

    def open(self) -> None:
        """Let gpg go on, now and later."""
        self._what = ""
        self._open.set()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


@pytest.fixture(scope="module")
def prepared(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site, not running, with admin's gnupg key `k` and ECC key `e` (`k-pw`, `e-pw`)."""
    site = Site.copy(template, tmp_path_factory.mktemp("prepared") / "site")
    # Fewer than by default: these tests start many servers.
    site.extra = {"server": {"server": "workers: 2\n"}}
    site.configure()
    with site.running():
        done(site, "new-key", "k", secrets=[ADMIN, "k-pw"])
        done(site, "new-key", "e", "--key-type", "ECC", secrets=[ADMIN, "e-pw"])
    return site


@pytest.fixture
def own(prepared: Site, tmp_path: Path) -> Iterator[Site]:
    """A copy of that site for one test; whatever it starts is ended afterwards."""
    site = Site.copy(prepared, tmp_path / "site")
    yield site
    site.stop_all()
    # A gpg whose worker was killed may have started one after the server's end.
    end_agent(site.path("server/gnupg"))


@contextlib.contextmanager
def running(site: Site, gate: Gate) -> Iterator[tuple[Process, Process]]:
    """The site, running, with its server's gpg behind the gate."""
    try:
        yield site.start_bridge(), site.start_server(environment=gate.environment)
    finally:
        site.stop_all()


class InFlight:
    """A `sigul --batch` that runs while the test goes on."""

    def __init__(self, site: Site, *arguments: str, secrets: tuple[str, ...]) -> None:
        self.popen = popen(
            [*module("sigul"), "--batch", "-c", str(site.path("client.conf")), *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=site.environment,
        )  # fmt: skip
        assert self.popen.stdin is not None
        self.popen.stdin.write(nul(*secrets))
        self.popen.stdin.flush()

    def end(self, code: int) -> tuple[bytes, str]:
        """Wait for its end, with `code`; its output, and the error that it told."""
        out, err = self.popen.communicate(timeout=PROGRAM_SECONDS)
        assert self.popen.returncode == code, err
        if code == 0:
            assert err == b""
            return out, ""
        lines = without_ids(err).decode().splitlines()
        assert len(lines) == 1, err
        assert lines[0].startswith("Error: "), err
        return out, lines[0].removeprefix("Error: ")


def eventually_consistent(site: Site) -> None:
    """Wait until stores and database agree, and nothing unfinished is left."""

    def agree() -> bool:
        names = {row[0] for row in rows(site, "SELECT fingerprint FROM keys")}
        return names == stored_fingerprints(site) and not leftovers(site)

    try:
        wait_until(agree, DAEMON_SECONDS, "agreement of stores and database")
    except AssertionError:
        assert_consistent(site)


def signs(site: Site, tmp_path: Path, key: str = "k") -> None:
    """A small file is signed, and the signature is good."""
    (tmp_path / "small").write_bytes(b"small")
    public = done(site, "get-public-key", key, secrets=[f"{key}-pw"])
    done(site, "sign-data", key, str(tmp_path / "small"), "-o", str(tmp_path / "signature"),
         secrets=[f"{key}-pw"])  # fmt: skip
    with person(tmp_path / "verifier", public) as gpg:
        gpg.signer(tmp_path / "signature", tmp_path / "small")


# ------------------------------------------------------------------------------------ full disks


def private_mount(script: str, *arguments: str) -> tuple[str, ...]:
    """A prefix that runs a program in a mount namespace of its own, after `script`."""
    return (*without("--mount"), "sh", "-ec", f'{script}; exec "$@"', "sh", *arguments)


@pytest.mark.once("our own spool")
def test_a_full_disk_under_the_payload(own: Site, tmp_path: Path) -> None:
    own.start_bridge()
    server = own.start_server(
        prefix=private_mount("mount -t tmpfs -o size=2m none \"$1\"; shift",
                             str(own.path("server/spool")))
    )  # fmt: skip
    spool = Path(f"/proc/{server.popen.pid}/root{own.path('server/spool')}")
    large, out = tmp_path / "large", tmp_path / "out"
    for size in (8 * MIB, 2 * MIB + 1, 64 * MIB):
        with large.open("wb") as file:
            file.truncate(size)
        line = failure(
            own, "sign-text", "k", str(large), "-o", str(out), secrets=["k-pw"], code=BUSY
        )
        # A sixteenth of so small a file system stays free.
        assert line == (
            "Unknown error: the server's spool is full: 131072 bytes of its file system stay free"
            " (spool-min-free); try again later"
        )
        assert not out.exists()
        assert list(spool.iterdir()) == []
        # What is only hashed needs no room.
        done(own, "sign-data", "k", str(large), "-o", str(tmp_path / "sig"), secrets=["k-pw"])
        (tmp_path / "sig").unlink()
    # The payload fits, but what it becomes does not.
    large.write_bytes(b"a line of some sixty bytes, and many of them are in this file.\n" * 20_000)
    line = failure(own, "sign-text", "k", str(large), secrets=["k-pw"], code=BUSY)
    assert line.startswith("Unknown error")
    with person(tmp_path / "person", done(own, "get-public-key", "k", secrets=["k-pw"])) as gpg:
        (tmp_path / "message").write_bytes(
            gpg("--encrypt", "--recipient", "k", data=bytes(16 * MIB))
        )
    line = failure(own, "decrypt", "k", str(tmp_path / "message"), secrets=["k-pw"], code=None)
    assert line.startswith(("Unknown error", "Decryption failed"))
    assert list(spool.iterdir()) == []
    # Who has the right to nothing learns nothing of it.
    line = failure(own, "sign-text", "k", str(large), "-o", str(out), secrets=["wrong"], code=None)
    assert line.startswith(("Authentication failed", "Unknown error: the server's spool is full"))
    signs(own, tmp_path)


def test_a_full_disk_under_everything(own: Site, tmp_path: Path) -> None:
    own.start_bridge()
    server = own.start_server(
        prefix=private_mount(
            'mv "$1" "$1.copy"; mkdir -m 700 "$1"; mount -t tmpfs -o size=8m,mode=700 none "$1";'
            ' cp -a "$1.copy/." "$1"; shift',
            str(own.path("server")),
        )
    )
    server_directory = Path(f"/proc/{server.popen.pid}/root{own.path('server')}")

    def snapshot(name: str) -> Site:
        """A copy of what the server's directory holds just now."""
        (tmp_path / name).mkdir()
        subprocess.run(
            ["cp", "-a", f"{server_directory}/.", tmp_path / name / "server"],
            timeout=PROGRAM_SECONDS, check=True,
        )  # fmt: skip
        return Site(tmp_path / name)

    before = snapshot("before")
    filler = server_directory / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    for command, secrets in (
        (("new-user", "zoe"), (ADMIN,)),
        (("new-key", "made"), (ADMIN, "made-pw")),
        (("new-key", "made", "--key-type", "RSA"), (ADMIN, "made-pw")),
        (("delete-key", "e"), (ADMIN,)),
        (("change-passphrase", "k"), ("k-pw", "new-pw")),
        (("sign-data", "-a", "k", "/etc/hostname"), ("k-pw",)),
    ):
        line = failure(own, *command, secrets=secrets)
        assert line.startswith("Unknown error"), (command, line)
    # Not even what only reads is answered where the signing log cannot tell of it.
    line = failure(own, "list-users", secrets=[ADMIN])
    assert "the server cannot write its signing log: No space left on device" in line
    filler.unlink()
    after = snapshot("after")
    assert database_content(after) == database_content(before)
    assert secret_parts(after) == secret_parts(before)
    assert_consistent(after)
    done(own, "new-key", "made", secrets=[ADMIN, "made-pw"])
    signs(own, tmp_path, "made")
    signs(own, tmp_path)
    done(own, "delete-key", "e", secrets=[ADMIN])
    assert_consistent(snapshot("end"))


@pytest.mark.once("our own processes and connections")
def test_a_full_disk_under_the_clients_output(own: Site, tmp_path: Path) -> None:
    text, out = tmp_path / "text", tmp_path / "out"
    text.write_bytes(b"some text\n" * 200_000)
    out.mkdir()
    script = (
        'mount -t tmpfs -o size=1m none "$1"; echo precious >"$1/old"; out=$1; shift;'
        " for name in old new; do"
        ' if printf \'k-pw\\0\' | "$@" -o "$out/$name"; then exit 9; fi; done;'
        ' ls -A "$out"; cat "$out/old"; set -- true'
    )
    with own.running():
        result = own.run(
            *private_mount(script, str(out)),
            *module("sigul"), "--batch", "-c", str(own.path("client.conf")),
            "sign-text", "k", str(text),
        )  # fmt: skip
    lines = without_ids(result.stderr).decode().splitlines()
    assert len(lines) == 2
    for name, line in zip(("old", "new"), lines, strict=True):
        assert line.startswith(f"Error: '{out}/{name}' cannot be written: No space left")
    assert result.stdout == b"old\nprecious\n"


# --------------------------------------------------------------------------------- killed workers


@pytest.mark.once("our own processes and connections")
def test_fault_5_a_killed_worker_costs_its_request_alone(
    own: Site, gate: Gate, tmp_path: Path
) -> None:
    with running(own, gate) as (_bridge, server):
        gate.close("PKSIGN")
        client = InFlight(own, "sign-data", "-a", "k", "/etc/hostname", secrets=("k-pw",))
        worker = gate.wait()
        assert worker != server.popen.pid
        os.kill(worker, signal.SIGKILL)
        out, error = client.end(MAY_HAVE_HAPPENED)
        assert out == b""
        assert "no reply came from the server" in error
        gate.open()
        server.wait_for(f"Worker {worker} was ended by signal 9 in the middle of a request")
        signs(own, tmp_path)
        assert leftovers(own) == []


@pytest.mark.once("our own processes and connections")
def test_a_killed_bridge_is_not_blamed_on_the_server(own: Site, gate: Gate) -> None:
    with running(own, gate) as (bridge, _server):
        gate.close("PKSIGN")
        client = InFlight(own, "sign-data", "-a", "k", "/etc/hostname", secrets=("k-pw",))
        gate.wait()
        serving = bridge.serving
        os.kill(bridge.popen.pid, signal.SIGKILL)
        os.kill(serving, signal.SIGKILL)
        _out, error = client.end(MAY_HAVE_HAPPENED)
        gate.open()
        assert "no reply came from the server" in error
        assert ", and the bridge is gone: " in error
        assert "its log, or its machine's, says why it ended, not the server's" in error


@pytest.mark.once("our own processes and connections")
def test_a_killed_idle_worker_is_replaced(own: Site, tmp_path: Path) -> None:
    own.extra = {"server": {"server": "workers: 1\n"}}
    own.configure()
    with own.running() as (_bridge, server):
        (worker,) = _children(server)
        os.kill(worker, signal.SIGKILL)
        server.wait_for("Waiting for a request at the bridge", 2)
        signs(own, tmp_path)


def _children(server: Process) -> list[int]:
    """The server's workers."""
    return list(workers_of(server.popen.pid))


# More than 5 s: all buffers on the way are filled first.
@pytest.mark.once("our own processes and connections")
def test_a_client_that_is_sending_when_its_worker_is_killed_is_told_at_once(
    own: Site, tmp_path: Path
) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(256 * MIB)
    with own.running() as (bridge, server):
        # A stopped worker takes nothing, though its machine does.
        workers = _children(server)
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        client = InFlight(own, "sign-data", "-a", "k", str(large), secrets=("k-pw",))
        bridge.wait_for("Paired with server")
        wait_until(lambda: _is_stuck(own.client_port), DAEMON_SECONDS, "a client that is stuck")
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        killed = time.monotonic()
        client.end(BUSY)
        # Not after the minute for which a kernel keeps the other end of its connection.
        assert time.monotonic() - killed < 20


def _is_stuck(port: int) -> bool:
    """Whether whoever has dialled this port has had the same bytes to send for a while."""
    before = _unsent(port)
    time.sleep(1.5)
    return before > 0 and _unsent(port) == before


def _unsent(port: int) -> int:
    """Bytes that wait to be sent to this port (in proc(5), the transmit queue)."""
    found = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _number, _local, remote, _state, queues, *_rest = line.split()
        if int(remote.rpartition(":")[2], 16) == port:
            found += int(queues.partition(":")[0], 16)
    return found


@pytest.mark.long("sigul_stack/server", "sigul_stack/keystore")
# More than 5 s: six keys are begun, three of which are made.
def test_a_worker_killed_while_it_makes_a_key(own: Site, gate: Gate, tmp_path: Path) -> None:
    before = secret_parts(own)
    with running(own, gate) as (_bridge, server):
        for number, moment in enumerate(("--full-generate-key", "--import", "--export"), 1):
            gate.close(moment)
            client = InFlight(own, "new-key", "made", secrets=(ADMIN, "made-pw"))
            os.kill(gate.wait(), signal.SIGKILL)
            client.end(MAY_HAVE_HAPPENED)
            server.wait_for("in the middle of a request", number)
            eventually_consistent(own)
            # What gpg does now that nobody waits for it does no harm either.
            gate.open()
            done(own, "new-key", "made", secrets=[ADMIN, "made-pw"])
            assert_consistent(own)
            if number == 1:
                signs(own, tmp_path, "made")
            done(own, "delete-key", "made", secrets=[ADMIN])
            assert_consistent(own)
            assert secret_parts(own) == before, moment


@contextlib.contextmanager
def locked_database(site: Site) -> Iterator[None]:
    """Nobody else can write to the server's database in the block."""
    database = sqlite3.connect(site.path("server/server.sqlite"), isolation_level=None)
    try:
        database.execute("BEGIN IMMEDIATE")
        yield
        database.execute("ROLLBACK")
    finally:
        database.close()


@pytest.mark.once("our own order of changes in store and database")
def test_a_worker_killed_between_store_and_database(own: Site, gate: Gate) -> None:
    before, names = secret_parts(own), stored_fingerprints(own)
    with running(own, gate) as (_bridge, server):
        for number, kind in enumerate(("gnupg", "ECC"), 1):
            command = ("new-key", "made", "--key-type", kind)
            with locked_database(own):
                client = InFlight(own, *command, secrets=(ADMIN, "made-pw"))
                wait_until(lambda: stored_fingerprints(own) > names, DAEMON_SECONDS, "the new key")
                os.kill(_busy_worker(server), signal.SIGKILL)
                client.end(MAY_HAVE_HAPPENED)
            server.wait_for("in the middle of a request", number)
            eventually_consistent(own)
            assert secret_parts(own) == before
            done(own, *command, secrets=[ADMIN, "made-pw"])
            assert_consistent(own)
            done(own, "delete-key", "made", secrets=[ADMIN])


def _busy_worker(server: Process) -> int:
    """The worker that serves the one request under way: the last that began an inner session."""
    line = [
        line for line in server.text.splitlines() if "[DOUBLE_TLS] Starting TLS handshake" in line
    ][-1]
    return int(line.partition("[")[2].partition("]")[0])


@pytest.mark.once("our own order of changes in store and database")
def test_a_worker_killed_before_a_deletion_is_committed(
    own: Site, gate: Gate, tmp_path: Path
) -> None:
    note = own.path("server/gnupg/sigul-stack-change.json")
    before = secret_parts(own)
    with running(own, gate) as (_bridge, server):
        for number, key in enumerate("ke", 1):
            with locked_database(own):
                client = InFlight(own, "delete-key", key, secrets=(ADMIN,))
                wait_until(note.exists, DAEMON_SECONDS, "the deletion's begin")
                os.kill(_busy_worker(server), signal.SIGKILL)
                client.end(MAY_HAVE_HAPPENED)
            server.wait_for("in the middle of a request", number)
            eventually_consistent(own)
        assert rows(own, "SELECT name FROM keys ORDER BY 1") == [("e",), ("k",)]
        assert secret_parts(own) == before
        signs(own, tmp_path)


def test_a_worker_killed_while_it_deletes_a_key(own: Site, gate: Gate) -> None:
    with running(own, gate) as (_bridge, server):
        for number, moment in enumerate(("--delete-secret-keys", "--delete-keys"), 1):
            gate.close(moment)
            client = InFlight(own, "delete-key", "k", secrets=(ADMIN,))
            os.kill(gate.wait(), signal.SIGKILL)
            client.end(MAY_HAVE_HAPPENED)
            server.wait_for("in the middle of a request", number)
            gate.open()
            eventually_consistent(own)
            assert rows(own, "SELECT name FROM keys") == [("e",)]
            assert list(own.path("server/gnupg/private-keys-v1.d").iterdir()) == []
            # Fault 21: nothing is in the way of a key of that name.
            done(own, "new-key", "k", secrets=[ADMIN, "k-pw"])
            assert_consistent(own)


@pytest.mark.once("gpg is left as where its worker is killed")
def test_a_server_killed_while_it_makes_a_key(own: Site, gate: Gate, tmp_path: Path) -> None:
    before = secret_parts(own)
    with running(own, gate) as (_bridge, server):
        gate.close("--import")
        client = InFlight(own, "new-key", "made", secrets=(ADMIN, "made-pw"))
        worker = gate.wait()
        server.popen.kill()
        os.kill(worker, signal.SIGKILL)
        client.end(MAY_HAVE_HAPPENED)
        server.popen.wait(DAEMON_SECONDS)
        gate.open()
        # The next one puts it right before its first request.
        own.start_server()
        assert_consistent(own)
        assert secret_parts(own) == before
        done(own, "new-key", "made", secrets=[ADMIN, "made-pw"])
        signs(own, tmp_path, "made")


@pytest.mark.once("our own processes and connections")
def test_waiting_workers_end_with_their_supervisor(own: Site) -> None:
    with own.running() as (bridge, server):
        server.wait_for("Waiting for a request at the bridge", 2)
        workers = _children(server)
        server.popen.kill()
        server.popen.wait(DAEMON_SECONDS)
        wait_until(
            lambda: all(has_ended(pid) for pid in workers),
            DAEMON_SECONDS, "the workers' end",
        )  # fmt: skip
        # A dead server is dropped, and is no client's: the client waits for a new one.
        client = InFlight(own, "list-users", secrets=(ADMIN,))
        bridge.wait_for("Request 'list-users' of user 'admin'")
        own.start_server()
        assert client.end(0) == (b"admin\n", "")


@pytest.mark.once("our own processes and connections")
def test_a_client_that_is_killed_costs_nobody_else(own: Site, gate: Gate, tmp_path: Path) -> None:
    with running(own, gate) as (_bridge, server):
        gate.close("PKSIGN")
        client = InFlight(own, "sign-data", "-a", "k", "/etc/hostname", secrets=("k-pw",))
        gate.wait()
        client.popen.kill()
        client.popen.communicate(timeout=PROGRAM_SECONDS)
        assert done(own, "list-users", secrets=[ADMIN]) == b"admin\n"
        gate.open()
        signs(own, tmp_path)
        assert "middle of a request" not in server.text


# ------------------------------------------------------------------------------- ends and starts


@pytest.mark.once("our own processes and connections")
def test_a_server_that_is_told_to_end_finishes_its_request(own: Site, gate: Gate) -> None:
    with running(own, gate) as (_bridge, server):
        gate.close("PKSIGN")
        client = InFlight(own, "sign-data", "-a", "k", "/etc/hostname", secrets=("k-pw",))
        gate.wait()
        server.popen.send_signal(signal.SIGTERM)
        server.wait_for("Waiting up to 60 s for 1 request")
        gate.open()
        out, _ = client.end(0)
        assert out.startswith(b"-----BEGIN PGP SIGNATURE-----\n")
        assert server.popen.wait(DAEMON_SECONDS) == 0
        assert leftovers(own) == []


@pytest.mark.once("our own processes and connections")
def test_a_bridge_that_is_told_to_end_finishes_its_request(own: Site, gate: Gate) -> None:
    with running(own, gate) as (bridge, server):
        gate.close("PKSIGN")
        client = InFlight(own, "sign-data", "-a", "k", "/etc/hostname", secrets=("k-pw",))
        gate.wait()
        bridge.popen.send_signal(signal.SIGTERM)
        # It takes no more requests by then.
        server.wait_for("cannot connect to")
        assert "cannot connect to" in failure(own, "list-users", secrets=[ADMIN])
        gate.open()
        out, _ = client.end(0)
        assert out.startswith(b"-----BEGIN PGP SIGNATURE-----\n")
        assert bridge.popen.wait(DAEMON_SECONDS) == 0


@pytest.mark.once("our own processes and connections")
def test_a_request_that_takes_too_long_does_not_hold_up_the_end(own: Site, gate: Gate) -> None:
    own.extra = {"server": {"server": "workers: 2\nshutdown-timeout: 0.5\n"}}
    own.configure()
    with running(own, gate) as (_bridge, server):
        gate.close("PKSIGN")
        client = InFlight(own, "sign-data", "-a", "k", "/etc/hostname", secrets=("k-pw",))
        gate.wait()
        assert server.stop() == 0
        client.end(MAY_HAVE_HAPPENED)
        gate.send_away()


@pytest.mark.once("our own processes and connections")
def test_a_server_whose_bridge_is_not_there_yet_waits_and_retries(own: Site) -> None:
    server = own.start("server")
    server.wait_for(f"cannot connect to sigul-bridge.example.org:{own.server_port}")
    server.wait_for("next attempt in")
    own.start_bridge()
    server.wait_for("Waiting for a request at the bridge")
    assert done(own, "list-users", secrets=[ADMIN]) == b"admin\n"


@pytest.mark.once("our own processes and connections")
def test_a_client_without_a_bridge_is_told(own: Site) -> None:
    line = failure(own, "list-users", secrets=[ADMIN])
    assert f"cannot connect to sigul-bridge.example.org:{own.client_port}" in line
    assert "127.0.0.1" in line
    assert "Connection refused" in line
    assert "is it running" in line
    own.extra = {"client": {"client": "bridge-address: no-such-host.invalid\n"}}
    own.configure()
    line = failure(own, "list-users", secrets=[ADMIN])
    assert "cannot resolve the host name 'no-such-host.invalid'" in line


@pytest.mark.once("our own processes and connections")
def test_a_client_without_a_server_is_told(own: Site) -> None:
    own.extra = {"bridge": {"bridge": "server-wait-timeout: 0.5\n"}}
    own.configure()
    bridge = own.start_bridge()
    line = failure(own, "list-users", secrets=[ADMIN], code=BUSY)
    assert line.startswith("the bridge says: no signing server became free in time")
    bridge.wait_for("no signing server became free in time")


@pytest.mark.once("our own processes and connections")
def test_fault_1_a_server_is_restarted_while_a_client_waits(own: Site, gate: Gate) -> None:
    with own.running() as (bridge, server):
        assert server.stop() == 0
        clients = [InFlight(own, "list-users", secrets=(ADMIN,)) for _ in range(3)]
        bridge.wait_for("Request 'list-users' of user 'admin'", 3)
        own.start_server()
        for client in clients:
            assert client.end(0) == (b"admin\n", "")


@pytest.mark.once("our own processes and connections")
def test_a_bridge_is_restarted_under_waiting_servers(own: Site, tmp_path: Path) -> None:
    with own.running() as (bridge, server):
        waiting = server.text.count("Waiting for a request at the bridge")
        assert bridge.stop() == 0
        server.wait_for("cannot connect to")
        own.start_bridge()
        server.wait_for("Waiting for a request at the bridge", waiting + 1)
        signs(own, tmp_path)
