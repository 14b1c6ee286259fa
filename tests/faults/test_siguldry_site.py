"""siguldry's client at a site as its own tests have one, and pesign-bridge on top of it.

Bridge and server have the one name `localhost`, the administrator speaks for others
(`lenient-username-check`), `pkcs11` is the one binding method. The numbers are those of the page of
facts that `tests.siguldry` is written from.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sigul_stack.errors import Status
from tests.faults.observe import storm, workers
from tests.integration.commands_support import openssl
from tests.integration.signing_support import program
from tests.integration.test_failures_in_flight import Gate
from tests.pe_images import Machine, make_image
from tests.siguldry import Failure, Reply, Siguldry
from tests.site import PROGRAM_SECONDS, Process, Site, has_ended, wait_until

pytestmark = pytest.mark.once("our own framing and order of messages")

PASSWORD = {"password": b"admin-pw"}
FILE_PASSWORD = b"the file's"
#: Names of users and keys that no other test has.
_NUMBERS = itertools.count(1)

Lab = tuple[Site, Process, Process, Siguldry]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A running site with one name for bridge and server, and its administrator's client."""
    directory = tmp_path_factory.mktemp("lab")
    site = Site.make(
        directory / "site", ("admin", "guest"), bridge_name="localhost", server_name="localhost",
        addresses={"localhost": "127.0.0.1"},
    )  # fmt: skip
    token = f"pkcs11_one_pin: 1234\npkcs11_one_pubkey: {site.path('pki/ca/ca.pem')}\n"
    site.extra["server"] = {
        "server": "lenient-username-check: yes\n",
        "binding": f"enabled: pkcs11\npkcs11_tokens: one\n{token}",
    }
    site.configure()
    with site.running() as (bridge, server):
        yield site, bridge, server, Siguldry.of(site, directory / "siguldry")


@pytest.fixture
def name() -> str:
    """A name that nobody has yet, of letters alone."""
    return "n" + "".join(chr(ord("a") + int(digit)) for digit in str(next(_NUMBERS)))


def text(**fields: str | bytes) -> list[tuple[str, bytes]]:
    """Fields in their order; `_` in a name stands for `-`."""
    return [
        (key.replace("_", "-"), value.encode() if isinstance(value, str) else value)
        for key, value in fields.items()
    ]


def done(reply: Reply) -> Reply:
    """The reply to a request that had to succeed."""
    assert reply.status == Status.OK, (reply.status, reply.message)
    return reply


def new_user(lab: Lab, name: str, admin: bytes = b"\0", password: bytes = b"") -> None:
    """A user; `admin` always says whether it is an administrator."""
    inner = {**PASSWORD, **({"new-password": password} if password else {})}
    done(lab[3].request("new-user", text(name=name, admin=admin), inner))


def new_key(lab: Lab, name: str, keytype: str = "gnupg", **fields: str) -> bytes:
    """A key with the passphrase `NAME-pw`; its public part."""
    inner = {**PASSWORD, "passphrase": f"{name}-pw".encode()}
    return done(lab[3].request("new-key", text(key=name, keytype=keytype, **fields), inner)).payload


def opened(name: str) -> dict[str, bytes]:
    """The inner field that opens a key of `new_key`."""
    return {"passphrase": f"{name}-pw".encode()}


def pem(kind: str) -> bytes:
    """A private key of `kind` (RSA, ECC) in the traditional form, encrypted by OpenSSL."""
    command = "rsa" if kind == "RSA" else "ec"
    how = ("RSA", "rsa_keygen_bits:2048") if kind == "RSA" else ("EC", "ec_paramgen_curve:P-256")
    key = openssl("genpkey", "-algorithm", how[0], "-pkeyopt", how[1])
    more = ["-traditional"] if kind == "RSA" else []
    secret = FILE_PASSWORD.decode()
    made = openssl(command, "-aes-128-cbc", "-passout", f"pass:{secret}", *more, data=key)
    assert b"Proc-Type: 4,ENCRYPTED" in made
    assert b"AES-128-CBC" in made
    return made


