"""Faults 7, 8, 12, 13, 17, 18 and 23 (docs/known-faults.md): set-up, and single processes."""

from __future__ import annotations

import contextlib
import datetime
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

import sigul_stack
from sigul_stack.pki import NSSDatabase, make_site, put_bundle, read_pem
from sigul_stack.pki.password_files import read_password
from sigul_stack.transport import nested
from tests.faults.conftest import PeerFactory
from tests.faults.networks import network
from tests.faults.observe import SETTLE_SECONDS, Storm, workers, works
from tests.site import BRIDGE_NAME, SERVER_NAME, Process, Site, module, wait_until

SECONDS = 30.0


# ---------------------------------------------------------------------------- 7: NSS and forking

#: Runs in every Python process of a site: notes for each fork whether NSS was open.
_GUARD = """
import os, sys

def _note():
    module = sys.modules.get("nss.nss")
    state = "open" if module is not None and module.nss_is_initialized() else "closed"
    with open(os.environ["SIGUL_TEST_FORKS"], "a") as notes:
        notes.write(f"{state} {os.getpid()} {' '.join(sys.argv)}\\n")

os.register_at_fork(before=_note)
"""


class Forks:
    """The forks of all processes of a site."""

    def __init__(self, site: Site) -> None:
        self._notes = site.path("forks")
        self._notes.touch()
        guard = site.path("guard")
        guard.mkdir()
        (guard / "sitecustomize.py").write_text(_GUARD)
        site.variables = {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(guard), os.environ.get("PYTHONPATH")])),
            "SIGUL_TEST_FORKS": str(self._notes),
        }

    def states(self) -> list[str]:
        """Whether NSS was open, for each fork so far."""
        return [line.split()[0] for line in self._notes.read_text().splitlines()]


def test_fault_07_the_guard_notices_a_fork_with_nss_open(site: Site) -> None:
    forks = Forks(site)
    program = (
        "import os, nss.nss as nss\n"
        "for _ in range(2):\n"
        "    pid = os.fork()\n"
        "    if pid == 0: os._exit(0)\n"
        "    os.waitpid(pid, 0)\n"
        "    nss.nss_is_initialized() or nss.nss_init_nodb()\n"
    )
    site.run(sys.executable, "-c", program)
    assert forks.states() == ["closed", "open"]


def settled(site: Site, bridge: Process, server: Process) -> set[int]:
    """The workers once all of them wait for a request, and none is ending."""
    Storm(site, bridge, server)
    return set(workers(server.popen.pid))


def test_fault_07_no_process_forks_after_nss_is_initialised(site: Site, peer: PeerFactory) -> None:
    """Requests, signatures, a crashed worker and its clean-up, the end."""
    forks = Forks(site)
    with site.running() as (bridge, server):
        works(site)
        site.sigul("new-key", "k1", secrets=["admin-pw", "k1-pw"])
        site.path("text").write_text("some text\n")
        site.sigul("sign-text", "k1", str(site.path("text")), secrets=["k1-pw"])
        client = peer(site, "client")
        before = settled(site, bridge, server)
        client.start(
            op="sign-text", fields={"key": b"k1"}, payload=bytes(9000), cut=5000, how="stall"
        )
        client.wait_for("stalled")
        wait_until(
            lambda: set(workers(server.popen.pid)) - before, SETTLE_SECONDS, "another worker"
        )
        for pid in before & set(workers(server.popen.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        server.wait_for("in the middle of a request")
        client.go()
        works(site)
        assert (bridge.popen.poll(), server.popen.poll()) == (None, None)
    # 1 check, 4 workers, one for each request and crash, 1 repair, 1 clean-up.
    assert len(forks.states()) >= 10
    assert set(forks.states()) == {"closed"}


def test_fault_07_not_in_the_background_either(site: Site) -> None:
    """`-d` forks first of all, and the daemon opens NSS itself."""
    forks = Forks(site)
    pids: list[int] = []
    directories = [
        f"--internal-log-dir={site.path('log')}", f"--internal-pid-dir={site.path('run')}",
    ]  # fmt: skip
    try:
        for name in ("bridge", "server"):
            site.run(
                *module(name), "-c", str(site.path(f"{name}.conf")), "-d", "-v", *directories,
                seconds=SECONDS,
            )  # fmt: skip
            pids.append(int(site.path(f"run/sigul_{name}.pid").read_text()))
        works(site)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        for name in ("bridge", "server")[: len(pids)]:
            path = site.path(f"run/sigul_{name}.pid")
            wait_until(lambda path=path: not path.exists(), SECONDS, f"the end of {name}")
    assert len(forks.states()) >= 7
    assert set(forks.states()) == {"closed"}


# ------------------------------------------------------------------------- 8: echo password | sigul


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        (b"admin-pw\n", "there was a newline instead, as `echo password |` gives it"),
        (b"", "nothing was there"),
        (b"admin-pw", "there was text, but no NUL after it"),
    ],
    ids=["newline", "nothing", "no end"],
)
def test_fault_08_a_secret_without_its_nul_is_told_as_such(
    site: Site, given: bytes, seen: str
) -> None:
    """Exit 1 and one line that tells what was seen and what to write, and not the secret."""
    refused = site.sigul("list-users", stdin=given, code=1)
    (line,) = refused.stderr.decode().splitlines()
    assert line.startswith("Error: ")
    assert "NUL" in line
    assert seen in line
    assert r"printf 'password\0' |" in line
    assert "admin-pw" not in line
    assert refused.stdout == b""


