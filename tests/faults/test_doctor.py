"""A site is broken in ways of docs/known-faults.md, and `doctor` names the layer and the cure.

One site runs for all tests here; what is broken are copies of its configuration and databases.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sigul_stack.database import AccessLimits, Database, KeyType, sqlite_url
from sigul_stack.pki import (
    Authority,
    LeafRequest,
    NSSDatabase,
    Role,
    make_site,
    put_bundle,
    read_certificates,
    read_pem,
)
from sigul_stack.pki.password_files import read_password
from sigul_stack.tools import TOOLS
from tests.faults.test_faults_setup import forged, import_old, readable_copy
from tests.site import (
    ADMIN_PASSWORD,
    BRIDGE_NAME,
    DAEMON_SECONDS,
    SERVER_NAME,
    Site,
    free_port,
    module,
    wait_until,
)

OK, WARNING, FAILED, UNKNOWN = 0, 1, 2, 3
NICKNAMES = {"client": "clients/admin", "bridge": "bridge", "server": "server"}
ROLES = {"client": Role.CLIENT, "bridge": Role.BRIDGE, "server": Role.SERVER}
#: Seconds that a peer which never answers is waited for here.
IMPATIENT = ("--timeout", "1")


@dataclass(frozen=True)
class Report:
    """What doctor printed with --json."""

    document: Mapping[str, Any]

    def layer(self, name: str) -> list[dict[str, Any]]:
        return [check for check in self.document["checks"] if check["layer"] == name]

    def state(self, name: str) -> set[str]:
        return {check["state"] for check in self.layer(name)}

    def text(self, name: str, state: str) -> str:
        return "\n".join(
            f"{check['finding']} | {check['cure']}"
            for check in self.layer(name)
            if check["state"] == state
        )

    @property
    def first(self) -> str:
        """The layer, the finding and the cure of the first failure."""
        for check in self.document["checks"]:
            if check["state"] == "failed":
                return f"{check['layer']}: {check['finding']} | {check['cure']}"
        return ""


@dataclass
class Patient:
    """A copy of one component's configuration and database, to break."""

    site: Site
    component: str
    directory: Path

    @property
    def nss(self) -> Path:
        return self.directory / "nss"

    @property
    def config(self) -> Path:
        return self.directory / f"{self.component}.conf"

    @property
    def database(self) -> NSSDatabase:
        return NSSDatabase(self.nss, read_password(self.nss / "nss-password"))

    def replace(self, old: str, new: str) -> None:
        text = self.config.read_text()
        assert old in text
        self.config.write_text(text.replace(old, new))

    def add(self, section: str, line: str) -> None:
        self.replace(f"[{section}]\n", f"[{section}]\n{line}\n")

    def dial(self, port: int) -> None:
        """Let the client dial another port, where something of the test listens."""
        self.replace(f"bridge-port: {self.site.client_port}", f"bridge-port: {port}")

    def remake(self, source: Path) -> None:
        """Take the NSS database of another place."""
        shutil.rmtree(self.nss)
        shutil.copytree(source, self.nss)

    def doctor(self, *options: str, code: int, stdin: bytes = b"", path: str = "") -> Report:
        done = self.site.run(
            *module("stack"), "doctor", self.component, "--json", *options, "-c", str(self.config),
            stdin=stdin, code=None, environment={"PATH": path} if path else None,
        )  # fmt: skip
        assert done.stderr == b"", done.stderr.decode()
        report = Report(json.loads(done.stdout))
        assert done.returncode == code, json.dumps(report.document, indent=2)
        return report


MakePatient = Callable[[str], Patient]


def with_status(site: Site) -> dict[str, dict[str, str]]:
    """Further lines that give both daemons a status socket."""
    return {
        name: {"daemon": f"status-socket: {site.path(f'run/{name}.sock')}\n"}
        for name in ("bridge", "server")
    }