def import_key(lab: Lab, name: str, kind: str, content: bytes) -> Reply:
    """The reply to an import of a file."""
    inner = {**PASSWORD, "passphrase": FILE_PASSWORD, "new-passphrase": f"{name}-pw".encode()}
    return lab[3].request("import-key", text(key=name, keytype=kind), inner, content)


def certify(lab: Lab, issuer: str, subject: str, certificate: str, **further: str) -> bytes:
    """A certificate, one year valid, of code signing unless `further` says what."""
    fields = {
        "issuer_key": issuer, "subject_key": subject, "subject": f"CN={certificate}",
        "validity": "1y", "certificate_type": "codesigning",
        "subject_certificate_name": certificate, **further,
    }  # fmt: skip
    return done(lab[3].request("sign-certificate", text(**fields), opened(issuer))).payload


# ------------------------------------------------------------------------------ contents of replies


def test_line_32_counts_are_of_the_names_in_the_payload(lab: Lab, name: str) -> None:
    client = lab[3]
    new_user(lab, name)
    assert {"admin", name} <= set(done(client.request("list-users", inner=PASSWORD)).names())
    done(client.request("list-keys", inner=PASSWORD)).names()
    methods = done(client.request("list-binding-methods", inner=PASSWORD))
    assert methods.names() == ["pkcs11"]


def test_line_33_flags_are_there_on_success(lab: Lab, name: str) -> None:
    client = lab[3]
    new_user(lab, name)
    new_key(lab, name, "ECC")
    admin = done(client.request("user-info", text(name="admin"), PASSWORD))
    assert admin.fields["admin"][:1] == b"\1"
    other = done(client.request("user-info", text(name=name), PASSWORD))
    assert other.fields["admin"][:1] == b"\0"
    mine = done(client.request("key-user-info", text(name="admin", key=name), PASSWORD))
    assert mine.fields["key-admin"][:1] == b"\1"


def test_line_34_empty_payloads(lab: Lab, name: str) -> None:
    """`Siguldry` panics at any other; `import-key` is in test_line_44."""
    client, guest = lab[3], f"{name}x"
    new_user(lab, guest, password=b"guest-pw")
    new_key(lab, name)
    fields = text(key=name, name=guest)
    for op, request, inner in (
        ("modify-user", text(name=guest, admin=b"\0"), PASSWORD),
        ("grant-key-access", fields, {**opened(name), "new-passphrase": b"guest"}),
        ("key-user-info", text(name=guest, key=name), PASSWORD),
        ("modify-key-user", text(name=guest, key=name, key_admin=b"\1"), PASSWORD),
        ("change-passphrase", text(key=name), {**opened(name), "new-passphrase": b"new"}),
        ("change-key-expiration", text(key=name, expire_date="2031-01-01"), {"passphrase": b"new"}),
        ("revoke-key-access", fields, PASSWORD),
        ("modify-key", text(key=name, new_name=f"{name}y"), PASSWORD),
        ("delete-key", text(key=f"{name}y"), PASSWORD),
        ("delete-user", text(name=guest), PASSWORD),
    ):
        assert done(client.request(op, request, inner)).payload == b"", op


def test_line_35_lines_of_list_keys(lab: Lab, name: str) -> None:
    for kind in ("gnupg", "ECC", "RSA"):
        new_key(lab, f"{name}{kind}", kind)
    found = done(lab[3].request("list-keys", inner=PASSWORD)).names()
    assert {f"{name}{kind} ({kind})" for kind in ("gnupg", "ECC", "RSA")} <= set(found)