# ----------------------------------------------------------------------------- 12: names of hosts


def replaced(site: Site, name: str, old: str, new: str) -> None:
    """Change a line of a configuration file."""
    path = site.path(name)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_fault_12_a_name_that_the_servers_certificate_lacks(site: Site) -> None:
    """`server-hostname` differs from the name in the server's certificate."""
    replaced(site, "client.conf", f"server-hostname: {SERVER_NAME}", "server-hostname: signer")
    with site.running():
        refused = site.sigul("list-users", secrets=["admin-pw"], code=1)
        text = refused.stderr.decode()
        assert "SSL_ERROR_BAD_CERT_DOMAIN" in text
        assert "compare the configured host name with the certificate's names" in text
        assert "inner session" in text
        site.client_configuration("admin")
        works(site)


@pytest.mark.parametrize("program", ["client", "server"])
def test_fault_12_a_name_that_the_bridges_certificate_lacks(site: Site, program: str) -> None:
    site.addresses = {**site.addresses, "bridge": "127.0.0.1"}
    site.configure()
    replaced(site, f"{program}.conf", f"bridge-hostname: {BRIDGE_NAME}", "bridge-hostname: bridge")
    site.start_bridge()
    if program == "client":
        text = site.sigul("list-users", secrets=["admin-pw"], code=1).stderr.decode()
    else:
        server = site.start("server")
        server.wait_for("SSL_ERROR_BAD_CERT_DOMAIN")
        text = server.text
    assert "SSL_ERROR_BAD_CERT_DOMAIN" in text
    assert "compare the configured host name with the certificate's names" in text


def test_fault_12_the_kit_issues_every_name_that_a_component_is_reached_by(tmp_path: Path) -> None:
    site = Site(tmp_path / "site", addresses={"bridge": "127.0.0.1", "signer": "127.0.0.1"})
    make_site(
        site.path("pki"), bridge=BRIDGE_NAME, server=SERVER_NAME, users=["admin"],
        bridge_names=["bridge", "127.0.0.1"], server_names=["signer"],
    )  # fmt: skip
    site.configure()
    site.run(*module("server_create_db"), "-c", str(site.path("server.conf")))
    site.run(
        *module("server_add_admin"), "-c", str(site.path("server.conf")), "--batch", "-n", "admin",
        secrets=["admin-pw"],
    )  # fmt: skip
    replaced(site, "server.conf", f"bridge-hostname: {BRIDGE_NAME}", "bridge-hostname: bridge")
    replaced(site, "client.conf", f"bridge-hostname: {BRIDGE_NAME}", "bridge-hostname: 127.0.0.1")
    replaced(site, "client.conf", f"server-hostname: {SERVER_NAME}", "server-hostname: signer")
    with site.running():
        works(site)


# ---------------------------------------------------------------------------- 13: serial numbers


def certificates(directory: Path) -> list[x509.Certificate]:
    """All certificates in the databases of a site's `pki`."""
    found = []
    for database in sorted({path.parent for path in directory.rglob("cert9.db")}):
        held = NSSDatabase(database, read_password(database / "nss-password"))
        found += [item.certificate for item in held.certificates()]
    return found