@pytest.fixture(scope="module")
def running(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The site that runs; its files stay as they are."""
    shared = Site.copy(template, tmp_path_factory.mktemp("doctor") / "site")
    shared.extra = with_status(shared)
    shared.configure()
    with shared.running():
        yield shared


@pytest.fixture
def patient(running: Site, tmp_path: Path) -> MakePatient:
    """Makes copies to break."""

    def make(component: str) -> Patient:
        found = Patient(running, component, tmp_path)
        source = running.path("pki") / NICKNAMES[component]
        shutil.copytree(source, found.nss)
        text = running.path(f"{component}.conf").read_text()
        found.config.write_text(text.replace(str(source), str(found.nss)))
        return found

    return make


def reissued(site: Site, patient: Patient, request: LeafRequest, **when: Any) -> None:
    """Have the site's CA issue another certificate in place of the patient's."""
    directory = site.path("pki/ca")
    authority = Authority.open(directory, read_password(directory / "nss-password"))
    leaf = authority.issue(request, **when)
    patient.database.replace_leaf(leaf, ROLES[patient.component].nickname)


# ----------------------------------------------------------------------------------- what is well


@pytest.mark.parametrize("component", ["client", "bridge", "server"])
def test_nothing_is_wrong_with_a_site_that_runs(patient: MakePatient, component: str) -> None:
    report = patient(component).doctor(code=OK)
    assert report.document["component"] == component
    assert {check["state"] for check in report.document["checks"]} == {"ok"}
    attached = {"client": "inner TLS", "bridge": "attached servers", "server": "attached workers"}
    assert report.state(attached[component]) == {"ok"}


@pytest.mark.once("our own questions, and files")
def test_the_component_is_told_by_the_file_and_the_report_is_for_people(
    running: Site, tmp_path: Path
) -> None:
    named = tmp_path / "site.conf"
    shutil.copy(running.path("client.conf"), named)
    done = running.run(
        *module("stack"), "doctor", "--batch", "-c", str(named), secrets=[ADMIN_PASSWORD]
    )
    lines = done.stdout.decode().splitlines()
    assert lines[0] == "client: ok"
    assert any(line.startswith("ok       rights           user 'admin' has") for line in lines)
    assert not any(line.startswith("First failure") for line in lines)

    named.write_text(named.read_text().replace(SERVER_NAME, "signer.example.org"))
    done = running.run(*module("stack"), "doctor", "-c", str(named), code=FAILED)
    assert done.stdout.decode().splitlines()[-2].startswith("First failure: inner TLS: ")
    assert done.stdout.decode().splitlines()[-1].startswith("Cure: correct server-hostname")

    named.write_text("[nss]\n")
    done = running.run(*module("stack"), "doctor", "-c", str(named), code=1)
    assert b"neither its name nor its sections tell" in done.stderr


@pytest.mark.once("our own questions, and files")
def test_requests_of_others_go_on_while_a_server_is_looked_at(
    running: Site, patient: MakePatient
) -> None:
    """What doctor shows to the port for servers is never taken for one."""
    (bridge, server) = running.processes
    patient("server").doctor(code=OK)
    bridge.wait_for("the peer presented no certificate")
    # All that it takes for servers are the server's workers, however many those are by now.
    wait_until(
        lambda: (
            bridge.text.count("Server authenticated")
            == server.text.count("Waiting for a request at the bridge")
        ),
        DAEMON_SECONDS,
        "as many workers as servers",
    )
    running.sigul("list-users", secrets=[ADMIN_PASSWORD])


# ------------------------------------------------------------------------- configuration: 17, 19


@pytest.mark.once("our own questions, and files")
def test_fault_17_an_option_in_the_wrong_section(patient: MakePatient) -> None:
    broken = patient("client")
    broken.add("client", "nss-max-tls: tls1.3")
    broken.add("nss", "bridge-hostnam: x")
    report = broken.doctor(code=WARNING)
    said = report.text("configuration", "warning")
    assert "[client] nss-max-tls is unknown and ignored | it belongs in section [nss]" in said
    assert "did you mean bridge-hostname of section [client]?" in said


@pytest.mark.once("our own questions, and files")
def test_a_configuration_that_cannot_be_right_hides_every_later_layer(
    patient: MakePatient,
) -> None:
    broken = patient("server")
    broken.replace("bridge-port: ", "bridge-port: 4433three")
    report = broken.doctor(code=FAILED)
    assert report.first.startswith("configuration: ")
    assert "[server] bridge-port" in report.first
    others = [check for check in report.document["checks"] if check["layer"] != "configuration"]
    assert {check["layer"] for check in others} > {"NSS database", "database", "outer TLS"}
    assert all(check["state"] == "unknown" for check in others)
    assert all(check["finding"] == "not looked at" for check in others)


@pytest.mark.once("our own questions, and files")
def test_a_configuration_that_is_not_there(patient: MakePatient) -> None:
    broken = patient("bridge")
    broken.config.unlink()
    assert "cannot be read" in broken.doctor(code=FAILED).first


@pytest.mark.once("our own questions, and files")
def test_a_directory_that_a_daemon_needs(patient: MakePatient) -> None:
    broken = patient("server")
    spool = broken.site.path("server/spool")
    broken.replace(f"spool-directory: {spool}", f"spool-directory: {spool}-of-old")
    first = broken.doctor(code=FAILED).first
    assert first.startswith("configuration: ")
    assert "install -d -m 0700" in first


@pytest.mark.once("our own questions, and files")
def test_fault_19_secrets_in_a_configuration_that_everybody_may_read(patient: MakePatient) -> None:
    broken = patient("client")
    password = (broken.nss / "nss-password").read_text()
    broken.replace(f"nss-password-file: {broken.nss}/nss-password", f"nss-password: {password}")
    broken.config.chmod(0o644)
    report = broken.doctor(code=FAILED)
    assert report.first.startswith("secrets: everybody on this machine may read")
    assert "[nss] nss-password" in report.first
    assert "name that with nss-password-file" in report.first
    assert password not in json.dumps(report.document)
    broken.config.chmod(0o600)
    assert broken.doctor(code=OK).state("secrets") == {"ok"}


@pytest.mark.once("our own questions, and files")
def test_fault_19_a_password_file_that_everybody_may_read(patient: MakePatient) -> None:
    broken = patient("bridge")
    (broken.nss / "nss-password").chmod(0o644)
    first = broken.doctor(code=FAILED).first
    assert first.startswith("secrets: everybody on this machine may read the secret in")
    assert "chmod 0600" in first


# ------------------------------------------------------------------------ NSS database: 9, 18, 20


def test_fault_20_a_database_of_the_old_format(patient: MakePatient) -> None:
    broken = patient("client")
    shutil.rmtree(broken.nss)
    broken.nss.mkdir()
    for name in ("cert8.db", "key3.db", "secmod.db"):
        (broken.nss / name).write_bytes(b"\0\x06\x15\x61")
    broken.replace(f"nss-password-file: {broken.nss}/nss-password", "nss-password: x")
    broken.config.chmod(0o600)
    report = broken.doctor(code=FAILED)
    assert report.first.startswith("NSS database: ")
    assert "old format (cert8.db, key3.db)" in report.first
    assert f"sigul-stack pki convert {broken.nss}" in report.first
    for layer in ("password", "certificate", "private key", "outer TLS", "inner TLS"):
        assert report.state(layer) == {"unknown"}
    # What does not rest on it is looked at all the same.
    assert report.state("TCP") == {"ok"}


def test_fault_20_what_was_left_after_a_conversion(patient: MakePatient) -> None:
    broken = patient("bridge")
    (broken.nss / "cert8.db").write_bytes(b"\0\x06\x15\x61")
    report = broken.doctor(code=WARNING)
    assert "old private keys | remove cert8.db" in report.text("NSS database", "warning")
    broken.replace(f"nss-dir: {broken.nss}", f"nss-dir: dbm:{broken.nss}")
    assert f"write nss-dir: {broken.nss}" in broken.doctor(code=FAILED).first


def test_no_database(patient: MakePatient) -> None:
    broken = patient("server")
    (broken.nss / "key4.db").unlink()
    assert "one is missing" in broken.doctor(code=FAILED).first
    (broken.nss / "cert9.db").unlink()
    first = broken.doctor(code=FAILED).first
    assert first.startswith("NSS database: ")
    assert "make one with: sigul-stack pki issue" in first


def test_fault_18_a_read_only_database_and_any_uid_are_well(running: Site) -> None:
    # Only root can become somebody else; others show it as whoever they are.
    identity = {"user": 54321, "group": 54321, "extra_groups": []} if os.geteuid() == 0 else {}
    with readable_copy(running) as (top, environment):
        done = subprocess.run(  # type: ignore[call-overload]
            [
                str(Path(sys.executable).resolve()), "-m", "sigul_stack.cli.stack", "doctor",
                "--json", "-c", str(top / "client.conf"),
            ],
            capture_output=True, env=environment, cwd="/", timeout=60, check=False, **identity,
        )  # fmt: skip
        assert done.stderr == b""
        report = Report(json.loads(done.stdout))
    assert "read-only, which is enough" in report.layer("NSS database")[0]["finding"]
    assert report.state("inner TLS") == {"ok"}
    # That everybody may read the password in such a copy is the only thing wrong with it.
    assert report.first.startswith("secrets: everybody on this machine may read the secret in ")


def test_fault_09_a_password_of_another_deployment(patient: MakePatient) -> None:
    broken = patient("client")
    when = datetime.datetime(2021, 2, 3, tzinfo=datetime.UTC).timestamp()
    os.utime(broken.nss / "key4.db", (when, when))
    (broken.nss / "nss-password").write_text("another password")
    report = broken.doctor(code=FAILED)
    assert report.first.startswith(
        "password: this password does not open this database (made 2021-02-03 00:00 UTC, written "
    )
    assert "that the database was made with" in report.first
    assert report.state("certificate") == {"unknown"}


@pytest.mark.parametrize(
    ("behind", "said"),
    [
        ("\n\n", "a line end or NUL byte too many; without it, it opens"),
        ("\0\n", "a line end or NUL byte too many; without it, it opens"),
        (" ", "without the blanks around it, it does"),
    ],
    ids=["two lines", "NUL and line", "blank"],
)
def test_fault_09_too_much_in_a_password_file(patient: MakePatient, behind: str, said: str) -> None:
    broken = patient("server")
    path = broken.nss / "nss-password"
    path.write_text(path.read_text() + behind)
    first = broken.doctor(code=FAILED).first
    assert first.startswith("password: ")
    assert said in first.replace(" | ", "; ")
    assert "printf %s, not echo" in first


@pytest.mark.parametrize(("end", "name"), [("\n", "a line end"), ("\0", "a NUL byte")])
def test_fault_09_a_stray_end_that_is_left_out(patient: MakePatient, end: str, name: str) -> None:
    broken = patient("bridge")
    path = broken.nss / "nss-password"
    path.write_text(path.read_text() + end)
    report = broken.doctor(code=WARNING)
    assert f"ends with {name}" in report.text("password", "warning")


@pytest.mark.once("our own questions, and files")
def test_a_password_that_nobody_can_be_asked_for(patient: MakePatient) -> None:
    broken = patient("client")
    broken.replace(f"nss-password-file: {broken.nss}/nss-password", "")
    password = (broken.nss / "nss-password").read_bytes()
    # A session of its own has no terminal to ask at.
    done = subprocess.run(
        [*module("stack"), "doctor", "--json", "-c", str(broken.config)],
        stdin=subprocess.DEVNULL, capture_output=True, env=broken.site.environment, timeout=60,
        check=False, start_new_session=True,
    )  # fmt: skip
    assert done.returncode == UNKNOWN
    report = Report(json.loads(done.stdout))
    assert "set nss-password-file in [nss]" in report.text("password", "unknown")
    given = broken.doctor("--batch", code=OK, stdin=password + b"\0admin-pw\0")
    assert given.state("rights") == {"ok"}


# ----------------------------------------------------------------- certificates: 12, 13, 14, 15


def test_no_certificate_of_that_nickname(patient: MakePatient) -> None:
    broken = patient("client")
    broken.add("client", "client-cert-nickname: my-cert")
    first = broken.doctor(code=FAILED).first
    assert first.startswith("certificate: there is no certificate with the nickname 'my-cert'")
    assert "sigul-client-cert" in first


def test_a_certificate_without_its_key(patient: MakePatient) -> None:
    broken = patient("client")
    leaf = broken.database.find("sigul-client-cert")
    authority = broken.database.find("sigul-ca")
    password = read_password(broken.nss / "nss-password")
    for name in ("cert9.db", "key4.db", "pkcs11.txt"):
        (broken.nss / name).unlink()
    with NSSDatabase(broken.nss, password).making() as store:
        store.add_certificate(authority.certificate, "sigul-ca", "CT,,")
        store.add_certificate(leaf.certificate, "sigul-client-cert", ",,")
    first = broken.doctor(code=FAILED).first
    assert first.startswith("private key: 'sigul-client-cert' has no private key here")


@pytest.mark.once("our own questions, and files")
def test_dates(running: Site, patient: MakePatient, tmp_path: Path) -> None:
    broken = patient("client")
    request = LeafRequest(Role.CLIENT, "admin", (), timedelta(days=10))
    reissued(running, broken, request)
    assert "in 9 days | renew it" in broken.doctor(code=WARNING).text("certificate", "warning")
    now = datetime.datetime.now(datetime.UTC)
    reissued(running, broken, request, now=now + timedelta(days=5))
    assert "is this machine's clock right?" in broken.doctor(code=FAILED).first
    past = make_site(
        tmp_path / "past", bridge=BRIDGE_NAME, server=SERVER_NAME, users=["admin"],
        now=now - timedelta(days=3 * 365),
    )  # fmt: skip
    broken.remake(past.client("admin").directory)
    first = broken.doctor(code=FAILED).first
    assert first.startswith("certificate: 'sigul-client-cert' expired on ")
    assert "sigul-stack pki renew" in first


@pytest.mark.once("our own questions, and files")
def test_fault_15_certificates_for_centuries(tmp_path: Path, patient: MakePatient) -> None:
    ages = timedelta(days=300 * 365)
    made = make_site(
        tmp_path / "ages", bridge=BRIDGE_NAME, server=SERVER_NAME, users=[],
        lifetime=ages, authority_lifetime=ages,
    )  # fmt: skip
    broken = patient("bridge")
    broken.remake(made.bridge.directory)
    said = broken.doctor(code=FAILED).text("certificate", "warning")
    assert "'sigul-bridge-cert' is valid for 300 years" in said
    assert "'sigul-ca' is valid for 300 years" in said
    assert "sigul-stack pki renew" in said


def test_fault_14_the_key_of_the_ca_in_a_bridges_database(
    running: Site, patient: MakePatient
) -> None:
    broken = patient("bridge")
    broken.remake(running.path("pki/ca"))
    request = LeafRequest(Role.BRIDGE, BRIDGE_NAME)
    authority = Authority.open(broken.nss, read_password(broken.nss / "nss-password"))
    broken.database.replace_leaf(authority.issue(request), "sigul-bridge-cert")
    first = broken.doctor(code=FAILED).first
    assert first.startswith("secrets: the private key of the CA 'sigul-ca' is in here")
    assert "without it (sigul-stack pki issue)" in first


def test_fault_12_a_name_that_the_certificate_lacks(patient: MakePatient) -> None:
    first = patient("server").doctor("--name", "signer.example.org", code=FAILED).first
    assert first.startswith("certificate: 'sigul-server-cert' does not name signer.example.org")
    assert "SSL_ERROR_BAD_CERT_DOMAIN" in first
    assert "renew it with --san" in first


@pytest.mark.parametrize("component", ["client", "server"])
def test_fault_12_a_bridge_by_another_name(patient: MakePatient, component: str) -> None:
    broken = patient(component)
    broken.replace(
        f"bridge-hostname: {BRIDGE_NAME}",
        "bridge-hostname: relay.example.org\nbridge-address: 127.0.0.1",
    )
    first = broken.doctor(code=FAILED).first
    assert first.startswith("outer TLS: the peer's certificate does not name relay.example.org")
    assert "--san relay.example.org" in first


def test_fault_12_a_server_by_another_name(patient: MakePatient) -> None:
    broken = patient("client")
    broken.replace(f"server-hostname: {SERVER_NAME}", "server-hostname: signer.example.org")
    report = broken.doctor(code=FAILED)
    assert report.state("outer TLS") == {"ok"}
    assert report.first.startswith(
        "inner TLS: the server's certificate does not name signer.example.org"
    )
    assert "correct server-hostname" in report.first


def test_fault_13_a_serial_that_was_used_again(site: Site, tmp_path: Path) -> None:
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
    for component in ("client", "server"):
        first = Patient(site, component, site.directory).doctor(code=FAILED).first
        assert first.startswith("outer TLS: ")
        assert "SEC_ERROR_REUSED_ISSUER_AND_SERIAL" in first
        assert "remove the old CA's certificates" in first


def test_a_bridge_of_another_ca(running: Site, tmp_path: Path, patient: MakePatient) -> None:
    other = make_site(tmp_path / "other", bridge=BRIDGE_NAME, server=SERVER_NAME, users=["admin"])
    broken = patient("client")
    broken.remake(other.client("admin").directory)
    first = broken.doctor(code=FAILED).first
    assert first.startswith("outer TLS: our NSS database does not ")
    assert "the CA that issued the peer's certificate" in first
    assert "pki import --ca" in first
    # It knows the bridge's CA as well, and the bridge still does not know ours.
    broken.database.add_authority(*read_certificates(running.path("pki/ca/ca.pem")))
    first = broken.doctor(code=FAILED).first
    assert first.startswith("outer TLS: the peer refuses our certificate")
    assert "import into the peer's NSS database" in first


# --------------------------------------------------------------------------------- the network: 1


@contextlib.contextmanager
def listener(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port where each connection is given to `answer`, and then kept open until the end."""
    with contextlib.ExitStack() as stack, socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer = stack.enter_context(server.accept()[0])
                    answer(peer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)


@pytest.mark.once("our own questions, and files")
def test_a_name_that_nothing_resolves(patient: MakePatient) -> None:
    broken = patient("client")
    broken.replace(f"bridge-hostname: {BRIDGE_NAME}", "bridge-hostname: bridge.invalid")
    report = broken.doctor(code=FAILED)
    assert report.first.startswith("name resolution: cannot resolve the host name 'bridge.invalid'")
    assert "hosts file or DNS" in report.first
    assert report.state("TCP") == {"unknown"}


@pytest.mark.once("our own questions, and files")
@pytest.mark.parametrize("component", ["client", "server"])
def test_a_port_where_nothing_listens(patient: MakePatient, component: str) -> None:
    broken = patient(component)
    ports = {"client": broken.site.client_port, "server": broken.site.server_port}
    broken.replace(f"bridge-port: {ports[component]}", f"bridge-port: {free_port()}")
    report = broken.doctor(code=FAILED)
    assert report.first.startswith("TCP: ")
    assert "refuses the connection" in report.first
    assert "start the bridge" in report.first
    assert report.state("outer TLS") == {"unknown"}


@pytest.mark.once("our own questions, and files")
def test_a_firewall_that_drops(patient: MakePatient) -> None:
    """A listener whose queue is full answers as a firewall that drops does: not at all."""
    broken = patient("client")
    with socket.socket() as server, contextlib.ExitStack() as stack:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        broken.dial(server.getsockname()[1])
        first = broken.doctor(*IMPATIENT, code=FAILED).first
    assert first.startswith("TCP: ")
    assert "does not answer in time: a firewall drops" in first
    assert "open the port" in first


def test_fault_01_a_peer_that_does_not_begin_its_handshake(patient: MakePatient) -> None:
    broken = patient("client")
    with listener(lambda _peer: None) as port:
        broken.dial(port)
        report = broken.doctor(*IMPATIENT, code=FAILED)
    assert report.state("TCP") == {"ok"}
    assert report.first.startswith(
        "outer TLS: the peer took the connection, but did not finish its TLS handshake in 1 s"
    )
    assert "a bridge of 1.x begins the handshake only when" in report.first


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda peer: peer.close(), "ended the connection during the TLS handshake"),
        (lambda peer: peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "does not speak TLS"),
    ],
    ids=["closes", "HTTP"],
)
def test_a_peer_that_is_no_bridge(
    patient: MakePatient, answer: Callable[[socket.socket], None], said: str
) -> None:
    broken = patient("client")
    with listener(answer) as port:
        broken.dial(port)
        first = broken.doctor(code=FAILED).first
    assert first.startswith("outer TLS: ")
    assert said in first
    assert "correct the port" in first


