"""Keys on PKCS#11 tokens, as 1.3 has them, and rows of types that nobody knows, in a running site.

The token is SoftHSM's, found through the system's p11-kit. Images are verified by sbverify.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sigul_stack.errors import Status
from sigul_stack.keystore.envelope import seal
from sigul_stack.secret import Secret
from tests.faults.scripted import Peer
from tests.pe_images import Machine, make_image
from tests.site import Site, module
from tests.tokens import PIN, SoftHSM, tool

from .commands_support import ADMIN, change_database, done, error_line, failure
from .rpm_support import build
from .signing_support import program

pytestmark = pytest.mark.system

UNSUPPORTED = "Unsupported keytype for operation"
TOKEN, OTHER = "Sigul Token 0; 50%", "other"
LABEL, EC_LABEL = "Secure Boot: Code/Signing 1", "EC"
MANIFEST = (
    '{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config":'
    ' {"mediaType": "application/vnd.oci.image.config.v1+json", "size": 2, "digest": "sha256:'
    + "a" * 64
    + '"}, "layers": []}'
)
IN_URI = "Sigul%20Token%200%3B%2050%25"
URI = f"pkcs11:object=Secure%20Boot%20Key;token={IN_URI};type=private"
EC_URI = f"pkcs11:token={IN_URI};id=%0b%02"


@dataclass
class Tokens:
    """A machine with two tokens of keys, the second with the first's labels."""

    softhsm: SoftHSM
    directory: Path

    def certificate(self, name: str) -> Path:
        """A certificate's file."""
        return self.directory / f"{name}.pem"

    def make(self, name: str, *algorithm: str) -> tuple[Path, Path]:
        """A key and its certificate, for code signing."""
        key = self.directory / f"{name}.key"
        tool("openssl", "req", "-x509", "-newkey", *algorithm, "-nodes", "-days", "30",
             "-subj", f"/CN={name}", "-addext", "extendedKeyUsage=codeSigning",
             "-addext", "keyUsage=critical,digitalSignature",
             "-keyout", str(key), "-out", str(self.certificate(name)))  # fmt: skip
        return key, self.certificate(name)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    directory = tmp_path_factory.mktemp("tokens")
    made = Tokens(SoftHSM(directory / "softhsm"), directory)
    for token, prefix in ((TOKEN, ""), (OTHER, "other-")):
        made.softhsm.initialise(token)
        rsa = made.make(f"{prefix}rsa", "rsa:2048")
        made.softhsm.put(token, *rsa, id="0a01", label="Secure Boot Key", certificate_label=LABEL)
    ec = made.make("ec", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
    made.softhsm.put(TOKEN, *ec, id="0b02", label="EC key", certificate_label=EC_LABEL)
    return made


@contextlib.contextmanager
def running(template: Site, directory: Path, tokens: Tokens, binding: str = "") -> Iterator[Site]:
    """A site of its own with the tokens plugged in, and users alice and bob."""
    site = Site.copy(template, directory / "site")
    site.variables = tokens.softhsm.environment
    site.extra = {"server": {"server": "proxy-usernames: admin\n"}}
    if binding:
        site.extra["server"]["binding"] = binding
    site.configure()
    with site.running():
        for user in ("alice", "bob"):
            done(site, "new-user", user, secrets=[ADMIN])
        yield site


@pytest.fixture(scope="module")
def site(
    template: Site, tokens: Tokens, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A running site with the keys `token` and `token-ec`, `pgp`, `rsa` and odd rows."""
    with running(template, tmp_path_factory.mktemp("pkcs11"), tokens) as site:
        assert add_token(site, tmp_path_factory.mktemp("a")) == ""
        assert add_token(site, tmp_path_factory.mktemp("b"), k=EC_URI, n="token-ec") == ""
        for name, kind in (("pgp", "gnupg"), ("rsa", "RSA")):
            done(site, "new-key", name, "--key-type", kind, secrets=[ADMIN, f"{name}-pw"])
        odd_row(site, "weird", "weird", "../../etc/passwd")
        odd_row(site, "imported", "PKCS11", "da39a3ee5e6b4b0d3255bfef95601890afd80709")
        yield site


def add_token(site: Site, directory: Path, *more: str, **options: str) -> str:
    """Run `sigul_server_add_pkcs11_token`; what it says on standard error."""
    result = site.run(*add_command(site, directory, *more, **options), code=None)
    assert result.stdout == b""
    text = result.stderr.decode()
    if result.returncode:
        return error_line(result)
    return text


def add_command(site: Site, directory: Path, *more: str, **options: str) -> list[str]:
    for name, content in (("pin", f"  {PIN}\t\nnot this\n"), ("passphrase", "token-pw \n")):
        (directory / name).write_text(content)
    values = {
        "a": "admin", "k": URI, "n": "token",
        "t": str(directory / "pin"), "p": str(directory / "passphrase"), **options,
    }  # fmt: skip
    return [
        *module("server_add_pkcs11_token"), "-c", str(site.path("server.conf")), *more,
        *(word for name, value in values.items() if value for word in (f"-{name}", value)),
    ]  # fmt: skip


def odd_row(site: Site, name: str, keytype: str, fingerprint: str) -> None:
    """A row that another program has written, with an access of admin's."""
    sealed = seal(Secret(b"1234"), Secret(f"{name}-pw".encode()))
    change_database(
        site,
        "INSERT INTO keys (name, keytype, fingerprint) VALUES (?, ?, ?)",
        name,
        keytype,
        fingerprint,
    )
    change_database(
        site, "INSERT INTO key_accesses (key_id, user_id, encrypted_passphrase, key_admin)"
        " SELECT keys.id, users.id, ?, 1 FROM keys, users"
        " WHERE keys.name = ? AND users.name = 'admin'",
        sealed, name,
    )  # fmt: skip


def image(directory: Path) -> Path:
    path = directory / "image.efi"
    path.write_bytes(make_image(Machine.X86_64))
    return path


def test_all_are_listed(site: Site) -> None:
    listed = done(site, "list-keys", secrets=[ADMIN]).decode().split("\n")
    assert listed == [
        "imported (PKCS11)", "pgp (gnupg)", "rsa (RSA)", "token (PKCS11)", "token-ec (PKCS11)",
        "weird (weird)", "",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "label", "certificate"),
    [("token", LABEL, "rsa"), ("token-ec", EC_LABEL, "ec")],
    ids=["rsa", "ec"],
)
def test_an_image_is_signed_on_the_token(
    site: Site, tokens: Tokens, tmp_path: Path, key: str, label: str, certificate: str
) -> None:
    signed = tmp_path / "signed.efi"
    arguments = ("sign-pe", key, label, str(image(tmp_path)), "-o", str(signed))
    assert done(site, *arguments, secrets=["token-pw"]) == b""
    program("sbverify", "--cert", tokens.certificate(certificate), signed)
    program("sbverify", "--cert", tokens.certificate("other-rsa"), signed, code=1)
    assert list(site.path("server/spool").iterdir()) == []


def test_a_certificate_that_is_not_the_keys(site: Site, tmp_path: Path) -> None:
    for label in (EC_LABEL, "none", "../x"):
        text = failure(site, "sign-pe", "token", label, str(image(tmp_path)), secrets=["token-pw"])
        assert f"no certificates labelled '{label}'" in text
        assert LABEL in text


@pytest.mark.once("our own rows and options")
def test_what_is_no_image_is_told(site: Site, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"MZ" + bytes(1000))
    text = failure(site, "sign-pe", "token", LABEL, str(tmp_path / "x"), secrets=["token-pw"])
    assert "no PE image" in text


@pytest.mark.once("our own table of operations, and rights")
@pytest.mark.parametrize("key", ["token", "weird", "imported"])
def test_no_other_operation_uses_it(site: Site, tmp_path: Path, key: str) -> None:
    file, manifest = image(tmp_path), tmp_path / "manifest"
    manifest.write_text(MANIFEST)
    secret = "token-pw" if key == "token" else f"{key}-pw"
    for command in (
        ("sign-text", key, str(file)),
        ("sign-data", key, str(file)),
        ("decrypt", key, str(file)),
        ("sign-container", key, str(manifest), "registry.example.org/name:1"),
        ("sign-ostree", key, "a0", str(file)),
        ("sign-certificate", key, key, "--subject-certificate-name", "x", "--certificate-type",
         "ca", "--validity", "1y", "-s", "CN=x"),
        ("sign-certificate", "rsa", key, "--subject-certificate-name", "x", "--certificate-type",
         "ca", "--validity", "1y", "-s", "CN=x"),
        ("change-key-expiration", key, "--expire-date", "2040-01-01"),
        ("list-certificates", key),
        *([("sign-pe", key, "x", str(file))] if key == "weird" else ()),
    ):  # fmt: skip
        opened_by = "rsa-pw" if command[1] == "rsa" else secret
        assert failure(site, *command, secrets=[opened_by]).startswith(UNSUPPORTED), command


@pytest.mark.once("our own table of operations, and rights")
def test_none_is_made_or_imported(site: Site, tmp_path: Path) -> None:
    key = tmp_path / "k.pem"
    tool("openssl", "genpkey", "-algorithm", "RSA", "-out", str(key))
    before = sorted(path.name for path in site.path("server/keys").iterdir())
    secrets = {"password": ADMIN.encode(), "passphrase": b"a-pw", "new-passphrase": b"b-pw"}
    with Peer(site, "client") as client:
        for op, payload in (("new-key", b""), ("import-key", key.read_bytes())):
            for kind in (b"PKCS11", b"weird"):
                told = client.run(
                    op=op, user="admin", fields={"key": b"made", "keytype": kind},
                    secrets=secrets, payload=payload,
                )  # fmt: skip
                assert told["status"] == Status.UNSUPPORTED_KEYTYPE
    assert sorted(path.name for path in site.path("server/keys").iterdir()) == before
    assert b"made" not in done(site, "list-keys", secrets=[ADMIN])


@pytest.mark.once("our own table of operations, and rights")
@pytest.mark.parametrize("key", ["token", "weird"])
def test_no_rpm_is_signed_with_it(site: Site, tmp_path: Path, key: str) -> None:
    rpm, secret = str(build(tmp_path)), f"{key}-pw"
    output = str(tmp_path / "signed.rpm")
    text = failure(site, "sign-rpm", key, rpm, "-o", output, secrets=[secret])
    assert text.startswith(UNSUPPORTED)
    for command, target in (("sign-rpm", output), ("sign-rpms", str(tmp_path / "out"))):
        result = site.sigul(
            command, "--file-signing-key", key, "-o", target, "pgp", rpm,
            secrets=["pgp-pw", secret], code=1,
        )  # fmt: skip
        assert UNSUPPORTED in result.stderr.decode()


@pytest.mark.once("our own table of operations, and rights")
def test_protocol_0_lists_bare_names(site: Site) -> None:
    with Peer(site, "client") as client:
        told = client.run(version=0, op="list-keys", user="admin",
                          secrets={"password": ADMIN.encode()})  # fmt: skip
    assert told["payload"] == b"imported\0pgp\0rsa\0token\0token-ec\0weird\0"


@pytest.mark.once("our own table of operations, and rights")
def test_rights_are_as_of_any_key(site: Site, tmp_path: Path) -> None:
    grant = ("grant-key-access", "token", "bob")
    done(site, *grant, secrets=["token-pw", "b-pw"])
    assert done(site, "list-key-users", "token", secrets=["token-pw"]) == b"admin\nbob\n"
    done(site, "modify-key-user", "--key-admin", "yes", "bob", "token", secrets=[ADMIN])
    assert b"yes" in done(site, "key-user-info", "bob", "token", secrets=[ADMIN]).lower()
    bob = site.client_configuration("bob", "bob")
    done(site, "change-passphrase", "token", secrets=["b-pw", "b2-pw"], config=bob)
    signed = tmp_path / "signed"
    done(
        site, "sign-pe", "token", LABEL, str(image(tmp_path)), "-o", str(signed),
        secrets=["b2-pw"], config=bob,
    )  # fmt: skip
    done(site, "modify-key", "--new-name", "renamed", "token", secrets=[ADMIN])
    done(site, "modify-key", "--new-name", "token", "renamed", secrets=[ADMIN])
    done(site, "revoke-key-access", "token", "bob", secrets=["token-pw"])
    assert done(site, "list-key-users", "token", secrets=["token-pw"]) == b"admin\n"


def test_the_public_key_comes_from_the_token(site: Site, tokens: Tokens) -> None:
    for key, name in (("token", "rsa"), ("token-ec", "ec")):
        expected = tool(
            "openssl", "x509", "-in", str(tokens.certificate(name)), "-noout", "-pubkey"
        )
        assert done(site, "get-public-key", key, secrets=["token-pw"]) == expected
        by_password = ("get-public-key", "--password", key)
        assert done(site, *by_password, secrets=[ADMIN]) == expected
    assert failure(site, "get-public-key", "weird", secrets=["weird-pw"]).startswith(UNSUPPORTED)
    text = failure(site, "get-public-key", "imported", secrets=["imported-pw"])
    assert "no URI of a key on a token" in text


@pytest.mark.once("our own rows and options")
def test_a_row_is_deleted_and_the_log_says_what_stays(
    site: Site, tokens: Tokens, tmp_path: Path
) -> None:
    assert add_token(site, tmp_path, n="brief", k=f"pkcs11:token={OTHER}") == ""
    odd_row(site, "odd", "strange", "odd")
    for name in ("brief", "odd"):
        done(site, "grant-key-access", name, "alice", secrets=[
            "token-pw" if name == "brief" else "odd-pw", "a-pw"])  # fmt: skip
        done(site, "delete-key", name, secrets=[ADMIN])
    (log,) = [process.text for process in site.processes if "server" in process.log.name]
    assert re.search(rf"Key 'brief' \(PKCS11\) is deleted .* stays: 'pkcs11:token={OTHER}'", log)
    assert re.search(r"Key 'odd' \(strange\) is deleted .* stays: 'odd'", log)
    with contextlib.closing(sqlite3.connect(site.path("server/server.sqlite"))) as database:
        rows = database.execute(
            "SELECT count(*) FROM key_accesses WHERE key_id NOT IN (SELECT id FROM keys)"
        )
        assert rows.fetchone() == (0,)
    there = tool("pkcs11-tool", "--module", "p11-kit-proxy.so", "--token-label", OTHER, "-O",
                 environment=tokens.softhsm.environment)  # fmt: skip
    assert b"Secure Boot Key" in there


@pytest.mark.once("our own rows and options")
def test_odd_rows_are_reported_and_stop_nothing(site: Site) -> None:
    doctor = site.run(*module("stack"), "doctor", "server", "-c", str(site.path("server.conf")),
                      "--json", code=None).stdout.decode()  # fmt: skip
    assert "'weird' is of type 'weird'" in doctor
    assert "'imported' is of type PKCS11, and its fingerprint is no URI" in doctor
    assert "'token'" not in doctor
    (log,) = [process.text for process in site.processes if "server" in process.log.name]
    assert "/etc/passwd" not in log


def test_a_token_that_is_away_or_has_another_pin(
    site: Site, tokens: Tokens, tmp_path: Path
) -> None:
    stored = tokens.softhsm.configuration.parent / "tokens"
    away = stored.with_name("away")
    sign = ("sign-pe", "token", LABEL, str(image(tmp_path)))
    stored.rename(away)
    stored.mkdir()
    try:
        assert "no token is there" in failure(site, *sign, secrets=["token-pw"])
        assert "no token is there" in failure(site, "get-public-key", "token", secrets=["token-pw"])
        assert done(site, "list-keys", secrets=[ADMIN])
    finally:
        stored.rmdir()
        away.rename(stored)
    tool("softhsm2-util", "--init-token", "--free", "--label", "moved", "--so-pin", "5678",
         "--pin", "9999", environment=tokens.softhsm.environment)  # fmt: skip
    text = add_token(site, tmp_path, n="moved", k="pkcs11:token=moved")
    assert "the token refuses the PIN" in text


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"a": "nobody"}, "there is no user 'nobody'"),
        ({"n": "pgp", "k": "pkcs11:token=x"}, "there is a key 'pgp' already"),
        ({"n": "again"}, "the key 'token' has that URI already"),
        ({"n": "new", "k": "token=x"}, "does not begin with 'pkcs11:'"),
        ({"n": "new", "k": "pkcs11:token=a b"}, "percent-encoded"),
        ({"n": "new", "k": "pkcs11:token=a?pin-value=77"}, "pin-value"),
        ({"n": "new", "k": f"pkcs11:token={IN_URI};object=none"}, "no private key"),
        ({"n": "\x01", "k": "pkcs11:token=x"}, "--key-name"),
        ({"n": "new", "t": "/no/such/file"}, "--token-pin-file"),
        ({"n": "new", "p": "/dev/null"}, "--passphrase-file"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_new_token_is_told(
    site: Site, tmp_path: Path, options: dict[str, str], text: str
) -> None:
    before = done(site, "list-keys", secrets=[ADMIN])
    told = add_token(site, tmp_path, **options)
    assert text in told
    assert "77" not in told
    assert done(site, "list-keys", secrets=[ADMIN]) == before


@pytest.mark.once("our own rows and options")
@pytest.mark.parametrize("option", "akntp")
def test_no_option_has_a_default(site: Site, tmp_path: Path, option: str) -> None:
    result = site.run(*add_command(site, tmp_path, **{option: ""}), code=2)
    assert "required" in result.stderr.decode()


def test_a_token_that_is_not_there_yet(site: Site, tmp_path: Path) -> None:
    assert add_token(site, tmp_path, "--no-token-check", n="later", k="pkcs11:token=later") == ""
    text = failure(site, "sign-pe", "later", "x", str(image(tmp_path)), secrets=["token-pw"])
    assert "no token is there" in text
    done(site, "delete-key", "later", secrets=[ADMIN])


@pytest.mark.once("the order of methods, as in test_bindings_tokens")
def test_forced_bindings_hold_for_the_pin(template: Site, tokens: Tokens, tmp_path: Path) -> None:
    binding = "enabled: test\nforced-binding-methods: test,may_unbind=1\n"
    with running(template, tmp_path, tokens, binding) as site:
        assert add_token(site, tmp_path) == ""
        done(site, "grant-key-access", "token", "bob", secrets=["token-pw", "b-pw"])
        signed = tmp_path / "signed.efi"
        done(
            site, "sign-pe", "token", LABEL, str(image(tmp_path)), "-o", str(signed),
            secrets=["token-pw"],
        )  # fmt: skip
        program("sbverify", "--cert", tokens.certificate("rsa"), signed)
    shutil.rmtree(site.directory)