def import_old(site: Site, component: str, certificate: x509.Certificate) -> None:
    """Leave a peer's old certificate in a component's database, as years of service do."""
    directory = site.path("pki") / component
    path = site.path("old.pem")
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    site.run(
        "certutil", "-A", "-n", "old", "-t", ",,", "-d", f"sql:{directory}",
        "-f", str(directory / "nss-password"), "-i", str(path),
    )  # fmt: skip


def test_fault_13_a_ca_that_is_made_again_reuses_no_serial(site: Site, tmp_path: Path) -> None:
    """Same names for CA and components; the databases still hold what the old CA issued."""
    again = tmp_path / "again"
    make_site(again, bridge=BRIDGE_NAME, server=SERVER_NAME, users=["admin"])
    old = certificates(site.path("pki"))
    new = certificates(again)
    # Bridge, server and admin; the CA's name itself says which CA it is.
    assert len({item.subject for item in old} & {item.subject for item in new}) == 3
    assert {item.serial_number for item in old}.isdisjoint(item.serial_number for item in new)
    assert all(item.serial_number.bit_length() > 64 for item in (*old, *new))

    (bridge,) = (
        item.certificate
        for item in NSSDatabase(
            site.path("pki/bridge"), read_password(site.path("pki/bridge/nss-password"))
        ).certificates()
        if not item.is_authority
    )
    shutil.rmtree(site.path("pki"))
    shutil.copytree(again, site.path("pki"))
    for component in ("clients/admin", "server"):
        import_old(site, component, bridge)
    with site.running():
        works(site)


def forged(original: x509.Certificate, directory: Path) -> tuple[Path, Path]:
    """A certificate with `original`'s names, issuer and serial, by another CA of the same name."""
    ca_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(original.subject)
        .issuer_name(original.issuer)
        .serial_number(original.serial_number)
        .public_key(key.public_key())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )
    for extension in original.extensions:
        if not isinstance(extension.value, x509.AuthorityKeyIdentifier | x509.SubjectKeyIdentifier):
            builder = builder.add_extension(extension.value, extension.critical)
    ca = (
        x509.CertificateBuilder()
        .subject_name(original.issuer)
        .issuer_name(original.issuer)
        .serial_number(x509.random_serial_number())
        .public_key(ca_key.public_key())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    certificate = builder.sign(ca_key, hashes.SHA256())
    files = directory / "forged.pem", directory / "forged.key"
    files[0].write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + ca.public_bytes(serialization.Encoding.PEM)
    )
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


def test_fault_13_a_serial_that_was_reused_is_named_with_its_cure(site: Site) -> None:
    """A CA was made again, by other tools, and counts its serial numbers from the start."""
    directory = site.path("pki/bridge")
    database = NSSDatabase(directory, read_password(directory / "nss-password"))
    (original,) = (item.certificate for item in database.certificates() if not item.is_authority)
    bundle = read_pem(*forged(original, site.directory), None)
    for name in ("cert9.db", "key4.db", "pkcs11.txt"):
        (directory / name).unlink()
    with database.making() as store:
        put_bundle(store, bundle, (), "sigul-bridge-cert")
    for component in ("clients/admin", "server"):
        import_old(site, component, original)
    site.start_bridge()
    server = site.start("server")
    server.wait_for("SEC_ERROR_REUSED_ISSUER_AND_SERIAL")
    refused = site.sigul("list-users", secrets=["admin-pw"], code=1).stderr.decode()
    for text in (server.text, refused):
        assert "SEC_ERROR_REUSED_ISSUER_AND_SERIAL" in text
        assert "as happens when a CA is made again under its old name: remove the old" in text


# --------------------------------------------------------- 17: options written into the wrong place


@pytest.mark.once("our own reading of configurations")
def test_fault_17_an_option_in_the_wrong_section_is_named_and_the_site_runs(site: Site) -> None:
    site.extra = {
        "bridge": {"nss": "server-cn: somebody\n"},
        "server": {"gnupg": "max-memory-payload-size: 1\n"},
        "client": {"nss": "user-name: somebody\n"},
    }
    site.configure()
    with site.running() as (bridge, server):
        done = site.sigul("list-users", secrets=["admin-pw"])
        for text, place, right in (
            (bridge.text, "[nss] server-cn", "[bridge]"),
            (server.text, "[gnupg] max-memory-payload-size", "[server]"),
            (done.stderr.decode(), "[nss] user-name", "[client]"),
        ):
            assert f"{place} is unknown and ignored; it belongs in section {right}" in text
            assert "WARNING" in text