def test_tls_versions_that_do_not_meet(site: Site) -> None:
    site.extra = with_status(site)
    site.extra["bridge"]["nss"] = "nss-max-tls: tls1.2\n"
    site.extra["client"] = {"nss": "nss-min-tls: tls1.3\nnss-max-tls: tls1.3\n"}
    site.configure()
    site.start_bridge()
    first = Patient(site, "client", site.directory).doctor(code=FAILED).first
    assert first.startswith("outer TLS: the two sides have no TLS version in common")
    assert "nss-min-tls and nss-max-tls" in first


def test_a_newest_tls_version_that_is_not_the_newest(patient: MakePatient) -> None:
    broken = patient("client")
    broken.add("nss", "nss-max-tls: tls1.2\nnss-old-ciphers: yes")
    report = broken.doctor(code=WARNING)
    said = report.text("configuration", "warning")
    assert "nss-max-tls is tls1.2, so no newer TLS is ever used" in said
    assert "nss-old-ciphers: cipher suites are taken that have no" in said
    assert "TLS_ECDHE_" in report.text("outer TLS", "ok")


@pytest.mark.parametrize(
    ("component", "session"),
    [
        ("bridge", "outer"),
        *(
            pytest.param(*one, marks=pytest.mark.once("our own words; NSS's versions are above"))
            for one in (("server", "inner"), ("client", ""))
        ),
    ],
)
def test_an_oldest_tls_version_that_shuts_clients_out(
    patient: MakePatient, component: str, session: str
) -> None:
    """At bridge and server; which peers a client wants is the user's own business."""
    broken = patient(component)
    words = "clients that go no further than TLS 1.2"
    said = broken.doctor(code=OK).text("configuration", "warning")
    assert words not in said
    for lines, shut_out in (
        ("nss-min-tls: tls1.2\nnss-max-tls: tls1.3", False),
        ("nss-min-tls: tls1.3", True),
        ("nss-min-tls: tls1.3\nnss-max-tls: tls1.3", True),
        ("nss-min-tls: tls1.0", False),
    ):
        text = broken.config.read_text()
        broken.add("nss", lines)
        code = WARNING if (session and shut_out) or "1.0" in lines else OK
        said = broken.doctor(code=code).text("configuration", "warning")
        assert (words in said) == (bool(session) and shut_out)
        if words in said:
            assert f"get no {session} session" in said
            assert "siguldry" in said
            assert "set nss-min-tls to tls1.2" in said
        broken.config.write_text(text)