def test_line_36_public_keys_are_armour_or_pem(lab: Lab, name: str) -> None:
    for kind, begin in (
        ("gnupg", "-----BEGIN PGP PUBLIC KEY BLOCK-----"),
        ("ECC", "-----BEGIN PUBLIC KEY-----"),
        ("RSA", "-----BEGIN PUBLIC KEY-----"),
    ):
        key = f"{name}{kind}"
        made = new_key(lab, key, kind).decode("utf-8")
        again = done(lab[3].request("get-public-key", text(key=key), PASSWORD)).payload
        assert made.startswith(begin)
        assert again.decode("utf-8").startswith(begin)


def test_line_37_and_43_a_certificate_and_nothing_else(lab: Lab, name: str) -> None:
    """`issuer-certificate-name` left out is self-signed; all three types."""
    new_key(lab, name, "ECC")
    for kind in ("ca", "codesigning", "sslserver"):
        made = certify(lab, name, name, f"{name}{kind}", certificate_type=kind)
        (certificate,) = x509.load_pem_x509_certificates(made)
        assert certificate.public_bytes(serialization.Encoding.PEM) == made
        assert certificate.issuer == certificate.subject


# --------------------------------------------------------------------- what it sends, by operation


@pytest.mark.parametrize("password", [b"admin-pw", b"wrong"])
@pytest.mark.parametrize("right", [True, False], ids=["right", "wrong"])
def test_line_38_the_passphrase_decides_whatever_the_password(
    lab: Lab, name: str, password: bytes, right: bool
) -> None:
    guest = f"{name}x"
    new_user(lab, guest)
    new_key(lab, name)
    inner = {"password": password, "passphrase": opened(name)["passphrase"] if right else b"wrong"}
    expected = Status.OK if right else Status.AUTHENTICATION_FAILED
    for op, fields, more in (
        ("grant-key-access", text(key=name, name=guest), {"new-passphrase": b"x"}),
        ("change-key-expiration", text(key=name, expire_date="2031-01-01"), {}),
    ):
        assert lab[3].request(op, fields, {**inner, **more}).status == expected


def test_line_39_an_administrators_password_is_enough(lab: Lab, name: str) -> None:
    guest, client = f"{name}x", lab[3]
    new_user(lab, guest)
    new_key(lab, name)
    inner = {**PASSWORD, **opened(name), "new-passphrase": b"x"}
    done(client.request("grant-key-access", text(key=name, name=guest), inner))
    users = done(client.request("list-key-users", text(key=name), PASSWORD)).names()
    assert sorted(users) == sorted(["admin", guest])
    done(client.request("get-public-key", text(key=name), PASSWORD))
    done(client.request("revoke-key-access", text(key=name, name=guest), PASSWORD))
    assert done(client.request("list-key-users", text(key=name), PASSWORD)).names() == ["admin"]


def test_line_40_the_passphrase_alone(lab: Lab, name: str, tmp_path: Path) -> None:
    new_key(lab, name, "RSA")
    path = tmp_path / "cert.pem"
    path.write_bytes(certify(lab, name, name, name))
    inner = {**opened(name), "new-passphrase": f"{name}-pw".encode()}
    done(lab[3].request("change-passphrase", text(key=name), inner))
    sign_pe(lab[3], name, name, tmp_path, path)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"name_real": "A Person"},
        {"name_real": "A Person", "name_comment": "comment", "name_email": "a@example.org"},
        {"expire_date": "2031-01-01"},
    ],
)
def test_line_41_fields_of_new_keys(lab: Lab, name: str, fields: dict[str, str]) -> None:
    assert new_key(lab, name, **fields).startswith(b"-----BEGIN PGP PUBLIC KEY")


def test_line_42_bindings_are_left_out_when_empty_else_json(lab: Lab, name: str) -> None:
    guest, client = f"{name}x", lab[3]
    new_user(lab, guest)
    new_key(lab, name)
    request = "grant-key-access", text(key=name, name=guest)
    inner = {**opened(name), "new-passphrase": b"x"}
    # No token is attached: what was said was understood, and there is no such token.
    bound = client.request(
        *request, {**inner, "server-binding": b'[{"method": "pkcs11", "token": "none"}]'}
    )
    assert bound.status == Status.UNKNOWN_ERROR
    done(client.request(*request, inner))