# ----------------------------------------------------- 18: read-only NSS directories, any user ID

#: A user ID that no system has a name for.
STRANGER = 54321


@contextlib.contextmanager
def readable_copy(site: Site) -> Iterator[tuple[Path, dict[str, str]]]:
    """What a client needs, where everybody may read and nobody write; and its environment.

    Neither the checkout nor pytest's directories are for everybody to look into, so package and
    NSS binding are copied, too.
    """
    with tempfile.TemporaryDirectory(prefix="sigul-read-only-") as temporary:
        top = Path(temporary)
        package = Path(sigul_stack.__file__).parent
        shutil.copytree(package, top / "lib" / package.name)
        binding = find_spec("nss")
        assert binding is not None
        assert binding.origin is not None
        home = Path(binding.origin).parent
        shutil.copytree(home, top / "lib" / home.name)
        for libraries in home.parent.glob("python_nss*.libs"):  # a wheel brings its own
            # Some of them are links to the system's.
            shutil.copytree(libraries, top / "lib" / libraries.name, symlinks=True)
        for name in ("cryptography", "_cffi_backend"):  # with which the client checks the log
            library = find_spec(name)
            assert library is not None
            assert library.origin is not None
            origin = Path(library.origin)
            if library.submodule_search_locations is None:
                shutil.copy(origin, top / "lib")
            else:
                shutil.copytree(origin.parent, top / "lib" / name)
        shutil.copytree(site.path("pki/clients/admin"), top / "nss")
        shutil.copy(site.path("hosts"), top / "hosts")
        text = site.path("client.conf").read_text()
        (top / "client.conf").write_text(
            text.replace(str(site.path("pki/clients/admin")), str(top / "nss"))
        )
        for directory, _, files in os.walk(top):
            for file in (Path(directory) / name for name in files):
                if not file.is_symlink():
                    file.chmod(0o444)
            Path(directory).chmod(0o555)
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(top / "lib"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LD_PRELOAD": site.environment["LD_PRELOAD"],
            "NSS_WRAPPER_HOSTS": str(top / "hosts"),
            "HOME": "/nonexistent",
        }
        try:
            yield top, environment
        finally:
            for directory, _, _files in os.walk(top):
                Path(directory).chmod(0o755)


def test_fault_18_a_client_works_from_a_read_only_nss_directory_as_any_uid(site: Site) -> None:
    # Only root can become somebody else; others show it as whoever they are.
    identity = (
        {"user": STRANGER, "group": STRANGER, "extra_groups": []} if os.geteuid() == 0 else {}
    )
    with site.running(), readable_copy(site) as (top, environment):
        before = {path: path.stat().st_mtime_ns for path in (top / "nss").iterdir()}
        python = Path(sys.executable).resolve()

        def run(*command: str) -> subprocess.CompletedProcess[bytes]:
            return subprocess.run(  # type: ignore[no-any-return]
                [str(python), *command], input=b"admin-pw\0", capture_output=True,
                env=environment, cwd="/", timeout=SECONDS, check=False, **identity,  # type: ignore[call-overload]
            )  # fmt: skip

        allowed = run("-c", f"open({str(top / 'nss' / 'cert9.db')!r}, 'r+b')")
        assert b"PermissionError" in allowed.stderr, "the directory is not read-only at all"
        done = run(
            "-m", "sigul_stack.cli.sigul", "--batch", "-c", str(top / "client.conf"), "list-users"
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"admin\n", b"")
        assert {path: path.stat().st_mtime_ns for path in (top / "nss").iterdir()} == before


# ------------------------------------------------------------- 23: the inner session's socket pair