@pytest.mark.once("our own questions, and files")
def test_no_server_is_attached(site: Site) -> None:
    site.extra = with_status(site)
    site.configure()
    bridge = Patient(site, "bridge", site.directory)
    first = bridge.doctor(code=FAILED).first
    assert first.startswith("status: no daemon answers at ")
    assert "is it running" in first
    site.start_bridge()
    first = bridge.doctor(code=FAILED).first
    assert first.startswith("attached servers: no signing server is attached")
    assert "doctor server" in first
    report = Patient(site, "client", site.directory).doctor(*IMPATIENT, code=FAILED)
    assert report.state("outer TLS") == {"ok"}
    assert report.first.startswith("inner TLS: no signing server took a request within 1 s")
    assert "doctor server" in report.first


# --------------------------------------------------------------------------------- rights: 8, 10


@pytest.mark.once("our own questions, and files")
def test_fault_08_a_password_that_a_newline_ends(patient: MakePatient) -> None:
    broken = patient("client")
    report = broken.doctor("--batch", code=FAILED, stdin=b"admin-pw\n")
    assert report.state("inner TLS") == {"ok"}
    assert report.first.startswith("rights: Administrator's password: input ended before the NUL")
    assert "there was a newline instead, as `echo password |` gives it" in report.first
    report = broken.doctor("--batch", code=FAILED, stdin=b"admin-pw\n\0")
    assert "ends with a line end, which counts" in report.text("rights", "warning")


