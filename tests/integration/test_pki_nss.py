"""`sigul_stack.pki` with real certutil, pk12util, openssl and NSS: what it makes, peers take.

NSS itself runs in processes of its own (`tests.nss_peer`), as a program of the site would run it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from sigul_stack.checks import State, any_failed
from sigul_stack.cli import pki as command
from sigul_stack.errors import ConfigurationError, NSSError, WrongNSSPassword
from sigul_stack.pki import (
    Authority,
    Component,
    DatabaseKind,
    KeyType,
    LeafRequest,
    Made,
    NSSDatabase,
    Permissions,
    Role,
    Site,
    Topic,
    inspect_database,
    make_site,
    read_pem,
    read_pkcs12,
    renew_leaf,
)
from sigul_stack.pki.authority import AUTHORITY_PEM
from sigul_stack.pki.certificate_info import current_time, issued, to_pem
from sigul_stack.pki.contents import put_authority, put_bundle, put_leaf
from sigul_stack.secret import Secret
from tests.held_data import held
from tests.site import fork
from tests.snapshots import snapshots, tree

BRIDGE, SERVER = "sigul-bridge.example.org", "sigul-server.example.org"
PASSWORD = Secret("throw-away")
LEGACY_PASSWORD = Secret("nss-pw")
DAY = timedelta(days=1)
FILES = {"cert9.db", "key4.db", "nss-password", "pkcs11.txt"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site that no test changes."""
    root = tmp_path_factory.mktemp("site")
    return make_site(
        root, bridge=BRIDGE, server=SERVER, users=["admin"], bridge_names=["bridge", "127.0.0.1"]
    )


@pytest.fixture
def site(made: Site, tmp_path: Path) -> Site:
    """A copy of it, to change."""
    old, new = made.authority_directory.parent, tmp_path / "site"
    shutil.copytree(old, new)

    def moved(component: Component) -> Component:
        return replace(component, directory=new / component.directory.relative_to(old))

    return replace(
        made,
        authority_directory=new / "ca",
        bridge=moved(made.bridge),
        server=moved(made.server),
        clients=tuple(moved(component) for component in made.clients),
    )


@pytest.fixture
def legacy(tmp_path: Path) -> Path:
    """The legacy site's databases: a CA without extensions that has all leaves' keys as well."""
    target = tmp_path / "legacy"
    shutil.copytree(held("legacy-site", "nss"), target)
    for path in target.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return target


def open_authority(site: Site) -> Authority:
    password = Secret((site.authority_directory / "nss-password").read_bytes())
    return Authority.open(site.authority_directory, password)


def openssl(*arguments: str, content: bytes | None = None) -> str:
    done = subprocess.run(
        ["openssl", *arguments], input=content, capture_output=True, timeout=60, check=False
    )
    text = done.stdout.decode() + done.stderr.decode()
    assert done.returncode == 0, text
    return text


def pki(*words: str | Path) -> int:
    """`sigul-stack pki …` in this process."""
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(["pki", *map(str, words)])
    status = args.func(args)
    assert isinstance(status, int)
    return status


# ------------------------------------------------------------------------- NSS in other processes


@dataclass(frozen=True)
class End:
    """One end of a handshake: whose database, and which host name it dials (None: it listens)."""

    directory: Path
    nickname: str
    hostname: str | None = None
    password_file: Path | None = None
    #: Whether it knows no suites of TLS 1.2, and no keys of its own as a listener, but of RSA.
    only_rsa: bool = False