#: Connects to every new listener on loopback as soon as it is in the kernel's table.
_STRANGER = """
import socket

def listeners():
    with open("/proc/self/net/tcp") as table:
        for line in table.readlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and columns[1].startswith("0100007F:"):
                yield int(columns[1].partition(":")[2], 16)

known = set(listeners())
held = []
print("ready", flush=True)
while True:
    for port in set(listeners()) - known:
        stranger = socket.socket()
        stranger.settimeout(0.2)
        try:
            stranger.connect(("127.0.0.1", port))
            stranger.sendall(b"let me in")
            held.append(stranger)
        except OSError:
            stranger.close()
    del held[:-50]
"""


@contextlib.contextmanager
def stranger(prefix: tuple[str, ...]) -> Iterator[subprocess.Popen[str]]:
    """A program that connects to each listener on loopback, in a network of the test's own."""
    process = subprocess.Popen(
        [*prefix, sys.executable, "-c", _STRANGER], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


def is_pair(near: socket.socket, far: socket.socket) -> bool:
    """Whether two sockets are each other's ends, and on 127.0.0.1 alone."""
    for one, other in ((near, far), (far, near)):
        assert one.family == socket.AF_INET
        assert one.getsockname()[0] == "127.0.0.1"
        assert one.getpeername() == other.getsockname()
        one.settimeout(5)
        other.settimeout(5)
        token = os.urandom(16)
        one.sendall(token)
        if other.recv(64) != token:
            return False
    return True


def test_fault_23_the_pair_is_on_127_0_0_1_and_its_listener_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[tuple[str, int]] = []
    create = socket.create_server

    def note(*arguments: object, **options: object) -> socket.socket:
        listener: socket.socket = create(*arguments, **options)  # type: ignore[arg-type]
        made.append(listener.getsockname())
        return listener

    monkeypatch.setattr(socket, "create_server", note)
    near, far = nested.loopback_pair()
    with near, far:
        assert is_pair(near, far)
        ((address, port),) = made
        assert address == "127.0.0.1"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, port), timeout=5)


@pytest.mark.parametrize("count", [1, 5, 60, 100])
def test_fault_23_strangers_that_are_first_at_the_listener_are_sent_away(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """They connect between the listener's making and our own connection: the worst case."""
    create = socket.create_server
    strangers: list[socket.socket] = []

    def besieged(*arguments: object, **options: object) -> socket.socket:
        listener: socket.socket = create(*arguments, **options)  # type: ignore[arg-type]
        for _ in range(count):
            other = socket.socket()
            other.setblocking(False)
            other.connect_ex(listener.getsockname())
            strangers.append(other)
        return listener

    monkeypatch.setattr(socket, "create_server", besieged)
    near, far = nested.loopback_pair()
    with near, far, contextlib.ExitStack() as stack:
        for other in strangers:
            stack.enter_context(other)
        assert is_pair(near, far)
        ours = {near.getsockname(), far.getsockname()}
        assert ours.isdisjoint(other.getsockname() for other in strangers)


def test_fault_23_a_thread_that_keeps_connecting_to_each_listener_never_gets_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is connected before we are, each time, and goes on as long as the listener is there."""
    create = socket.create_server
    targets: queue.Queue[tuple[str, int] | None] = queue.Queue()
    got_in = threading.Event()
    heard: list[bytes] = []

    def connect() -> None:
        while (target := targets.get()) is not None:
            with contextlib.suppress(OSError):
                while True:
                    with socket.create_connection(target, timeout=1) as other:
                        other.sendall(b"let me in")
                        got_in.set()
                        heard.append(other.recv(64))

    def watched(*arguments: object, **options: object) -> socket.socket:
        listener: socket.socket = create(*arguments, **options)  # type: ignore[arg-type]
        got_in.clear()
        targets.put(listener.getsockname())
        assert got_in.wait(5)
        return listener

    monkeypatch.setattr(socket, "create_server", watched)
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    try:
        for _ in range(100):
            near, far = nested.loopback_pair()
            with near, far:
                assert is_pair(near, far)
    finally:
        targets.put(None)
        thread.join(30)
    assert not thread.is_alive()
    assert set(heard) <= {b""}


@pytest.mark.once("whom the server lets in, in a network of its own")
def test_fault_23_requests_are_served_beside_such_a_program(site: Site) -> None:
    with network() as net:
        site.prefix = net.here.prefix
        with site.running(), stranger(net.here.prefix) as process:
            for _ in range(5):
                works(site)
            assert process.poll() is None