@pytest.mark.once("our own questions, and files")
def test_fault_10_a_wrong_password_and_a_wrong_user(patient: MakePatient) -> None:
    broken = patient("client")
    first = broken.doctor("--batch", code=FAILED, stdin=b"wrong\0").first
    assert first.startswith("rights: the server refuses user 'admin': the password is wrong, or")
    assert "`Authentication failed:`" in first
    first = broken.doctor("--batch", "-u", "alice", code=FAILED, stdin=b"admin-pw\0").first
    assert first.startswith("rights: the server refuses user 'alice'; the certificate is for 'adm")
    assert "set user-name (or -u) to admin" in first
    assert "lenient-username-check" in first


@pytest.mark.once("our own questions, and files")
def test_rights_on_a_key(running: Site, patient: MakePatient) -> None:
    running.sigul("new-key", "k1", secrets=[ADMIN_PASSWORD, "k1-pw"])
    broken = patient("client")
    report = broken.doctor("--batch", "--key", "k1", code=OK, stdin=b"k1-pw\0")
    assert "the passphrase of key 'k1'" in report.layer("rights")[0]["finding"]
    first = broken.doctor("--batch", "--key", "k1", code=FAILED, stdin=b"other\0").first
    assert first.startswith("rights: the server refuses user 'admin' key 'k1'")