@pytest.mark.parametrize("kind", ["RSA", "ECC"])
def test_line_44_traditional_encrypted_pem_of_openssls(lab: Lab, name: str, kind: str) -> None:
    content = pem(kind)
    assert done(import_key(lab, name, kind, content)).payload == b""
    found = done(lab[3].request("list-keys", inner=PASSWORD)).names()
    assert f"{name} ({kind})" in found
    public = done(lab[3].request("get-public-key", text(key=name), PASSWORD)).payload
    secret = FILE_PASSWORD.decode()
    assert public == openssl("pkey", "-pubout", "-passin", f"pass:{secret}", data=content)


# ------------------------------------------------------------------------------- its own test suite


def test_suite_what_is_wrong_and_what_is_missing(lab: Lab, name: str) -> None:
    client, guest = lab[3], f"{name}x"
    new_user(lab, guest)
    new_key(lab, name, "ECC")
    for op, fields, inner, status in (
        ("list-users", [], {"password": b"wrong"}, Status.AUTHENTICATION_FAILED),
        ("user-info", text(name=f"{name}none"), PASSWORD, Status.USER_NOT_FOUND),
        ("key-user-info", text(name=guest, key=name), PASSWORD, Status.KEY_USER_NOT_FOUND),
        ("delete-key", text(key=f"{name}none"), PASSWORD, Status.KEY_NOT_FOUND),
    ):
        assert client.request(op, fields, inner).status == status, op


def test_suite_changes_show_at_once(lab: Lab, name: str) -> None:
    client = lab[3]
    new_user(lab, name, password=b"first")
    changes = text(name=name, admin=b"\1", new_name=f"{name}x")
    done(client.request("modify-user", changes, {**PASSWORD, "new-password": b"second"}))
    told = done(client.request("user-info", text(name=f"{name}x"), PASSWORD))
    assert told.fields["admin"] == b"\1"
    other = dataclasses.replace(client, user=f"{name}x")
    assert other.request("list-users", inner={"password": b"first"}).status == 3
    done(other.request("list-users", inner={"password": b"second"}))


def test_suite_a_gnupg_key_is_rsa_and_its_expiry_holds_exactly(
    lab: Lab, name: str, tmp_path: Path
) -> None:
    """Alive the day before, dead the day after; `change-key-expiration` moves it."""
    day = date.today() + timedelta(days=100)
    public = new_key(lab, name, expire_date=day.isoformat())
    assert _primary(tmp_path, public) == ("1", day)
    later = day + timedelta(days=50)
    fields = text(key=name, expire_date=later.isoformat())
    done(lab[3].request("change-key-expiration", fields, {**PASSWORD, **opened(name)}))
    changed = done(lab[3].request("get-public-key", text(key=name), PASSWORD)).payload
    assert _primary(tmp_path, changed) == ("1", later)


def _primary(home: Path, public: bytes) -> tuple[str, date]:
    """The algorithm of a public key's primary, and the day on which it ends."""
    shown = subprocess.run(
        ["gpg", "--homedir", str(home), "--show-keys", "--with-colons"],
        input=public, capture_output=True, timeout=PROGRAM_SECONDS, check=True,
    )  # fmt: skip
    (line,) = (row for row in shown.stdout.decode().splitlines() if row.startswith("pub:"))
    columns = line.split(":")
    return columns[3], datetime.fromtimestamp(int(columns[6]), UTC).date()


def test_suite_a_new_rsa_key(lab: Lab, name: str) -> None:
    """Fails with 1.2."""
    key = serialization.load_pem_public_key(new_key(lab, name, "RSA"))
    assert isinstance(key, rsa.RSAPublicKey)
    assert key.key_size >= 2048


