"""`sigul-stack pki export`: what it writes works with OpenSSL, and tells its secrets to nobody."""

from __future__ import annotations

import os
import shutil
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from sigul_stack.errors import SigulError
from sigul_stack.pki import read_certificates
from tests.openssl_peer import handshake, list_users
from tests.other_ca import OtherCA, ec_key
from tests.site import Site, module
from tests.snapshots import snapshots

from .test_fips import set_fips
from .test_pki_nss import openssl
from .test_pki_nss import pki as here

NICKNAME = "sigul-client-cert"
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
BEGIN = b"-----BEGIN CERTIFICATE-----"


def pki(site: Site, *words: str | Path, code: int = 0) -> tuple[str, str]:
    """What `sigul-stack pki …` says on standard output and standard error."""
    done = site.run(*module("stack"), "pki", *map(str, words), code=code)
    return done.stdout.decode(), done.stderr.decode()


def export(site: Site, to: Path, *words: str | Path, who: str = "clients/admin") -> Path:
    """The directory `to`, into which somebody's files were exported."""
    pki(site, "export", site.path("pki") / who, "--to", to, *words)
    return to


def openssl_client(
    files: Path, version: ssl.TLSVersion, passphrase: str | None = None, nickname: str = NICKNAME
) -> ssl.SSLContext:
    """A client with the three files, and OpenSSL's own demands on keys and names."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    assert made.check_hostname
    made.minimum_version = made.maximum_version = version
    made.load_verify_locations(files / "ca.crt")
    made.load_cert_chain(files / f"{nickname}.crt", files / f"{nickname}.key", passphrase)
    return made


def request(site: Site, how: ssl.SSLContext) -> None:
    """A whole request by OpenSSL in both sessions."""
    reply, *_ = list_users(site, how, how)
    assert (reply[:4], b"admin\0" in reply) == (bytes(4), True)


@pytest.fixture(scope="module")
def shared(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site whose certificates no test changes, and that does not run."""
    copy = Site.copy(template, tmp_path_factory.mktemp("export") / "site")
    yield copy
    shutil.rmtree(copy.directory)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_three_files_reach_bridge_and_server(
    running_site: Site, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    files = export(running_site, tmp_path / "new/out")
    assert {path.name for path in files.iterdir()} == {
        f"{NICKNAME}.crt",
        f"{NICKNAME}.key",
        "ca.crt",
    }
    modes = {path.suffix: stat.S_IMODE(path.stat().st_mode) for path in files.iterdir()}
    assert modes == {".crt": 0o644, ".key": 0o600}
    assert stat.S_IMODE(files.stat().st_mode) == 0o700
    request(running_site, openssl_client(files, version))
    # The name is checked: the bridge is known by no other.
    how = openssl_client(files, version)
    running_site.bridge_name, known = running_site.server_name, running_site.bridge_name
    try:
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            handshake(running_site, running_site.client_port, how)
    finally:
        running_site.bridge_name = known


def test_a_key_with_a_passphrase(running_site: Site, tmp_path: Path) -> None:
    secret = tmp_path / "pw"
    secret.write_text("two words")
    files = export(running_site, tmp_path / "out", "--key-password-file", secret)
    key = (files / f"{NICKNAME}.key").read_bytes()
    assert key.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    with pytest.raises(ssl.SSLError):
        openssl_client(files, VERSIONS[0], "another")
    request(running_site, openssl_client(files, VERSIONS[0], "two words"))
    # Others take a passphrase file whole, so its line end is worth a word.
    secret.write_text("two words\n")
    words = ("export", running_site.path("pki/clients/admin"), "--to", files, "--replace")
    _, said = pki(running_site, *words, "--key-password-file", secret)
    assert "siguldry takes its passphrase file whole" in said
    openssl_client(files, VERSIONS[0], "two words")
    secret.write_text("x" * 1024)
    _, said = pki(running_site, *words, "--key-password-file", secret, code=1)
    assert "1 to 1023 bytes" in said
    secret.write_text("")
    _, said = pki(running_site, *words, "--key-password-file", secret, code=1)
    assert "1 to 1023 bytes, and this one none" in said


@pytest.mark.once("openssl verifies such leaves in test_pki_nss")
def test_bridge_and_server_have_theirs(shared: Site, tmp_path: Path) -> None:
    for who, purposes in (("bridge", ["sslserver"]), ("server", ["sslserver", "sslclient"])):
        files = export(shared, tmp_path / who, who=who)
        for purpose in purposes:
            openssl(
                *("verify", "-purpose", purpose, "-CAfile", str(files / "ca.crt")),
                str(files / f"sigul-{who}-cert.crt"),
            )


# ------------------------------------------------------------------------------------- rollover


@pytest.mark.long("sigul_stack/pki", "sigul_stack/cli/pki.py")
@pytest.mark.once("rollovers are in test_pki_rollover, exports in the tests above")
def test_while_the_ca_is_rolled_over(site: Site, tmp_path: Path) -> None:
    """Files of one step serve in the next one, as NSS databases do."""
    places = [site.path("pki") / name for name in ("bridge", "server", "clients/admin")]
    step = ("rollover", "--ca", site.path("pki/ca"))
    # The steps are in this process, which has the CA's key ready.
    assert here(*step, "begin", "--into", *places) == 0
    begun = export(site, tmp_path / "begun")
    old = read_certificates(begun / f"{NICKNAME}.crt")[0]
    assert (begun / "ca.crt").read_bytes().count(BEGIN) == 2
    with site.running():
        request(site, openssl_client(begun, VERSIONS[0]))
    assert here(*step, "issue") == 0
    issued = export(site, tmp_path / "issued")
    assert set(read_certificates(issued / "ca.crt")) == set(read_certificates(begun / "ca.crt"))
    assert read_certificates(issued / f"{NICKNAME}.crt")[0].issuer != old.issuer
    with site.running():
        for files in (begun, issued):
            request(site, openssl_client(files, VERSIONS[0]))
    assert here(*step, "finish") == 0
    finished = export(site, tmp_path / "finished")
    (only,) = read_certificates(finished / "ca.crt")
    assert only.subject == read_certificates(finished / f"{NICKNAME}.crt")[0].issuer
    with site.running():
        for files in (issued, finished):
            request(site, openssl_client(files, VERSIONS[0]))


# ------------------------------------------------------------- other kinds of keys and chains


def test_an_ec_key_of_another_ca_behind_an_intermediate_one(site: Site, tmp_path: Path) -> None:
    """The whole way: imported for all three, exported again, used by OpenSSL and by NSS."""
    other = OtherCA.make(tmp_path / "other")
    nickname = "Alice's own / certificate"
    for who, common, names in (
        ("bridge", site.bridge_name, [site.bridge_name]),
        ("server", site.server_name, [site.server_name]),
        ("clients/admin", "admin", []),
    ):
        role = who.partition("/")[0].removesuffix("s") if "/" in who else who
        _, key = other.leaf("leaf", common=common, names=names, key=ec_key())
        shutil.rmtree(site.path("pki") / who)
        pki(
            site,
            *("import", "--into", site.path("pki") / who, "--role", role),
            *("--cert", other.path("leaf.pem"), "--key", other.path("leaf.key")),
            *("--ca", other.path("root.pem"), "--name", common),
            *("--nickname", nickname if role == "client" else f"sigul-{role}-cert"),
        )
    site.extra = {"client": {"client": f"client-cert-nickname: {nickname}\n"}}
    site.configure()
    files = export(site, tmp_path / "out")
    stem = "Alice_s_own___certificate"
    assert len(read_certificates(files / f"{stem}.crt")) == 2, "with the intermediate CA"
    assert set(read_certificates(files / "ca.crt")) == {other.root, other.sub}
    exported = load_pem_private_key((files / f"{stem}.key").read_bytes(), None)
    assert exported.private_numbers() == key.private_numbers()  # type: ignore[union-attr]
    with site.running():
        site.sigul("list-users", secrets=[site.admin_password])
        for version in VERSIONS:
            request(site, openssl_client(files, version, nickname=stem))


def test_a_database_in_fips_mode_gives_its_key_too(shared: Site, tmp_path: Path) -> None:
    """NSS wraps it as FIPS wants it; what it gave before and gives then is one key."""
    place = tmp_path / "nss"
    shutil.copytree(shared.path("pki/clients/admin"), place)
    before = export(shared, tmp_path / "before") / f"{NICKNAME}.key"
    set_fips(place, on=True)
    pki(shared, "export", place, "--to", tmp_path / "out")
    assert (tmp_path / f"out/{NICKNAME}.key").read_bytes() == before.read_bytes()


def test_what_is_not_trusted_is_not_exported(shared: Site, tmp_path: Path) -> None:
    """A CA that is distrusted, or may issue only what the peers do not have, or has expired."""
    place = tmp_path / "nss"
    shutil.copytree(shared.path("pki/clients/admin"), place)
    for number, trust in enumerate(("p,p,p", "T,,", ",,")):
        other = OtherCA.make(tmp_path / f"other{number}", f"Other {number}")
        shared.run(
            "certutil", "-A", "-d", f"sql:{place}", "-f", str(place / "nss-password"), "-a",
            "-n", f"other-{number}", "-t", trust, "-i", str(other.path("root.pem")),
        )  # fmt: skip
    pki(shared, "export", place, "--to", tmp_path / "out")
    assert read_certificates(tmp_path / "out/ca.crt") == read_certificates(
        shared.path("pki/ca/ca.pem")
    )
    shared.run(
        *("certutil", "-M", "-d", f"sql:{place}", "-f", str(place / "nss-password")),
        *("-n", "sigul-ca", "-t", ",,"),
    )
    _, said = pki(shared, "export", place, "--to", tmp_path / "none", code=1)
    assert "no CA that is valid is trusted" in said
    assert not (tmp_path / "none").exists()


@pytest.mark.once("what our program says")
def test_an_intermediate_ca_without_its_root_is_told(site: Site, tmp_path: Path) -> None:
    other = OtherCA.make(tmp_path / "other")
    other.leaf("leaf", common="admin")
    words = ("--cert", other.path("leaf.pem"), "--key", other.path("leaf.key"))
    pki(site, "import", "--into", tmp_path / "nss", *words, "--nickname", NICKNAME)
    _, said = pki(site, "export", tmp_path / "nss", "--to", tmp_path / "out")
    assert "OpenSSL wants the root as well ('Other Root')" in said
    pki(site, "import", "--into", tmp_path / "nss", "--ca", other.path("root.pem"))
    _, said = pki(site, "export", tmp_path / "nss", "--to", tmp_path / "out", "--replace")
    assert said == ""


# -------------------------------------------------------------------------------------- refusals


@pytest.mark.once("our own writing of files")
def test_files_that_are_there_stay(shared: Site, tmp_path: Path) -> None:
    """In this process, which gets the key out of its database once (tests/ready_keys.py)."""
    source = shared.path("pki/clients/admin")

    def refused(*words: str | Path) -> str:
        with pytest.raises(SigulError) as raised:
            here("export", source, "--to", to, *words)
        return str(raised.value)

    for name in (f"{NICKNAME}.crt", f"{NICKNAME}.key", "ca.crt"):
        to = tmp_path / f"with-{name}"
        to.mkdir()
        (to / name).write_text("mine")
        said = refused()
        assert f"'{to / name}' is there already" in said
        assert "--replace" in said
        assert [path.name for path in to.iterdir()] == [name]
        assert (to / name).read_text() == "mine"
        assert here("export", source, "--to", to, "--replace") == 0
        assert (to / name).read_bytes().startswith(b"-----BEGIN ")
        # Whatever was there is not what says who may read the key.
        (to / f"{NICKNAME}.key").chmod(0o644)
        assert here("export", source, "--to", to, "--replace") == 0
        assert stat.S_IMODE((to / f"{NICKNAME}.key").stat().st_mode) == 0o600
        (to / name).unlink()
        (to / name).symlink_to(tmp_path / "elsewhere")
        assert "is no file" in refused("--replace")
        assert not (tmp_path / "elsewhere").exists()


@pytest.mark.once("what our program says")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give --to DIRECTORY, or all of --cert, --key and --ca"),
        (["--cert", "a", "--key", "b"], "give --to DIRECTORY"),
        (["--to", "o", "--cert", "same", "--key", "same"], "two of these are the same"),
        (["--to", "o", "--nickname", "nobody"], "no certificate with the nickname 'nobody'"),
        (["--to", "o", "--nickname", "sigul-ca"], "is a CA, whose private key is for issuing"),
        (["--to", "o", "--nickname", "my token:alice"], "is in a token"),
        (["--to", "o", "--key-password-file", "nowhere"], "'nowhere' cannot be read"),
        (["--to", "o", "--password-file", "wrong"], "password does not open"),
        (["--to", "o", "--mode", "0644x"], "is no mode"),
        (["--to", "o", "--key-password-file", "a", "--ask-key-password"], "give either"),
    ],
)
def test_what_cannot_be_exported_is_said(
    shared: Site, tmp_path: Path, words: list[str], said: str
) -> None:
    (tmp_path / "wrong").write_text("wrong")
    done = shared.run(
        *(*module("stack"), "pki", "export", str(shared.path("pki/clients/admin")), *words),
        code=1, cwd=tmp_path, environment={"PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    assert said in done.stderr.decode()
    assert done.stdout == b""
    assert [path.name for path in tmp_path.iterdir()] == ["wrong"]


@pytest.mark.once("what our program says")
def test_of_several_keys_one_is_named_and_a_ca_keeps_its_own(shared: Site, tmp_path: Path) -> None:
    _, said = pki(shared, "export", shared.path("pki/ca"), "--to", tmp_path / "out", code=1)
    assert "hand out ca.pem" in said
    place = tmp_path / "nss"
    shutil.copytree(shared.path("pki/clients/admin"), place)
    issue = ("issue", "--ca", shared.path("pki/ca"), "--into", place, "--role", "client")
    pki(shared, *issue, "--name", "alice", "--nickname", "alice")
    _, said = pki(shared, "export", place, "--to", tmp_path / "out", code=1)
    assert f"{NICKNAME}, alice" in said or f"alice, {NICKNAME}" in said
    assert "--nickname" in said
    pki(shared, "export", place, "--to", tmp_path / "out", "--nickname", "alice")
    certificate = read_certificates(tmp_path / "out/alice.crt")[0]
    key = load_pem_private_key((tmp_path / "out/alice.key").read_bytes(), None)
    assert key.public_key() == certificate.public_key()
    shared.run(
        *("certutil", "-F", "-d", f"sql:{place}", "-f", str(place / "nss-password"), "-n", "alice")
    )
    shared.run(
        *("certutil", "-A", "-d", f"sql:{place}", "-f", str(place / "nss-password"), "-a"),
        *("-n", "alice", "-t", ",,", "-i", str(tmp_path / "out/alice.crt")),
    )
    words = ("--to", tmp_path / "again", "--nickname", "alice")
    _, said = pki(shared, "export", place, *words, code=1)
    assert "no private key there" in said


# --------------------------------------------------------------------------------------- secrets


def test_no_secret_is_seen_by_others(shared: Site, tmp_path: Path) -> None:
    """Neither in an argument nor the environment of a tool, nor in a file beside the three."""
    tools, log, pw = tmp_path / "tools", tmp_path / "log", tmp_path / "pw"
    tools.mkdir()
    pw.write_text("a passphrase")
    for tool in ("certutil", "pk12util"):
        script = tools / tool
        script.write_text(
            f'#!/bin/sh\n{{ echo "{tool} $*"; env; }} >> "{log}"\nexec {shutil.which(tool)} "$@"\n'
        )
        script.chmod(0o755)
    database = tmp_path / "nss"
    shutil.copytree(shared.path("pki/clients/admin"), database)
    before = {path.name: path.read_bytes() for path in database.iterdir()}
    done = shared.run(
        *(*module("stack"), "pki", "export", str(database), "--to", str(tmp_path / "out")),
        *("--key-password-file", str(pw)),
        environment={
            "PATH": f"{tools}:{os.environ['PATH']}",
            "TMPDIR": str(tmp_path),
            "PYTHONPATH": str(Path.cwd()),
        },
    )
    noted = log.read_bytes() + done.stdout + done.stderr
    assert b"pk12util -o" in noted
    for secret in (b"a passphrase", (database / "nss-password").read_bytes()):
        assert secret not in noted
    assert {path.name: path.read_bytes() for path in database.iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"tools", "log", "pw", "nss", "out"}
    holders = [
        path for path in tmp_path.rglob("*") if path.is_file() and b"PRIVATE" in path.read_bytes()
    ]
    assert holders == [tmp_path / f"out/{NICKNAME}.key"]


EXPORT = """
import os, sys
from pathlib import Path
from sigul_stack.pki import *
from sigul_stack.pki import password_files
os.umask(0)
source, to = Path(sys.argv[1]), Path(sys.argv[2])
database = NSSDatabase(source, read_password(source / "nss-password"))
leaf = find_leaf(database, None)
files = export_pem(database, leaf)
write_pem_files(files, PEMPaths.of(leaf.nickname, to), Permissions(), replace=True)
"""


@pytest.mark.once("our own writing of files")
def test_a_kill_at_any_moment_leaves_no_key_for_others(shared: Site, tmp_path: Path) -> None:
    to = tmp_path / "out"
    to.mkdir(mode=0o755)
    source = shared.path("pki/clients/admin")
    copies = snapshots(to, tmp_path / "steps", EXPORT, source, to)
    whole = {path.name: path.read_bytes() for path in to.iterdir()}
    assert len(whole) == 3
    drafts = 0
    for copy in copies:
        for path in copy.iterdir():
            if path.name in whole:
                assert path.read_bytes() == whole[path.name], "whole or not there"
            drafts += path.name not in whole
            if b"PRIVATE" in path.read_bytes():
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert drafts
    # What a killed one left is gone after the next.
    last = [copy for copy in copies if any(path.name not in whole for path in copy.iterdir())][-1]
    pki(shared, "export", source, "--to", last, "--replace")
    assert {path.name for path in last.iterdir()} == set(whole)


def test_certificates_are_read_by_openssl_as_one_file_each(shared: Site, tmp_path: Path) -> None:
    """`openssl x509` takes the first of the certificate file: the leaf."""
    names = {name: tmp_path / name for name in ("cert", "key", "ca")}
    options = [word for name, path in names.items() for word in (f"--{name}", path)]
    pki(shared, "export", shared.path("pki/clients/alice"), *options, "--mode", "0640")
    assert stat.S_IMODE(names["key"].stat().st_mode) == 0o640
    subject = openssl("x509", "-noout", "-subject", "-in", str(names["cert"]))
    assert "CN=alice" in subject.replace(" ", "")
    openssl("pkey", "-in", str(names["key"]), "-noout")