# -------------------------------------------------------------------------------------- a bridge: 2


def test_fault_02_a_bridge_that_takes_any_certificate_for_a_servers(patient: MakePatient) -> None:
    broken = patient("bridge")
    broken.replace(f"server-cn: {SERVER_NAME}", "")
    report = broken.doctor(code=WARNING)
    assert "set server-cn in [bridge]" in report.text("roles", "warning")


def test_a_bridge_that_could_play_the_server(running: Site, patient: MakePatient) -> None:
    broken = patient("bridge")
    reissued(running, broken, LeafRequest(Role.BRIDGE, BRIDGE_NAME, (SERVER_NAME,)))
    first = broken.doctor(code=FAILED).first
    assert first.startswith("roles: the bridge's certificate also names the server")
    assert "a name of its own" in first


@pytest.mark.once("our own questions, and files")
def test_ports_of_a_bridge(patient: MakePatient) -> None:
    broken = patient("bridge")
    broken.replace(f": {broken.site.server_port}", f": {free_port()}")
    report = broken.doctor(code=OK)
    assert [check["values"]["running"] for check in report.layer("ports")] == [True, False]
    with listener(lambda peer: peer.close()) as port:
        broken.replace(f"client-listen-port: {broken.site.client_port}",
                       f"client-listen-port: {port}")  # fmt: skip
        first = broken.doctor(code=FAILED).first
    assert first.startswith(f"ports: port {port} (for clients) is taken, and not by a bridge")
    assert "ss -ltnp" in first