@pytest.mark.parametrize(("said", "kind"), [("RSA", "ECC"), ("ECC", "RSA")])
def test_suite_a_file_of_another_type_is_refused(lab: Lab, name: str, said: str, kind: str) -> None:
    """1.2 takes it."""
    assert import_key(lab, name, said, pem(kind)).status == Status.INVALID_IMPORT
    assert not any(
        line.startswith(f"{name} ")
        for line in done(lab[3].request("list-keys", inner=PASSWORD)).names()
    )


def test_suite_a_ca_signs_for_an_imported_key(lab: Lab, name: str) -> None:
    ca = f"{name}ca"
    new_key(lab, ca, "ECC")
    (root,) = x509.load_pem_x509_certificates(certify(lab, ca, ca, "root", certificate_type="ca"))
    done(import_key(lab, name, "RSA", pem("RSA")))
    made = certify(lab, ca, name, "signing", issuer_certificate_name="root")
    certificate = x509.load_pem_x509_certificate(made)
    certificate.verify_directly_issued_by(root)
    assert isinstance(root.public_key(), ec.EllipticCurvePublicKey)
    assert isinstance(certificate.public_key(), rsa.RSAPublicKey)


# ----------------------------------------------------------------------------------- pesign-bridge


def sign_pe(client: Siguldry, key: str, certificate: str, directory: Path, pem_file: Path) -> None:
    """Sign an image as pesign-bridge does: its passphrase is a file's first line."""
    secret = directory / "passphrase"
    secret.write_text(f" \t{key}-pw \nanother line\n")
    passphrase = secret.read_text().splitlines()[0].strip().encode()
    signed = done(
        client.request(
            "sign-pe", text(key=key, cert_name=certificate), {"passphrase": passphrase},
            make_image(Machine.X86_64, b"data" * 100_000),
        )
    )  # fmt: skip
    target = directory / "signed.efi"
    target.write_bytes(signed.payload)
    program("sbverify", "--cert", pem_file, target)


@pytest.fixture
def bare(served: tuple[Site, Process, Process], tmp_path: Path) -> Lab:
    """A running site with one user, and short limits."""
    return (*served, Siguldry.of(served[0], tmp_path / "siguldry"))


def test_pesign_one_request_an_image(bare: Lab, name: str, tmp_path: Path) -> None:
    site, bridge, server, client = lab = bare
    new_key(lab, name, "RSA")
    path = tmp_path / "cert.pem"
    path.write_bytes(certify(lab, name, name, name))
    with storm(site, bridge, server):
        for _ in range(3):
            sign_pe(client, name, name, tmp_path, path)


@pytest.mark.parametrize("where", ["connected", "header", "payload", "handshake", "secrets"])
def test_pesign_drops_a_request_wherever_it_is(bare: Lab, name: str, where: str) -> None:
    """Without any end. All that it held is free again at once, and nothing is left behind."""
    site, bridge, server, client = lab = bare
    new_key(lab, name, "RSA")
    fields, image = text(key=name, cert_name=name), make_image(Machine.X86_64)
    with storm(site, bridge, server):
        for _ in range(6):
            with contextlib.suppress(Failure), client.connected() as exchange:
                if where == "connected":
                    continue
                length = 10_000_000 if where == "payload" else None
                exchange.send_request("sign-pe", fields, image, length)
                if where == "handshake":
                    with contextlib.suppress(Exception):
                        exchange._inner.do_handshake()
                    exchange.flush()
                if where == "secrets":
                    exchange.whisper({"passphrase": b"wrong"})


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """Holds up gpg, as far as a test wants it."""
    made = Gate(tmp_path / "gate")
    yield made
    made.open()


@pytest.fixture
def slow(template: Site, tmp_path: Path, gate: Gate) -> Iterator[Siguldry]:
    """The client of a site with a key `k`, whose server has that gpg."""
    site = Site.copy(template, tmp_path / "site")
    site.start_bridge()
    site.start_server(2, environment=gate.environment)
    client = Siguldry.of(site, tmp_path / "siguldry")
    inner = {**PASSWORD, "passphrase": b"k-pw"}
    done(client.request("new-key", text(key="k", keytype="gnupg"), inner))
    yield client
    gate.open()
    site.stop_all()


