"""Fault 19: a bundle for a bug report holds no secret of a site that has them in every place."""

from __future__ import annotations

import base64
import json
import secrets
import sqlite3
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sigul_stack.config.ini import ConfigFiles
from sigul_stack.health.redaction import (
    REMOVED,
    Redactor,
    known_secrets,
    shown_configuration,
)
from tests.site import ADMIN_PASSWORD, BRIDGE_NAME, SERVER_NAME, Site, module

pytestmark = pytest.mark.once("what our program collects")

KEY_PASSPHRASE = "the passphrase of k1"
FINGERPRINT = "0123456789ABCDEF0123456789ABCDEF01234567"


@dataclass
class Planted:
    """A site, and every secret in it."""

    site: Site
    configurations: list[Path] = field(default_factory=list)
    logs: list[Path] = field(default_factory=list)
    secrets: dict[str, bytes] = field(default_factory=dict)

    def new(self, what: str, secret: str | None = None) -> str:
        """A secret of the site, random if none is given."""
        secret = secret or f"{secrets.token_urlsafe(12)}-{what.replace(' ', '-')}"
        self.secrets[what] = secret.encode()
        return secret


@pytest.fixture(scope="module")
def planted(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    site = Site.copy(template, tmp_path_factory.mktemp("diagnose") / "site")
    found = Planted(site)
    found.new("administrator", ADMIN_PASSWORD)
    found.new("key passphrase", KEY_PASSPHRASE)
    site.extra = {
        name: {"daemon": f"status-socket: {site.path(f'run/{name}.sock')}\n"}
        for name in ("bridge", "server")
    }
    site.configure()
    with site.running() as (bridge, server):
        for name in ("k1", "k2"):
            kind = "gnupg" if name == "k1" else "ECC"
            given = [ADMIN_PASSWORD, KEY_PASSPHRASE]
            site.sigul("new-key", "--key-type", kind, name, secrets=given)
        site.sigul("list-users", secrets=["not the password"], code=1)
        found.logs = [bridge.log, server.log]
        plant_in_files(found)
        plant_in_logs(found)
        plant_in_configurations(found)
        yield found


def plant_in_files(planted: Planted) -> None:
    site = planted.site
    for path in site.path("pki").rglob("nss-password"):
        planted.new(f"NSS password of {path.parent.name}", path.read_text())
    beside = planted.site.path("pki/clients/admin/k1-passphrase")
    beside.write_text(planted.new("passphrase file") + "\n")
    with sqlite3.connect(site.path("server/server.sqlite")) as database:
        for number, (value,) in enumerate(
            database.execute(
                "SELECT sha512_password FROM users WHERE sha512_password IS NOT NULL"
                " UNION ALL SELECT encrypted_passphrase FROM key_accesses"
            )
        ):
            planted.secrets[f"database {number}"] = (
                value if isinstance(value, bytes) else value.encode()
            )
    database.close()
    private = [path for path in site.path("server/keys").rglob("*") if path.is_file()]
    private += site.path("server/gnupg/private-keys-v1.d").glob("*.key")
    assert len(private) >= 2
    for path in private:
        planted.secrets[f"private key {path.name}"] = path.read_bytes()[60:160]


def plant_in_logs(planted: Planted) -> None:
    """What a careless program could write into a log, each in a way of its own."""
    known = planted.secrets["NSS password of bridge"]
    envelope = planted.secrets["database 1"]
    lines = [
        f"authenticating with {known.decode()} now",
        f"the same in base64: {base64.b64encode(known).decode()}, in hex: {known.hex()}",
        f"in something else: {base64.b64encode(b'u:' + known + b'@host').decode()}",
        f"password={planted.new('log 1')}, the rest stays",
        f"'new-passphrase': '{planted.new('log 2', 'two words')}'",
        f"key token: {planted.new('log 3')}",
        f"postgresql://sigul:{planted.new('log 4')}@db/sigul",
        f"envelope {base64.b64encode(envelope).decode()}",
        f"envelope {envelope.hex()}",
        f"hash {planted.secrets['database 0'].decode()}",
        f"only random: {planted.new('log 5', secrets.token_urlsafe(32))}",
        "-----BEGIN PRIVATE KEY-----",
        planted.new("log 6", "MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp"),
        "-----END PRIVATE KEY-----",
        f"certificate of {SERVER_NAME} expired; fingerprint {FINGERPRINT}",
    ]  # fmt: skip
    path = planted.site.path("log/careless.log")
    path.write_text("\n".join(lines) + "\n")
    planted.logs.append(path)


def plant_in_configurations(planted: Planted) -> None:
    site = planted.site
    planted.configurations = [site.path(f"{name}.conf") for name in ("bridge", "server", "client")]
    # Separate files, for those above have to work. Each is whole but for its secrets.
    client = site.path("client.conf").read_text()
    password = planted.secrets["NSS password of admin"].decode()
    file_line = f"nss-password-file: {site.path('pki/clients/admin/nss-password')}"
    assert file_line in client
    other = site.path("client-other.conf")
    other.write_text(
        f"# the old password was {planted.new('comment')}\n"
        + client.replace(file_line, f"nss-password: {password}")
        .replace("[client]", f"[client]\nnss-password: {planted.new('wrong section')}")
        .replace("[nss]", f"[nss]\nnss-pasword: {planted.new('misspelt')}")
        + f"[nonsense]\nx: {planted.new('unknown section')}\n"
        f"[binding]\nenabled: pkcs11\npkcs11_tokens: a\npkcs11_a_pin: {planted.new('PIN')}\n"
        f"pkcs11_a_pubkey: /tmp/x\npkcs11_a_privkey: pkcs11:object=a?pin-value="
        f"{planted.new('PIN in a URI')}\n"
    )
    bridge = site.path("bridge-other.conf")
    bridge.write_text(
        site.path("bridge.conf").read_text()
        + f"[koji]\nkoji-config: /etc/koji.conf\n[DEFAULT]\nfas-password: {planted.new('FAS')}\n"
    )
    server = site.path("server-other.conf")
    url = f"postgresql://sigul:{planted.new('PostgreSQL')}@127.0.0.1:1/sigul"
    text = site.path("server.conf").read_text()
    line = f"database-path: {site.path('server/server.sqlite')}"
    assert line in text
    server.write_text(text.replace(line, f"database-url: {url}"))
    broken = site.path("bridge-broken.conf")
    broken.write_text(f"[nss]\n{planted.new('no option')}\n")
    planted.configurations += [other, bridge, server, broken]


@pytest.fixture(scope="module")
def bundle(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked bundle, and beside it what the command printed."""
    directory = tmp_path_factory.mktemp("bundle")
    options: list[str] = []
    for path in planted.configurations:
        options += ["-c", str(path)]
    for path in planted.logs:
        options += ["--log", str(path)]
    archive = directory / "report.tar.gz"
    done = planted.site.run(
        *module("stack"), "diagnose", *options, "--output", str(archive), seconds=110
    )
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    (directory / "printed").write_bytes(done.stdout + done.stderr)
    with tarfile.open(archive) as packed:
        assert {member.mode for member in packed.getmembers()} == {0o600}
        for member in packed.getmembers():
            file = packed.extractfile(member)
            assert file is not None
            path = directory / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.read())
    return directory


#: Of a longer secret, so many bytes in a row are too many to show.
PIECE = 16


def forms(secret: bytes) -> set[bytes]:
    """What a search for the secret looks for."""
    found = {
        secret, secret.rstrip(b"\r\n\0"), secret.hex().encode(), secret.hex().upper().encode(),
        base64.b64encode(secret).rstrip(b"="), base64.urlsafe_b64encode(secret).rstrip(b"="),
        json.dumps(secret.decode("utf-8", "replace"))[1:-1].encode(),
    }  # fmt: skip
    found |= {line for line in secret.splitlines() if len(line) > 20}
    return found


def test_fault_19_no_secret_is_in_the_bundle(planted: Planted, bundle: Path) -> None:
    files = [path for path in bundle.rglob("*") if path.is_file() and path.suffix != ".gz"]
    assert len(files) > 25
    assert len(planted.secrets) > 20
    leaks = []
    for path in files:
        data = path.read_bytes()
        pieces = {data[place : place + PIECE] for place in range(len(data))}
        for what, secret in planted.secrets.items():
            for form in forms(secret):
                if len(form) <= PIECE:
                    found = form in data
                else:
                    found = any(
                        form[place : place + PIECE] in pieces
                        for place in range(len(form) - PIECE + 1)
                    )
                if found:
                    leaks.append(f"{what} in {path.relative_to(bundle)}: {form!r}")
    assert leaks == []


def test_what_a_bug_report_needs_is_in_the_bundle(planted: Planted, bundle: Path) -> None:
    top = bundle / "sigul-diagnostics"
    readme = (top / "README.txt").read_text()
    printed = (bundle / "printed").read_text()
    for path in top.rglob("*.*"):
        name = str(path.relative_to(top))
        assert name in readme or name == "README.txt"
        assert f"  {name}\n" in printed
    assert "NSS 3." in (top / "versions.txt").read_text()
    assert "gpg 2." in (top / "versions.txt").read_text()

    configuration = (top / "client/configuration.txt").read_text()
    assert f"bridge-hostname: {BRIDGE_NAME}\n" in configuration
    assert f"nss-password-file: {planted.site.path('pki/clients/admin')}" in configuration
    other = (top / "client-2/configuration.txt").read_text()
    assert other.count(REMOVED) >= 5
    assert "did you mean nss-password?" in (top / "client-2/doctor.txt").read_text()
    reason = (top / "server-2/doctor.txt").read_text()
    assert "cannot connect" in reason
    assert "Cure: check host, port, user and password in the URL" in reason
    broken = (top / "bridge-3/configuration.txt").read_text()
    assert "neither a [section] nor `option: value`" in broken

    for component in ("client", "bridge", "server"):
        report = json.loads((top / component / "doctor.json").read_text())
        assert report["state"] == "ok", report
        assert (top / component / "doctor.txt").read_text().startswith(f"{component}: ok")
    certificates = json.loads((top / "server/certificates.json").read_text())
    assert [SERVER_NAME] in [item["names"] for item in certificates]
    assert json.loads((top / "server/database.json").read_text()) == {
        "layout": "current",
        "users": 1,
        "administrators": 1,
        "keys": {"ECC": 1, "gnupg": 1},
        "accesses": 2,
    }
    assert json.loads((top / "bridge/status.json").read_text())["servers_waiting"] >= 1
    assert json.loads((top / "server/status.json").read_text())["workers_attached"] >= 1
    listing = (top / "server/files.txt").read_text()
    assert "drwx------" in listing
    assert "server.sqlite" in listing
    careless = (top / "logs/2-careless.log").read_text().splitlines()
    assert careless[0] == f"authenticating with {REMOVED} now"
    assert careless[3] == f"password={REMOVED} the rest stays"
    assert careless[-1].endswith(f"{SERVER_NAME} expired; fingerprint {FINGERPRINT}")
    # An honest log stays readable.
    server = (top / "logs/1-server-1.log").read_text()
    assert "Authentication failed: wrong password for user 'admin'" in server
    assert REMOVED not in server


def test_a_place_that_cannot_be_written(planted: Planted, tmp_path: Path) -> None:
    done = planted.site.run(
        *module("stack"), "diagnose", "-c", str(planted.configurations[-1]),
        "--output", str(tmp_path / "no" / "report.tar.gz"), code=1,
    )  # fmt: skip
    assert b"name another with --output" in done.stderr


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("passphrase: x y", f"passphrase: {REMOVED} y"),
        ("nss-password-file: /etc/sigul/secrets/nss-password", None),
        ("wrong password for user 'admin'", None),
        ("/usr/lib/x86_64-linux-gnu/engines-3/pkcs11.so", None),
        ("sigul-server.example.org and SSL_ERROR_BAD_CERT_DOMAIN", None),
        ("2026-11-22T04:54:57.109Z INFO [29787] {019b7f1e} [BRIDGE_REQUEST] Waiting", None),
        ("0123456789abcdef0123456789abcdef01234567", None),
        ("x" * 4 + "s3cret" + "y", f"xxxx{REMOVED}y"),
        ("abc", None),
    ],
)
def test_what_is_taken_out_and_what_stays(text: str, shown: str | None) -> None:
    redactor = Redactor([b"s3cret\n", b"b"])
    assert redactor.clean(text) == (text if shown is None else shown)


def test_an_option_that_is_about_secrets_is_none(tmp_path: Path) -> None:
    """Its value would be taken out of every text that has that number."""
    file = tmp_path / "server.conf"
    file.write_text("[server]\nmax-secret-delay: 0.0017\n[nss]\nmy-secret: hidden\n")
    files = ConfigFiles([file])
    assert list(known_secrets(files)) == [b"hidden"]
    shown = shown_configuration("server", files)
    assert "max-secret-delay: 0.0017" in shown
    assert "hidden" not in shown