def start_peer(
    end: End, connection: socket.socket | None = None, tls: str = "tls1.2", wait: bool = False
) -> subprocess.Popen[str]:
    order = {
        "directory": str(end.directory),
        "password_file": str(end.password_file or end.directory / "nss-password"),
        "nickname": end.nickname,
        "hostname": end.hostname,
        "tls": tls if connection else None,
        "wait": wait,
        "only_rsa": end.only_rsa,
    }
    return fork(
        [sys.executable, "-m", "tests.nss_peer", json.dumps(order)],
        stdin=connection or subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def answer_of(process: subprocess.Popen[str]) -> dict[str, object]:
    try:
        output, _ = process.communicate(timeout=60)
    except BaseException:
        process.kill()
        process.communicate(timeout=60)
        raise
    assert process.returncode == 0
    answer = json.loads(output.splitlines()[-1])
    assert isinstance(answer, dict)
    return answer


def nss_serial(directory: Path, nickname: str) -> object:
    """The serial number of the certificate that a program with this database would present."""
    return answer_of(start_peer(End(directory, nickname)))["serial"]


def handshake(
    dialler: End, listener: End, tls: str = "tls1.2"
) -> tuple[dict[str, object], dict[str, object]]:
    """What both ends say of a handshake over TCP: the dialler first."""
    with socket.create_server(("127.0.0.1", 0)) as waiting:
        near = socket.create_connection(waiting.getsockname()[:2])
        far, _ = waiting.accept()
    with near, far:
        processes = [
            start_peer(dialler, near, tls),
            start_peer(listener, far, tls),
        ]
    try:
        near_answer = answer_of(processes[0])
    except BaseException:
        processes[1].kill()
        processes[1].communicate(timeout=60)
        raise
    return near_answer, answer_of(processes[1])


def ends(site: Site) -> tuple[End, End, End]:
    bridge, server, client = site.bridge, site.server, site.client("admin")
    return (
        End(bridge.directory, bridge.nickname),
        End(server.directory, server.nickname),
        End(client.directory, client.nickname),
    )


def dialling(end: End, hostname: str) -> End:
    return End(end.directory, end.nickname, hostname, end.password_file)


@pytest.mark.parametrize("tls", ["tls1.2", "tls1.3"])
@pytest.mark.parametrize(
    ("dials", "listens", "hostname", "names"),
    [
        ("server", "bridge", BRIDGE, (SERVER, BRIDGE)),
        ("server", "bridge", "bridge", (SERVER, BRIDGE)),
        ("client", "bridge", BRIDGE, ("admin", BRIDGE)),
        ("client", "bridge", "127.0.0.1", ("admin", BRIDGE)),
        ("client", "server", SERVER, ("admin", SERVER)),
    ],
)
def test_issued_certificates_carry_every_handshake_of_a_site(
    made: Site, dials: str, listens: str, hostname: str, names: tuple[str, str], tls: str
) -> None:
    parties = dict(zip(("bridge", "server", "client"), ends(made), strict=True))
    near, far = handshake(dialling(parties[dials], hostname), parties[listens], tls)
    assert "error" not in near | far, (near, far)
    assert near["hostname"] is True
    assert near["verified"] is True
    assert far["verified"] is True
    assert (far["peer"], near["peer"]) == names


@pytest.fixture(scope="module")
def curves(made: Site, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The same site, all of whose leaves have P-256 keys now."""
    directory = tmp_path_factory.mktemp("p256") / "site"
    shutil.copytree(made.authority_directory.parent, directory)
    copy = make_site(directory, bridge=BRIDGE, server=SERVER, users=["admin"])
    for item in copy.components:
        renew_leaf(
            open_authority(copy), item.database, item.nickname,
            new_key=True, key_type=KeyType.P256,
        )  # fmt: skip
    return copy


@pytest.mark.parametrize("tls", ["tls1.2", "tls1.3"])
@pytest.mark.parametrize(("near_old", "far_old"), [(True, False), (False, True), (False, False)])
@pytest.mark.parametrize("pair", ["server-bridge", "client-server"])
def test_p256_keys_and_those_of_old_peers_get_along(
    made: Site, curves: Site, pair: str, near_old: bool, far_old: bool, tls: str
) -> None:
    """An old peer is one with an RSA key, and NSS's own choice of suites."""
    index, hostname = {"server-bridge": ((1, 0), BRIDGE), "client-server": ((2, 1), SERVER)}[pair]
    dials = ends(made if near_old else curves)[index[0]]
    listens = ends(made if far_old else curves)[index[1]]
    near, far = handshake(dialling(dials, hostname), listens, tls)
    assert "error" not in near | far, (near, far)
    assert near["hostname"] is near["verified"] is far["verified"] is True


def test_peers_that_know_rsa_alone_need_rsa_keys_of_listeners(made: Site, curves: Site) -> None:
    """A dialler's key may be P-256, and in TLS 1.3 all may be."""
    bridge, server, _ = ends(curves)
    # A program that sets its own socket up for RSA cannot listen with a P-256 key ...
    _near, far = handshake(dialling(server, BRIDGE), replace(bridge, only_rsa=True))
    assert "error" in far
    # ... and one without ECDSA suites finds none in common with a listener that has one.
    near, far = handshake(replace(dialling(server, BRIDGE), only_rsa=True), bridge)
    assert "SSL_ERROR_NO_CYPHER_OVERLAP" in str(near["error"]) + str(far["error"])
    near, far = handshake(replace(dialling(server, BRIDGE), only_rsa=True), bridge, "tls1.3")
    assert "error" not in near | far
    # With a key of RSA it answers diallers of either kind.
    near, far = handshake(dialling(server, BRIDGE), replace(ends(made)[0], only_rsa=True))
    assert "error" not in near | far


def test_what_certificates_of_p256_keys_say(curves: Site) -> None:
    for item in curves.components:
        certificate = item.database.find(item.nickname).certificate
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert isinstance(key.curve, ec.SECP256R1)
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        assert usage.digital_signature
        assert not usage.key_encipherment
        checks = inspect_database(item.database, item.role)
        assert not any_failed(checks), checks
    # Renewal stays with the kind; back to RSA, servers may encipher keys again.
    bridge = curves.bridge
    renewed = renew_leaf(open_authority(curves), bridge.database, bridge.nickname, new_key=True)
    assert isinstance(renewed.certificate.public_key(), ec.EllipticCurvePublicKey)
    back = open_authority(curves).renew(
        renewed.certificate, lifetime=DAY, new_key=True, key_type=KeyType.RSA
    )
    usage = back.certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_encipherment


def test_a_name_that_is_not_in_the_certificate_is_refused(made: Site) -> None:
    bridge, server, _ = ends(made)
    near, far = handshake(dialling(server, "other.example.org"), bridge)
    assert "SSL_ERROR_BAD_CERT_DOMAIN" in str(near["error"])
    assert "error" in far


def test_a_bridge_certificate_dials_the_bridge_itself(site: Site) -> None:
    """For its health check; that it is no user's, the server sees to (test_health)."""
    bridge, _, _ = ends(site)
    near, far = handshake(dialling(bridge, BRIDGE), bridge)
    assert near["peer"] == far["peer"] == BRIDGE


def test_a_clients_certificate_answers_nobody(site: Site) -> None:
    _, _, client = ends(site)
    # A user may even be called like a server.
    root = site.authority_directory.parent
    more = make_site(root, bridge=BRIDGE, server=SERVER, users=[SERVER])
    impostor = more.client(SERVER)
    near, _far = handshake(dialling(client, SERVER), End(impostor.directory, impostor.nickname))
    assert "error" in near
    assert "peer" not in near


def test_legacy_and_renewed_and_newly_issued_certificates_get_along(
    legacy: Path, tmp_path: Path
) -> None:
    password_file = tmp_path / "pw"
    password_file.write_bytes(LEGACY_PASSWORD.reveal())
    authority = Authority.open(legacy / "ca", LEGACY_PASSWORD)
    assert authority.nickname == "my-ca"
    server = NSSDatabase(legacy / "server", LEGACY_PASSWORD)
    old = server.find("sigul-server-cert")
    renewed = renew_leaf(authority, server, "sigul-server-cert")
    assert renewed.names == old.names == ("localhost",)
    assert [item.nickname for item in server.certificates()] == ["my-ca", "sigul-server-cert"]

    client = NSSDatabase(tmp_path / "client", Secret.random(43))
    assert client.password is not None
    (tmp_path / "client-pw").write_bytes(client.password.reveal())
    with client.making():
        pass
    client.add_authority(authority.certificate)
    client.replace_leaf(authority.issue(LeafRequest(Role.CLIENT, "alice")), "sigul-client-cert")

    bridge_end = End(legacy / "bridge", "sigul-bridge-cert", password_file=password_file)
    server_end = End(legacy / "server", "sigul-server-cert", password_file=password_file)
    client_end = End(client.directory, "sigul-client-cert", password_file=tmp_path / "client-pw")
    for near_end, far_end in (
        (server_end, bridge_end),
        (client_end, bridge_end),
        (client_end, server_end),
    ):
        near, far = handshake(dialling(near_end, "localhost"), far_end)
        assert "error" not in near | far, (near, far)


# ---------------------------------------------------------------------------------- certificates


def test_openssl_verifies_every_leaf_for_its_purpose(made: Site, tmp_path: Path) -> None:
    ca = str(made.authority_directory / AUTHORITY_PEM)
    for component, purposes, host in (
        (made.bridge, ("sslserver",), BRIDGE),
        (made.server, ("sslserver", "sslclient"), SERVER),
        (made.client("admin"), ("sslclient",), None),
    ):
        pem = to_pem(component.database.find(component.nickname).certificate)
        leaf = tmp_path / "leaf.pem"
        leaf.write_bytes(pem)
        for purpose in purposes:
            words = ["verify", "-x509_strict", "-CAfile", ca, "-purpose", purpose]
            if host is not None:
                words += ["-verify_hostname", host]
            assert ": OK" in openssl(*words, str(leaf))
    openssl("verify", "-x509_strict", "-CAfile", ca, "-check_ss_sig", ca)


def test_what_certificates_say(made: Site) -> None:
    now = current_time()
    serials = set()
    for component in made.components:
        info = component.database.find(component.nickname)
        certificate = info.certificate
        assert info.common_name == component.name
        assert abs(info.not_after - now - 730 * DAY) < DAY
        assert timedelta(minutes=5) < now - info.not_before < timedelta(hours=1)
        assert certificate.serial_number.bit_length() > 64
        serials.add(certificate.serial_number)
        key = certificate.public_key()
        assert isinstance(key, rsa.RSAPublicKey)
        assert key.key_size == 2048
        assert certificate.signature_hash_algorithm is not None
        assert certificate.signature_hash_algorithm.name == "sha256"
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        # The bridge's too: its health check is a client of its own.
        assert ExtendedKeyUsageOID.CLIENT_AUTH in usages
        assert (ExtendedKeyUsageOID.SERVER_AUTH in usages) == (component.role is not Role.CLIENT)
    assert len(serials) == 3
    (authority,) = x509.load_pem_x509_certificates(
        (made.authority_directory / AUTHORITY_PEM).read_bytes()
    )
    assert abs(authority.not_valid_after_utc - now - 3650 * DAY) < DAY
    assert made.bridge.database.find(made.bridge.nickname).names == (BRIDGE, "bridge", "127.0.0.1")


def test_a_leaf_ends_with_its_authority(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca", PASSWORD, lifetime=100 * DAY)
    leaf = authority.issue(LeafRequest(Role.CLIENT, "admin"))
    end = authority.certificate.not_valid_after_utc
    assert leaf.certificate.not_valid_after_utc == end
    with pytest.raises(NSSError, match="renew-ca"):
        authority.issue(LeafRequest(Role.CLIENT, "admin"), now=end + DAY)


def test_an_authority_made_again_is_another(tmp_path: Path) -> None:
    one, other = (Authority.create(tmp_path / name, PASSWORD) for name in ("one", "other"))
    assert one.certificate.subject != other.certificate.subject
    assert one.certificate.serial_number != other.certificate.serial_number


# ------------------------------------------------------------- each database, only what it needs


def test_each_database_holds_what_its_owner_needs_and_nothing_else(made: Site) -> None:
    for component in made.components:
        held = component.database.certificates()
        assert [item.nickname for item in held] == ["sigul-ca", component.nickname]
        authority, leaf = held
        assert authority.trust == "CT,,"
        assert not authority.has_private_key
        assert leaf.has_private_key
        assert component.database.other_key_ids() == []
        findings = inspect_database(component.database, component.role, names=[component.name])
        assert {item.state for item in findings} == {State.OK}, findings
        assert {item.layer for item in findings} == set(Topic) - {Topic.DATABASE}


def test_what_is_distrusted_is_there_for_a_use(site: Site) -> None:
    """As docs/security.md has a certificate shut out; what is there for none is warned of."""
    bridge, (client,) = site.bridge, site.clients
    certificate = to_pem(client.database.find(client.nickname).certificate)
    for trust, state, told in (
        ("p,p,p", State.OK, "distrusted: stolen-admin"),
        (",,", State.WARNING, "certificates of others are in here, without use: stolen-admin"),
    ):
        subprocess.run(
            ["certutil", "-A", "-d", f"sql:{bridge.directory}", "-n", "stolen-admin", "-t", trust,
             "-f", bridge.directory / "nss-password", "-a"],
            input=certificate, check=True, timeout=60,
        )  # fmt: skip
        findings = inspect_database(bridge.database, bridge.role, names=[bridge.name])
        [found] = [item for item in findings if "stolen-admin" in item.finding]
        assert (found.state, found.finding) == (state, told)
        worst = {item.state for item in findings}
        assert worst == ({State.OK} if state is State.OK else {State.OK, State.WARNING})


def test_files_are_their_owners_alone(made: Site) -> None:
    passwords = set()
    for directory in (made.authority_directory, *(item.directory for item in made.components)):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        for name in ("cert9.db", "key4.db", "pkcs11.txt", "nss-password"):
            assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600
        passwords.add((directory / "nss-password").read_bytes())
        more = {"ca.pem"} if directory == made.authority_directory else set()
        assert set(contents(directory)) == {*FILES, *more}
    assert len(passwords) == 4
    assert all(len(password) == 43 for password in passwords)


def test_no_secret_is_in_any_argument_environment_or_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real tools, each started by a script that notes what anybody on the machine could see."""
    tools, log = tmp_path / "tools", tmp_path / "log"
    tools.mkdir()
    for tool in ("certutil", "pk12util"):
        script = tools / tool
        script.write_text(
            f'#!/bin/sh\n{{ echo "{tool} $*"; env; }} >> "{log}"\nexec {shutil.which(tool)} "$@"\n'
        )
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    site = make_site(tmp_path / "site", bridge=BRIDGE, server=SERVER, users=["admin"])
    renew_leaf(open_authority(site), site.bridge.database, site.bridge.nickname, new_key=True)

    noted = log.read_bytes()
    assert noted.count(b"certutil -N") == 4
    assert b"pk12util -o" in noted
    passwords = list((tmp_path / "site").rglob("nss-password"))
    assert len(passwords) == 4
    for path in passwords:
        secret = path.read_bytes()
        assert secret not in noted
        holders = [
            item for item in tmp_path.rglob("*") if item.is_file() and secret in item.read_bytes()
        ]
        assert holders == [path]
    assert list(temporary.iterdir()) == []
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"PRIVATE KEY" not in path.read_bytes()


def test_a_random_password_costs_every_process_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One iteration (DER: INTEGER 1) where the password is random, NSS's own number else."""
    # Without the limit that holds for all other tests' databases.
    monkeypatch.delenv("NSS_MAX_MP_PBE_ITERATION_COUNT")
    site = make_site(tmp_path / "site", bridge=BRIDGE, server=SERVER, users=[])

    def few(directory: Path) -> bool:
        database = sqlite3.connect(directory / "key4.db")
        try:
            rows = [item for row in database.execute("SELECT * FROM metaData") for item in row]
        finally:
            database.close()
        parameters = [item for item in rows if isinstance(item, bytes) and len(item) > 40]
        assert parameters
        return all(b"\x02\x01\x01\x02\x01\x20" in item for item in parameters)

    assert few(site.bridge.directory)
    with NSSDatabase(tmp_path / "weak", PASSWORD).making():
        pass
    assert not few(tmp_path / "weak")


# ------------------------------------------------------------------------------------- passwords


def test_a_wrong_password_is_said_with_the_age_of_the_database(made: Site) -> None:
    for password in (Secret("wrong"), None):
        database = NSSDatabase(made.bridge.directory, password)
        with pytest.raises(WrongNSSPassword) as raised:
            database.check_password()
        assert str(made.bridge.directory) in str(raised.value)
        assert f"(made {current_time():%Y-%m}" in str(raised.value)
        (finding,) = inspect_database(database, Role.BRIDGE)
        assert (finding.state, finding.layer) == (State.FAILED, Topic.PASSWORD)
    assert [item.nickname for item in database.certificates()] == ["sigul-ca", "sigul-bridge-cert"]


def test_a_wrong_password_changes_nothing(site: Site) -> None:
    before = contents(site.bridge.directory)
    with pytest.raises(WrongNSSPassword):
        renew_leaf(
            open_authority(site),
            NSSDatabase(site.bridge.directory, Secret("wrong")),
            site.bridge.nickname,
        )
    assert contents(site.bridge.directory) == before


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


# --------------------------------------------------------------------------------------- renewal


_LOAD = """
import sys
from sigul_stack.config.shared import NSSSettings
from sigul_stack.secret import Secret
from sigul_stack.transport import nss
nss.open_database(NSSSettings(directory=sys.argv[1], password=Secret(sys.argv[2])))
print(nss.load_identity("sigul-bridge-cert").certificate.serial_number)
"""


def test_of_two_certificates_under_one_nickname_it_is_told_which_one_is_used(site: Site) -> None:
    """The newest, also where the other one is valid longer; and the other one can be removed."""
    database = site.bridge.database
    old = database.find("sigul-bridge-cert")
    authority = open_authority(site)
    leaf = authority.renew(old.certificate, lifetime=100 * DAY, now=current_time())
    with database.changing() as store:
        store.add_certificate(leaf.certificate, "sigul-bridge-cert", ",,")
    number = leaf.certificate.serial_number
    assert len(database.certificates()) == 3
    assert database.find("sigul-bridge-cert").certificate == leaf.certificate
    password = (site.bridge.directory / "nss-password").read_text()

    def load() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", _LOAD, f"sql:{site.bridge.directory}", password],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip

    loaded = load()
    assert loaded.stdout == f"{number}\n"
    assert "2 certificates" in loaded.stderr
    assert f"the serial number {number:x}, valid until" in loaded.stderr
    assert "remove the others: sigul-stack pki remove --others" in loaded.stderr
    (finding,) = (
        check.finding
        for check in inspect_database(database, Role.BRIDGE)
        if "2 certificates" in check.finding
    )
    assert f"serial number {database.find('sigul-bridge-cert').serial}" in finding
    assert pki("remove", site.bridge.directory, "--nickname", "sigul-bridge-cert", "--others") == 0
    assert [item.certificate for item in database.certificates()][1:] == [leaf.certificate]
    assert database.find("sigul-bridge-cert").has_private_key
    assert (load().stdout, load().stderr) == (f"{number}\n", "")


@pytest.mark.parametrize("new_key", [False, True])
def test_renewal_replaces_one_leaf_and_touches_nothing_else(site: Site, new_key: bool) -> None:
    others = {item.directory: contents(item.directory) for item in site.components[1:]}
    database, nickname = site.bridge.database, site.bridge.nickname
    old, authority = database.find(nickname), database.find("sigul-ca")
    renewed = renew_leaf(
        open_authority(site), database, nickname, lifetime=900 * DAY, new_key=new_key
    )
    assert renewed.certificate.serial_number != old.certificate.serial_number
    assert renewed.certificate.subject == old.certificate.subject
    assert renewed.names == old.names
    assert renewed.not_after > old.not_after
    same = renewed.certificate.public_key() == old.certificate.public_key()
    assert same is not new_key
    assert database.certificates() == [authority, renewed]
    assert database.other_key_ids() == []
    assert nss_serial(site.bridge.directory, nickname) == renewed.certificate.serial_number
    assert others == {directory: contents(directory) for directory in others}
    assert set(contents(site.bridge.directory)) == FILES
    bridge, server, _ = ends(site)
    near, far = handshake(dialling(server, BRIDGE), bridge)
    assert "error" not in near | far, (near, far)


def test_a_running_program_keeps_what_it_opened(site: Site) -> None:
    database, nickname = site.bridge.database, site.bridge.nickname
    old = database.find(nickname).certificate.serial_number
    process = start_peer(End(site.bridge.directory, nickname), wait=True)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["serial"] == old
    renew_leaf(open_authority(site), database, nickname, new_key=True)
    # It goes on, finds its certificate and key again, and ends well.
    answer = process.communicate("\n", timeout=60)[0]
    assert json.loads(answer)["serial"] == old
    assert process.returncode == 0


def test_names_can_be_added_while_renewing(site: Site) -> None:
    database = site.bridge.database
    renew_leaf(open_authority(site), database, site.bridge.nickname, names=["new.example.org"])
    assert any_failed(inspect_database(database, Role.BRIDGE, names=["none.example.org"])), (
        "a name that nobody asked for is missed"
    )
    assert not any_failed(
        inspect_database(database, Role.BRIDGE, names=["new.example.org", BRIDGE, "127.0.0.1"])
    )


RENEW = """
import sys
from pathlib import Path
from sigul_stack.pki import Authority, NSSDatabase, read_password, renew_leaf
ca, directory = Path(sys.argv[1]), Path(sys.argv[2])
authority = Authority.open(ca, read_password(ca / "nss-password"))
database = NSSDatabase(directory, read_password(directory / "nss-password"))
renew_leaf(authority, database, "sigul-bridge-cert", new_key=True)
"""


def lived_in(directory: Path) -> dict[str, bytes]:
    """The files that programs open, without a change's working copy."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


@pytest.mark.once("our own renaming of files")
def test_a_renewal_that_is_killed_anywhere_leaves_a_database_that_works(
    site: Site, tmp_path: Path
) -> None:
    directory, nickname = site.bridge.directory, site.bridge.nickname
    password = Secret(site.bridge.password_file.read_bytes())
    old = nss_serial(directory, nickname)
    copies = snapshots(directory, tmp_path / "steps", RENEW, site.authority_directory, directory)
    new = nss_serial(directory, nickname)
    # Of the copies in which programs find the same, the one with the most left over.
    states = {}
    for copy in sorted(copies, key=lambda copy: len(tree(copy))):
        states[tuple(lived_in(copy).items())] = copy
    seen = []
    for copy in sorted(states.values()):
        database = NSSDatabase(copy, password)
        authority, leaf = database.certificates()
        assert (authority.nickname, leaf.nickname) == ("sigul-ca", nickname)
        assert leaf.has_private_key
        assert nss_serial(copy, nickname) == leaf.certificate.serial_number
        other_keys = len(database.other_key_ids())
        seen.append((leaf.certificate.serial_number, other_keys))
        if other_keys:
            # Half done, with a working copy left over: the next run takes no notice of it.
            assert len(list(copy.iterdir())) > len(FILES)
            renewed = renew_leaf(open_authority(site), database, nickname)
            assert renewed.certificate.serial_number not in {old, new}
            assert {path.name for path in copy.iterdir()} == FILES
    # With how many keys besides: the new one first, then the old one, which goes last.
    assert list(dict.fromkeys(seen)) == [(old, 0), (old, 1), (new, 1), (new, 0)]


@pytest.mark.once("our own renaming of files")
@pytest.mark.parametrize("change", ["new-key", "same-key", "authority"])
def test_between_its_two_renames_a_change_is_harmless(site: Site, change: str) -> None:
    """Keys come first: the new `key4.db` has to do for the old `cert9.db` as well."""
    authority, component = open_authority(site), site.server
    leaf = component.database.find(component.nickname).certificate
    before = contents(component.directory)
    if change == "authority":
        authority.renew_self(5000 * DAY)
        component.database.add_authority(authority.certificate)
    else:
        renewed = authority.renew(leaf, lifetime=DAY, new_key=change == "new-key")
        with component.database.changing() as store:
            put_leaf(store, renewed, component.nickname, replace=True)
    after = contents(component.directory)
    assert before["cert9.db"] != after["cert9.db"]
    assert before["key4.db"] != after["key4.db"]
    (component.directory / "cert9.db").write_bytes(before["cert9.db"])
    bridge, server, client = ends(site)
    for near_end, far_end, host in ((server, bridge, BRIDGE), (client, server, SERVER)):
        near, far = handshake(dialling(near_end, host), far_end)
        assert "error" not in near | far, (near, far)


def test_a_change_that_fails_changes_nothing(site: Site) -> None:
    before = contents(site.bridge.directory)
    database = site.bridge.database
    with pytest.raises(RuntimeError), database.changing() as store:
        store.delete_certificates(site.bridge.nickname)
        store.delete_keys(list(store.key_ids()))
        raise RuntimeError
    assert contents(site.bridge.directory) == before


@pytest.mark.once("our own renaming of files")
def test_two_changes_at_once_both_count(site: Site, tmp_path: Path) -> None:
    authorities = [Authority.create(tmp_path / str(n), PASSWORD) for n in range(3)]
    failures: list[BaseException] = []

    def add(authority: Authority) -> None:
        try:
            site.bridge.database.add_authority(authority.certificate)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=add, args=(item,)) for item in authorities]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert failures == []
    held = {item.certificate for item in site.bridge.database.certificates()}
    assert {item.certificate for item in authorities} <= held
    nicknames = {item.nickname for item in site.bridge.database.certificates()}
    assert {"sigul-ca", "sigul-ca-2", "sigul-ca-3", "sigul-ca-4"} <= nicknames


# ----------------------------------------------------------------------------------- authorities


def test_the_authority_is_renewed_with_an_overlap(site: Site) -> None:
    authority = open_authority(site)
    old = authority.certificate
    authority.renew_self(20 * 365 * DAY)
    assert authority.certificate.not_valid_after_utc > old.not_valid_after_utc
    assert authority.pem_file.read_bytes() == to_pem(authority.certificate)
    assert open_authority(site).certificate == authority.certificate
    # Bridge and client still have the old one; the server gets the new one.
    site.server.database.add_authority(authority.certificate)
    held = site.server.database.certificates()
    assert [item.nickname for item in held if item.is_authority] == ["sigul-ca"]
    bridge, server, client = ends(site)
    for near_end, far_end, host in ((server, bridge, BRIDGE), (client, server, SERVER)):
        near, far = handshake(dialling(near_end, host), far_end)
        assert "error" not in near | far, (near, far)


def test_a_site_moves_to_a_new_authority_one_by_one(site: Site, tmp_path: Path) -> None:
    new = Authority.create(tmp_path / "new-ca", PASSWORD)
    for component in site.components:
        component.database.add_authority(new.certificate)
    bridge, server, client = ends(site)
    for component in site.components:
        renew_leaf(new, component.database, component.nickname)
        for near_end, far_end, host in ((server, bridge, BRIDGE), (client, server, SERVER)):
            near, far = handshake(dialling(near_end, host), far_end)
            assert "error" not in near | far, (near, far)
    for component in site.components:
        component.database.remove("sigul-ca")
        assert not any_failed(inspect_database(component.database, component.role))
        with pytest.raises(NSSError, match="issued sigul-"):
            component.database.remove("sigul-ca-2")


def test_an_authority_of_the_same_name_with_another_key_comes_beside_the_old_one(
    site: Site, tmp_path: Path
) -> None:
    name = open_authority(site).certificate.subject
    twin = Authority.create(
        tmp_path / "twin", PASSWORD, name=str(next(iter(name)).value), lifetime=4000 * DAY
    )
    assert twin.certificate.subject == name
    for component in (site.bridge, site.server):
        component.database.add_authority(twin.certificate)
    renew_leaf(twin, site.server.database, site.server.nickname)
    bridge, server, _ = ends(site)
    near, far = handshake(dialling(server, BRIDGE), bridge)
    assert "error" not in near | far, (near, far)


def test_of_several_authorities_in_one_database_one_is_named(tmp_path: Path) -> None:
    ca, other = (Authority.create(tmp_path / name, PASSWORD) for name in ("ca", "other"))
    with ca.database.changing() as store:
        put_authority(store, other.certificate)
        store.add_key(other.database.export_key("sigul-ca"), other.certificate, "sigul-ca-2")
    with pytest.raises(NSSError, match="--ca-nickname"):
        Authority.open(tmp_path / "ca", PASSWORD)
    with pytest.raises(NSSError, match="init-ca"):
        Authority.open(tmp_path / "ca", PASSWORD, nickname="sigul-ca-3")
    chosen = Authority.open(tmp_path / "ca", PASSWORD, nickname="sigul-ca-2")
    leaf = chosen.issue(LeafRequest(Role.CLIENT, "admin"))
    assert issued(other.certificate, leaf.certificate)
    assert not issued(ca.certificate, leaf.certificate)


def test_a_leaf_is_no_authority_and_its_issuer_is_needed(site: Site, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", PASSWORD)
    leaf = other.issue(LeafRequest(Role.BRIDGE, BRIDGE))
    before = contents(site.bridge.directory)
    with pytest.raises(NSSError, match="--ca"):
        site.bridge.database.replace_leaf(leaf, "sigul-bridge-cert")
    with pytest.raises(NSSError, match="no CA"):
        site.bridge.database.add_authority(leaf.certificate)
    assert contents(site.bridge.directory) == before


def test_what_is_there_is_not_written_over(site: Site) -> None:
    authority = open_authority(site)
    other = authority.issue(LeafRequest(Role.BRIDGE, "b2.example.org"))
    with (
        pytest.raises(NSSError, match="taken"),
        site.bridge.database.changing() as store,
    ):
        put_leaf(store, other, site.bridge.nickname)
    same = authority.issue(LeafRequest(Role.BRIDGE, BRIDGE))
    with (
        pytest.raises(NSSError, match="same subject"),
        site.bridge.database.changing() as store,
    ):
        put_leaf(store, same, "another-nickname")
    with pytest.raises(NSSError, match="already"), site.bridge.database.making():
        pass
    with pytest.raises(NSSError, match="already"):
        Authority.create(site.authority_directory, PASSWORD)


# --------------------------------------------------------------------------------- what is wrong


def severities(database: NSSDatabase, role: Role, **options: object) -> dict[str, State]:
    worst: dict[str, State] = {}
    order = list(State)
    for item in inspect_database(database, role, **options):  # type: ignore[arg-type]
        known = worst.get(item.layer, State.OK)
        worst[item.layer] = max(known, item.state, key=order.index)
    return worst


def test_the_authoritys_key_among_a_components_is_found(legacy: Path) -> None:
    database = NSSDatabase(legacy / "ca", LEGACY_PASSWORD)
    findings = [
        str(item)
        for item in inspect_database(database, Role.BRIDGE)
        if item.layer is Topic.NOTHING_ELSE and item.state is State.FAILED
    ]
    assert any("CA 'my-ca'" in message for message in findings)
    assert any("'sigul-server-cert'" in message for message in findings)
    own = NSSDatabase(legacy / "bridge", LEGACY_PASSWORD)
    assert not any_failed(inspect_database(own, Role.BRIDGE, names=["localhost"]))


def test_dates_names_usage_and_trust_are_looked_at(site: Site) -> None:
    bridge, now = site.bridge.database, current_time()
    assert severities(bridge, Role.BRIDGE, now=now + 705 * DAY)[Topic.DATES] is State.WARNING
    assert severities(bridge, Role.BRIDGE, now=now + 731 * DAY)[Topic.DATES] is State.FAILED
    assert severities(bridge, Role.BRIDGE, now=now - DAY)[Topic.DATES] is State.FAILED
    assert severities(bridge, Role.BRIDGE, names=["else"])[Topic.NAMES] is State.FAILED
    client = site.client("admin").database
    assert (
        severities(client, Role.SERVER, nickname="sigul-client-cert")[Topic.USAGE] is State.FAILED
    )
    assert severities(client, Role.CLIENT, names=["other"])[Topic.NAMES] is State.FAILED
    assert severities(client, Role.BRIDGE)[Topic.CERTIFICATE] is State.FAILED
    with client.changing() as store:
        store.set_trust("sigul-ca", "T,,")
    assert severities(client, Role.CLIENT)[Topic.AUTHORITY] is State.FAILED


def test_keys_left_over_and_password_files_open_to_all_are_found(site: Site) -> None:
    database = site.bridge.database
    with database.changing() as store:
        store.delete_certificates(site.bridge.nickname)
    worst = severities(database, Role.BRIDGE)
    assert worst[Topic.CERTIFICATE] is State.FAILED
    assert worst[Topic.NOTHING_ELSE] is State.WARNING
    site.server.password_file.chmod(0o644)
    assert severities(site.server.database, Role.SERVER)[Topic.FILES] is State.FAILED
    site.server.password_file.chmod(0o600)
    site.server.password_file.write_bytes(site.server.password_file.read_bytes() + b"\n")
    assert severities(site.server.database, Role.SERVER)[Topic.FILES] is State.WARNING


# ------------------------------------------------------------------------------------------ site


@pytest.mark.once("what our program renews, and when")
def test_a_site_keeps_what_is_good_and_renews_what_runs_out(tmp_path: Path) -> None:
    def again(users: list[str], later: timedelta = timedelta(0), bridge_names: str = "") -> Site:
        return make_site(
            tmp_path,
            bridge=BRIDGE,
            server=SERVER,
            users=users,
            bridge_names=bridge_names.split(),
            now=current_time() + later,
        )

    first = again(["admin"])
    assert first.authority_made is Made.MADE
    assert {item.made for item in first.components} == {Made.MADE}
    before = {item.directory: contents(item.directory) for item in first.components}
    second = again(["admin", "alice"])
    assert second.authority_made is Made.KEPT
    assert [item.made for item in second.components] == [Made.KEPT] * 3 + [Made.MADE]
    assert before == {directory: contents(directory) for directory in before}
    assert {item.made for item in again(["admin"], later=720 * DAY).components} == {Made.RENEWED}
    third = again(["admin"], bridge_names="bridge 192.0.2.7")
    assert third.bridge.made is Made.RENEWED
    assert third.bridge.database.find(third.bridge.nickname).names == (
        *(BRIDGE, "bridge", "192.0.2.7"),
    )
    open_authority(third).renew_self(5000 * DAY)
    assert {item.made for item in again(["admin"]).components} == {Made.RENEWED}
    assert {item.made for item in again(["admin"]).components} == {Made.KEPT}


@pytest.mark.once("what our program renews, and when")
def test_a_site_names_what_it_cannot_mend(site: Site) -> None:
    root = site.authority_directory.parent
    words: list[str | Path] = [
        "site",
        "--dir",
        root,
        "--bridge",
        BRIDGE,
        "--server",
        SERVER,
        "--user",
        "admin",
    ]
    secret = site.bridge.password_file.read_bytes()
    site.bridge.password_file.write_bytes(b"another")
    with pytest.raises(NSSError, match="password does not open"):
        pki(*words)
    site.bridge.password_file.unlink()
    with pytest.raises(NSSError, match="not its password"):
        pki(*words)
    site.bridge.password_file.write_bytes(secret)
    site.bridge.password_file.chmod(0o600)
    shutil.rmtree(site.authority_directory)
    with pytest.raises(NSSError, match="another CA"):
        pki(*words)


# ---------------------------------------------------------------------------------------- import


@pytest.fixture(scope="module")
def own_ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site's own CA made with openssl: root, intermediate, a leaf with an encrypted key."""
    d = tmp_path_factory.mktemp("own")
    (d / "ca.ext").write_text("basicConstraints=critical,CA:true\nkeyUsage=keyCertSign\n")
    (d / "leaf.ext").write_text(f"subjectAltName=DNS:{BRIDGE}\nextendedKeyUsage=serverAuth\n")
    (d / "pw").write_text("key password\n")
    signed = ["-CAcreateserial", "-days", "100", "-sha256"]
    for name, subject in (("root", "Root"), ("sub", "Sub CA"), ("leaf", BRIDGE)):
        openssl(
            *("req", "-new", "-newkey", "rsa:2048", "-subj", f"/CN={subject}"),
            *("-keyout", str(d / f"{name}.key"), "-out", str(d / f"{name}.csr")),
            *(["-passout", f"file:{d / 'pw'}"] if name == "leaf" else ["-nodes"]),
        )
    for name, issuer in (("root", None), ("sub", "root"), ("leaf", "sub")):
        extensions = "leaf.ext" if name == "leaf" else "ca.ext"
        by = (
            ["-signkey", str(d / "root.key"), "-days", "100"]
            if issuer is None
            else ["-CA", str(d / f"{issuer}.pem"), "-CAkey", str(d / f"{issuer}.key"), *signed]
        )
        openssl(
            *("x509", "-req", "-in", str(d / f"{name}.csr"), "-out", str(d / f"{name}.pem")),
            *("-extfile", str(d / extensions), *by),
        )
    (d / "chain.pem").write_bytes(
        b"".join((d / f"{name}.pem").read_bytes() for name in ("sub", "leaf", "root"))
    )
    return d


def test_pem_with_chain_and_encrypted_key_is_imported(own_ca: Path, tmp_path: Path) -> None:
    into = tmp_path / "bridge"
    words: list[str | Path] = [
        "import",
        "--into",
        into,
        "--cert",
        own_ca / "chain.pem",
        "--key",
        own_ca / "leaf.key",
    ]
    words += ["--nickname", "sigul-bridge-cert"]
    with pytest.raises(NSSError, match="--key-password-file"):
        pki(*words)
    words += ["--key-password-file", own_ca / "pw"]
    assert pki(*words) == 0
    assert pki("check", into, "--role", "bridge", "--name", BRIDGE) == 0
    database = NSSDatabase(into, Secret((into / "nss-password").read_bytes()))
    trust = {item.common_name: item.trust for item in database.certificates()}
    assert trust == {"Root": "CT,,", "Sub CA": ",,", BRIDGE: "u,u,u"}
    with pytest.raises(NSSError, match="--replace"):
        pki(*words)
    assert pki(*words, "--replace") == 0


@pytest.mark.parametrize("form", [["-legacy"], []])
def test_pkcs12_old_and_new_is_imported(own_ca: Path, tmp_path: Path, form: list[str]) -> None:
    bundle, into = tmp_path / "leaf.p12", tmp_path / "bridge"
    openssl(
        *("pkcs12", "-export", *form, "-in", str(own_ca / "leaf.pem"), "-out", str(bundle)),
        *("-inkey", str(own_ca / "leaf.key"), "-passin", f"file:{own_ca / 'pw'}"),
        *("-certfile", str(own_ca / "sub.pem"), "-passout", "pass:bundle"),
    )
    with pytest.raises(NSSError, match="--pkcs12-password-file"):
        read_pkcs12(bundle, Secret("wrong"))
    (tmp_path / "p12-pw").write_bytes(b"bundle")
    words: list[str | Path] = [
        "import",
        "--into",
        into,
        "--pkcs12",
        bundle,
        "--nickname",
        "sigul-bridge-cert",
    ]
    assert pki(*words, "--pkcs12-password-file", tmp_path / "p12-pw") == 0
    assert pki("check", into, "--role", "bridge", "--name", BRIDGE) == 0


def test_what_pk12util_exports_is_imported(made: Site, tmp_path: Path) -> None:
    component, bundle = made.client("admin"), tmp_path / "client.p12"
    (tmp_path / "pw").write_bytes(b"bundle")
    export = ["pk12util", "-o", str(bundle), "-n", component.nickname]
    export += ["-d", f"sql:{component.directory}", "-k", str(component.password_file)]
    subprocess.run([*export, "-w", str(tmp_path / "pw")], check=True, timeout=60)
    read = read_pkcs12(bundle, Secret("bundle"))
    database = NSSDatabase(tmp_path / "copy", Secret("a password"))
    with database.making() as store:
        assert put_bundle(store, read, (), component.nickname) == ()
    held = component.database.find(component.nickname).certificate
    assert database.find(component.nickname).certificate == held
    assert not any_failed(inspect_database(database, Role.CLIENT, names=["admin"]))


def test_an_authoritys_key_is_imported_only_where_that_is_meant(
    own_ca: Path, tmp_path: Path
) -> None:
    words: list[str | Path] = ["import", "--into", tmp_path / "ca", "--cert", own_ca / "root.pem"]
    words += ["--key", own_ca / "root.key", "--nickname", "own-ca"]
    with pytest.raises(NSSError, match="--as-ca"):
        pki(*words)
    assert NSSDatabase(tmp_path / "ca").recognise() is DatabaseKind.MISSING
    assert pki(*words, "--as-ca") == 0
    into = tmp_path / "client"
    words = ["--ca", tmp_path / "ca", "--into", into, "--role", "client", "--name", "admin"]
    assert pki("issue", *words) == 0
    assert (tmp_path / "ca" / "ca.pem").read_bytes() == (own_ca / "root.pem").read_bytes()
    assert pki("check", into, "--role", "client", "--name", "admin") == 0


def test_a_key_that_does_not_belong_is_refused(own_ca: Path) -> None:
    with pytest.raises(NSSError, match="belongs to none"):
        read_pem(own_ca / "leaf.pem", own_ca / "sub.key", None)
    with pytest.raises(NSSError, match="cannot be opened"):
        read_pem(own_ca / "leaf.pem", own_ca / "leaf.key", Secret("wrong"))
    with pytest.raises(NSSError, match="no certificate"):
        read_pem(own_ca / "leaf.key", own_ca / "leaf.key", None)
    with pytest.raises(ConfigurationError, match="nowhere"):
        read_pem(own_ca / "nowhere", own_ca / "leaf.key", None)


# -------------------------------------------------------------------------------- command line


@pytest.mark.once("the command line; the others have what it does")
def test_list_says_what_has_expired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    past = current_time() - 800 * DAY
    make_site(tmp_path, bridge=BRIDGE, server=SERVER, users=["admin"], now=past)
    assert pki("list", tmp_path / "ca") == 0
    capsys.readouterr()
    assert pki("list", tmp_path / "bridge", tmp_path / "server", "--json") == 1
    output = capsys.readouterr()
    assert "'sigul-bridge-cert'" in output.err
    assert "'sigul-ca'" not in output.err
    listed = json.loads(output.out)
    assert [Path(item["database"]).name for item in listed] == ["bridge", "server"]
    authority, leaf = listed[0]["certificates"]
    assert (authority["authority"], authority["has_private_key"]) == (True, False)
    assert (leaf["expired"], leaf["names"], leaf["trust"]) == (True, [BRIDGE], "u,u,u")
    assert leaf["days_left"] < 0
    assert pki("list", tmp_path / "bridge") == 1
    assert "EXPIRED" in capsys.readouterr().out


@pytest.mark.once("the command line; the others have what it does")
@pytest.mark.usefixtures("made_keys")
def test_a_site_by_single_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ca, bridge = tmp_path / "ca", tmp_path / "bridge"
    assert pki("init-ca", "--dir", ca, "--name", "Lab CA", "--years", "5") == 0
    words = ["--role", "bridge", "--name", BRIDGE, "--san", "bridge,192.0.2.7", "--mode", "0640"]
    assert pki("issue", "--ca", ca, "--into", f"sql:{bridge}", *words) == 0
    assert stat.S_IMODE((bridge / "key4.db").stat().st_mode) == 0o640
    assert stat.S_IMODE(bridge.stat().st_mode) == 0o750
    nickname = "sigul-bridge-cert"
    assert pki("renew", "--ca", ca, bridge, "--nickname", nickname, "--new-key") == 0
    assert stat.S_IMODE((bridge / "key4.db").stat().st_mode) == 0o640
    assert pki("renew-ca", "--dir", ca) == 0
    assert pki("import", "--into", bridge, "--ca", ca / "ca.pem") == 0
    check: list[str | Path] = ["check", bridge, "--role", "bridge", "--name", f"{BRIDGE},bridge"]
    assert pki(*check, "--name", "192.0.2.7") == 0
    assert pki(*check, "--name", "unknown") == 1
    assert pki("remove", bridge, "--nickname", nickname) == 0
    assert pki(*check) == 1
    password = (bridge / "nss-password").read_text()
    output = capsys.readouterr()
    assert password not in output.out + output.err


def test_a_password_that_nobody_gave_is_asked_for_in_words(legacy: Path, tmp_path: Path) -> None:
    words: list[str | Path] = ["issue", "--ca", legacy / "ca", "--into", tmp_path / "new"]
    with pytest.raises(NSSError, match="--ca-password-file"):
        pki(*words, "--role", "client", "--name", "alice")
    assert not (tmp_path / "new").exists()


# --------------------------------------------------------------------- other users, other formats


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that any user may enter, unlike pytest's."""
    path = Path(tempfile.mkdtemp(prefix="sigul-pki-test-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        for item in (path, *path.rglob("*")):
            if item.is_dir():
                item.chmod(0o755)
        shutil.rmtree(path)


def test_a_read_only_database_is_used_by_another_user(made: Site, open_directory: Path) -> None:
    target = open_directory / "client"
    shutil.copytree(made.client("admin").directory, target)
    for path in target.iterdir():
        path.chmod(0o444)
    target.chmod(0o555)
    # Only root can be somebody else; anybody else is at least not the one who may write.
    somebody = 65534 if os.getuid() == 0 else None
    done = subprocess.run(
        ["certutil", "-K", "-d", f"sql:{target}", "-f", str(target / "nss-password")],
        user=somebody,
        cwd="/",
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "sigul-client-cert" in done.stdout
    listed = NSSDatabase(target, Secret((target / "nss-password").read_bytes())).certificates()
    assert [item.has_private_key for item in listed] == [False, True]


@pytest.mark.once("our own renaming of files")
def test_owner_and_mode_are_for_the_components(tmp_path: Path) -> None:
    owner = 12345 if os.getuid() == 0 else os.getuid()
    site = make_site(
        tmp_path,
        bridge=BRIDGE,
        server=SERVER,
        users=[],
        permissions=Permissions(uid=owner, mode=0o640),
    )
    renew_leaf(open_authority(site), site.bridge.database, site.bridge.nickname, new_key=True)
    for path in (site.bridge.directory, *site.bridge.directory.iterdir()):
        assert path.stat().st_uid == owner, path
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in site.bridge.directory.iterdir()
    }
    assert modes == dict.fromkeys(FILES, 0o640)
    assert (site.authority_directory / "key4.db").stat().st_uid == os.getuid()
    assert stat.S_IMODE((site.authority_directory / "key4.db").stat().st_mode) == 0o600


def test_old_format_is_converted(made: Site, tmp_path: Path) -> None:
    old, component = tmp_path / "old", made.bridge
    old.mkdir()
    (old / "pw").write_bytes(b"old password")
    (tmp_path / "bundle").write_bytes(b"bundle")
    key, bundle = str(old / "pw"), str(tmp_path / "bundle.p12")
    export = ["pk12util", "-o", bundle, "-n", component.nickname, "-w", str(tmp_path / "bundle")]
    export += ["-d", f"sql:{component.directory}", "-k", str(component.password_file)]
    add = ["certutil", "-A", "-d", f"dbm:{old}", "-f", key, "-n", "sigul-ca", "-t", "CT,,", "-a"]
    for words in (
        export,
        ["certutil", "-N", "-d", f"dbm:{old}", "-f", key],
        [*add, "-i", str(made.authority_directory / AUTHORITY_PEM)],
        ["pk12util", "-i", bundle, "-d", f"dbm:{old}", "-k", key, "-w", str(tmp_path / "bundle")],
    ):
        subprocess.run(words, check=True, timeout=60, capture_output=True)
    with pytest.raises(NSSError, match="pki convert"):
        pki("list", old)
    wrong = tmp_path / "wrong"
    wrong.write_bytes(b"wrong password")
    with pytest.raises(WrongNSSPassword):
        pki("convert", old, "--password-file", wrong)
    assert NSSDatabase(old).recognise() is DatabaseKind.DBM
    assert pki("convert", old, "--password-file", key) == 0
    assert pki("check", old, "--role", "bridge", "--password-file", key, "--name", BRIDGE) == 0
    assert (old / "cert8.db").exists()
    with pytest.raises(NSSError, match="nothing to convert"):
        pki("convert", old, "--password-file", key)


def test_put_authority_mends_trust_and_keeps_the_nickname(made: Site, tmp_path: Path) -> None:
    (authority,) = x509.load_pem_x509_certificates(
        (made.authority_directory / AUTHORITY_PEM).read_bytes()
    )
    database = NSSDatabase(tmp_path / "new", PASSWORD)
    with database.making() as store:
        assert put_authority(store, authority, "our-ca", trust=",,") == "our-ca"
        assert put_authority(store, authority) == "our-ca"
    (held,) = database.certificates()
    assert (held.nickname, held.trust, held.has_private_key) == ("our-ca", "CT,,", False)
    assert issued(authority, made.bridge.database.find(made.bridge.nickname).certificate)