# ------------------------------------------------------------------------------------- a server: 16


@pytest.mark.once("our own questions, and files")
def test_a_server_without_a_database_or_an_administrator(patient: MakePatient) -> None:
    broken = patient("server")
    database = broken.directory / "new.sqlite"
    broken.replace(str(broken.site.path("server/server.sqlite")), str(database))
    first = broken.doctor(code=FAILED).first
    assert first.startswith("database: there is no database")
    assert "sigul_server_create_db" in first
    broken.site.run(*module("server_create_db"), "-c", str(broken.config))
    first = broken.doctor(code=FAILED).first
    assert first.startswith("database: there is no administrator in it")


@pytest.mark.once("our own questions, and files")
def test_limits_of_accesses_are_told_and_have_their_access(patient: MakePatient) -> None:
    broken = patient("server")
    original, file = broken.site.path("server/server.sqlite"), broken.directory / "copy.sqlite"
    shutil.copy(original, file)
    broken.replace(str(original), str(file))
    with contextlib.closing(Database(sqlite_url(file))) as database, database.write() as writer:
        writer.add_key("k", KeyType.ECC, "ab" * 20)
        limits = AccessLimits(frozenset({"sign-rpm"}))
        writer.add_access("admin", "k", b"", key_admin=True, limits=limits)
    # It is in no store.
    report = broken.doctor(code=WARNING)
    assert "key 'k': the key is not in the key store" in report.text("key store", "warning")
    assert not report.text("database", "warning")
    assert any("1 accesses with limits" in check["finding"] for check in report.layer("database"))
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("INSERT INTO key_access_limits VALUES (77, 'sign-rpm', NULL)")
    report = broken.doctor(code=WARNING)
    assert any(
        "1 limits in it are of acc" in check["finding"] for check in report.layer("database")
    )