@pytest.mark.long("sigul_stack/server", "sigul_stack/signing")
def test_pesign_work_for_one_that_dropped_ends_soon(slow: Siguldry, gate: Gate) -> None:
    """In the middle of a tool's run. It tries again at once."""
    for _ in range(3):
        gate.close("SIGKEY")
        with slow.connected() as exchange:
            exchange.send_request("sign-data", text(key="k", armor=b"\0"), b"data")
            exchange.whisper({"passphrase": b"k-pw"})
            worker = gate.wait()
        wait_until(lambda pid=worker: has_ended(pid), 15, "the end of the abandoned work")


def test_who_ends_its_side_in_order_still_gets_its_reply(slow: Siguldry, gate: Gate) -> None:
    """By a close-notify: it reads on. Takes 5 s: longer than one that has gone is waited for."""
    gate.close("SIGKEY")
    with slow.connected() as exchange:
        exchange.send_request("sign-data", text(key="k", armor=b"\0"), b"data")
        exchange.whisper({"passphrase": b"k-pw"})
        gate.wait()
        exchange.tls.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            exchange.tls.unwrap()
        exchange.tls.settimeout(60)
        time.sleep(5)
        gate.open()
        assert done(exchange.read_reply("sign-data")).payload[:1] == b"\x89"


@pytest.mark.long("sigul_stack/server", "sigul_stack/signing")
def test_pesign_a_series_of_wrong_passphrases_costs_only_itself(
    template: Site, tmp_path: Path
) -> None:
    """Takes 20 s: each attempt that falls into a delay is held back. The log tells of a few."""
    site = Site.copy(template, tmp_path / "site")
    site.secret_delay = 0.4
    site.extra = {"server": {"server": "lenient-username-check: yes\n"}}
    site.configure()
    site.start_bridge()
    try:
        # As daemons log by themselves, without -v.
        server = site.start("server", verbose=False)
        admin = Siguldry.of(site, tmp_path / "siguldry")
        inner = {**PASSWORD, "passphrase": b"k-pw"}
        done(admin.request("new-key", text(key="k", keytype="ECC"), inner))
        done(admin.request("new-user", text(name="robot", admin=b"\0"), PASSWORD))
        grant = {**inner, "new-passphrase": b"robots"}
        done(admin.request("grant-key-access", text(key="k", name="robot"), grant))
        robot = dataclasses.replace(admin, user="robot")
        before = len(server.text.splitlines())
        fields = text(key="k", cert_name="none")
        for attempt in range(60):
            refused = robot.request("sign-pe", fields, {"passphrase": b"wrong"}, b"image")
            assert refused.status == Status.AUTHENTICATION_FAILED
            if attempt % 10 == 0:
                # The same certificate, another user: not locked out, and not held back.
                done(admin.request("get-public-key", text(key="k"), {"passphrase": b"k-pw"}))
        said = server.text.splitlines()[before:]
        # Each request has its few lines, as any; warnings come ever more rarely.
        assert len(said) < 7 * 70
        warned = [line for line in said if " WARNING " in line]
        delays = [line for line in warned if "Wrong secrets came before" in line]
        assert 3 <= len(delays) <= 7, delays
        # The others are of secrets that were looked at; by itself the delay is a minute long.
        assert all("did not open key 'k'" in line for line in warned if line not in delays)
        # Put right, it works once the delay is over.
        right = {"passphrase": b"robots"}

        def works() -> bool:
            return robot.request("get-public-key", text(key="k"), right).status == Status.OK

        wait_until(works, 30, "the end of the delay")
        wait_until(lambda: len(workers(server.popen.pid)) == 4, 20, "as many workers as before")
    finally:
        site.stop_all()