@pytest.mark.once("our own questions, and files")
def test_fault_16_state_in_several_places(patient: MakePatient) -> None:
    broken = patient("server")
    said = "\n".join(check["finding"] for check in broken.doctor(code=OK).layer("key store"))
    assert f"state lies under '{broken.site.path('server')}': save that" in said
    with_home = Path("/var/tmp") / f"doctor-{os.getpid()}"
    with_home.mkdir(mode=0o700)
    try:
        broken.replace(str(broken.site.path("server/gnupg")), str(with_home))
        # Whatever keys other tests have made.
        home = broken.site.path("server/gnupg")
        shutil.copytree(home, with_home, ignore=shutil.ignore_patterns("S.*"), dirs_exist_ok=True)
        report = broken.doctor(code=OK)
        said = "\n".join(check["finding"] for check in report.layer("key store"))
        assert "state lies in several places, save all" in said
        with_home.chmod(0o755)
        report = broken.doctor(code=WARNING)
        assert f"chmod 0700 '{with_home}'" in report.text("key store", "warning")
    finally:
        shutil.rmtree(with_home)


def only(directory: Path, *left_out: str) -> str:
    """A PATH with all tools but some."""
    directory.mkdir()
    for name in {tool.name for tool in TOOLS} - set(left_out):
        if found := shutil.which(name):
            (directory / name).symlink_to(found)
    return str(directory)


@pytest.mark.once("our own questions, and files")
def test_tools_that_are_missing(patient: MakePatient, tmp_path: Path) -> None:
    broken = patient("server")
    report = broken.doctor(code=WARNING, path=only(tmp_path / "few", "osslsigncode", "rpmkeys"))
    said = report.text("tools", "warning")
    assert "osslsigncode is missing; until it is there, not available: PKCS11 keys" in said
    assert "install the package osslsigncode" in said
    assert "install the package rpm" in said
    first = broken.doctor(code=FAILED, path=only(tmp_path / "fewer", "gpg")).first
    assert first.startswith("tools: gpg is missing")
    assert "install the package gnupg" in first
    first = broken.doctor(code=FAILED, path=only(tmp_path / "least", "certutil")).first
    assert first.startswith("password: the program certutil is not installed")


@pytest.mark.once("our own questions, and files")
def test_a_server_says_at_start_what_it_cannot_do(site: Site, tmp_path: Path) -> None:
    server = site.start("server", environment={"PATH": only(tmp_path / "few", "osslsigncode")})
    server.wait_for(
        "osslsigncode is not installed; install the package osslsigncode; until then not available:"
        " PKCS11 keys"
    )
