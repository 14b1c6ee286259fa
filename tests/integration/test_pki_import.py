"""`sigul-stack pki import` of what other CAs make: taken whole, or refused with cause and cure."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat

from sigul_stack.checks import any_failed
from sigul_stack.errors import NSSError
from sigul_stack.pki import DatabaseKind, NSSDatabase, Role, inspect_database, read_password
from tests.other_ca import CLIENT, SERVER, OtherCA, ec_key, pem_of, rsa_key
from tests.snapshots import tree

from .test_pki_nss import BRIDGE, openssl, pki

Words = list[str | Path]

#: NSS gets the same for all of these: its own form of a key.
READ_BY_US = pytest.mark.once("the form is read by cryptography, which is the same in each Debian")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> OtherCA:
    made = OtherCA.make(tmp_path_factory.mktemp("other"))
    made.leaf("bridge", common=BRIDGE, names=[BRIDGE, "bridge"])
    made.leaf("server", common="server", names=["server"])
    made.leaf("client", common="alice", usages=(CLIENT,))
    return made


def words_of(other: OtherCA, name: str, into: Path, ca: str = "root") -> Words:
    """The command line of an import of a leaf, for the role of its name."""
    role = name.partition("-")[0]
    return [
        *("import", "--into", into, "--nickname", f"sigul-{role}-cert"),
        *("--cert", other.path(f"{name}.pem"), "--key", other.path(f"{name}.key")),
        *("--ca", other.path(f"{ca}.pem")),
    ]


def opened(directory: Path) -> NSSDatabase:
    return NSSDatabase(directory, read_password(directory / "nss-password"))


def refused(words: Words, *said: str) -> None:
    """The import fails with these words, and changes nothing."""
    into = Path(words[2])
    before = tree(into) if into.exists() else None
    with pytest.raises(NSSError) as raised:
        pki(*words)
    assert raised.value.cure
    for text in said:
        assert text in str(raised.value)
    if before is None:
        assert NSSDatabase(into).recognise() is DatabaseKind.MISSING
    else:
        assert tree(into) == before


# --------------------------------------------------------------------------------- what is taken


@pytest.mark.parametrize("role", list(Role))
def test_each_role_gets_what_it_needs(other: OtherCA, tmp_path: Path, role: Role) -> None:
    into = tmp_path / "nss"
    names = {"bridge": [BRIDGE, "bridge"], "server": ["server"], "client": ["alice"]}[role.value]
    asked = [word for name in names for word in ("--name", name)]
    assert pki(*words_of(other, role.value, into), *asked) == 0
    trust = {item.common_name: item.trust for item in opened(into).certificates()}
    assert trust["Other Root"] == "CT,,"
    assert trust["Other Sub"] == ",,"
    assert not any_failed(inspect_database(opened(into), role, names=names))


@pytest.mark.once("what our program asks for")
def test_a_role_is_said_where_the_nickname_does_not_tell(other: OtherCA, tmp_path: Path) -> None:
    words = words_of(other, "client", tmp_path / "nss")
    words[words.index("sigul-client-cert")] = "Alice's certificate"
    refused([*words, "--role", "bridge"], "is not meant for a bridge", "TLS server")
    with pytest.raises(Exception, match="give --role"):
        pki(*words, "--name", "alice")
    assert pki(*words, "--role", "client", "--name", "alice") == 0
    assert opened(tmp_path / "nss").find("Alice's certificate").common_name == "alice"
    words = [word for word in words if word not in ("--nickname", "Alice's certificate")]
    words[2] = tmp_path / "other"
    with pytest.raises(Exception, match="say with --role whose it is"):
        pki(*words)
    assert pki(*words, "--role", "client") == 0
    assert opened(tmp_path / "other").find("sigul-client-cert").common_name == "alice"


KEYS = {
    "traditional": ["rsa", "-traditional"],
    "traditional, AES": ["rsa", "-traditional", "-aes128", "-passout", "pass:pw"],
    "traditional, 3DES": ["rsa", "-traditional", "-des3", "-passout", "pass:pw"],
    "PKCS#8, AES": ["pkcs8", "-topk8", "-v2", "aes256", "-passout", "pass:pw"],
    "PKCS#8, 3DES": ["pkcs8", "-topk8", "-v2", "des3", "-passout", "pass:pw"],
    "PKCS#8, scrypt": ["pkcs8", "-topk8", "-scrypt", "-passout", "pass:pw"],
}


@pytest.mark.parametrize("form", KEYS)
def test_keys_in_every_form(other: OtherCA, tmp_path: Path, form: str) -> None:
    key, secret = tmp_path / "key", tmp_path / "pw"
    secret.write_text("pw")
    openssl(*KEYS[form], "-in", str(other.path("client.key")), "-out", str(key))
    words = words_of(other, "client", tmp_path / "nss")
    words[words.index(other.path("client.key"))] = key
    if "," in form:
        refused(words, "is encrypted", "--key-password-file")
        (tmp_path / "empty").write_text("")
        refused([*words, "--key-password-file", tmp_path / "empty"], "is encrypted")
        (tmp_path / "wrong").write_text("wrong")
        refused([*words, "--key-password-file", tmp_path / "wrong"], "its password is another")
        words += ["--key-password-file", secret]
    assert pki(*words) == 0
    assert pki("check", tmp_path / "nss", "--role", "client", "--name", "alice") == 0


@pytest.mark.parametrize(
    "kind",
    [
        PrivateFormat.PKCS8,
        pytest.param(PrivateFormat.TraditionalOpenSSL, marks=READ_BY_US),
    ],
)
@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_ec_keys(
    other: OtherCA, tmp_path: Path, curve: ec.EllipticCurve, kind: PrivateFormat
) -> None:
    key = ec.generate_private_key(curve)
    other.leaf("client-ec", common="carol", usages=(), key=key)
    # As `openssl ecparam -genkey` writes it, and in one file with the certificates.
    parameters = openssl("ecparam", "-name", {256: "prime256v1"}.get(key.key_size, curve.name))
    both = tmp_path / "both.pem"
    both.write_bytes(
        other.path("client-ec.pem").read_bytes() + parameters.encode() + pem_of(key, kind)
    )
    into = tmp_path / "nss"
    words = ["--cert", both, "--key", both, "--ca", other.path("root.pem")]
    assert pki("import", "--into", into, "--nickname", "sigul-client-cert", *words) == 0
    assert opened(into).find("sigul-client-cert").has_private_key
    assert opened(into).export_key("sigul-client-cert").private_numbers() == key.private_numbers()


PKCS12: dict[str, Sequence[str]] = {
    "AES": (),
    "3DES and RC2": ("-legacy",),
    "RC2 of 128 bits": (
        "-legacy", "-certpbe", "PBE-SHA1-RC2-128", "-keypbe", "PBE-SHA1-RC2-128",
    ),
    "SHA-512": ("-macalg", "sha512"),
    "not encrypted": ("-keypbe", "NONE", "-certpbe", "NONE", "-nomac"),
}  # fmt: skip


@pytest.mark.parametrize(
    "password", ["pw", *(pytest.param(one, marks=READ_BY_US) for one in ("", "ünïcode"))]
)
@pytest.mark.parametrize("form", PKCS12)
def test_pkcs12_of_every_kind(other: OtherCA, tmp_path: Path, form: str, password: str) -> None:
    bundle, into, secret = tmp_path / "b.p12", tmp_path / "nss", tmp_path / "pw"
    openssl(
        *("pkcs12", "-export", *PKCS12[form], "-out", str(bundle), "-passout", f"pass:{password}"),
        *("-in", str(other.path("client.pem")), "-inkey", str(other.path("client.key"))),
        *("-certfile", str(other.path("root.pem")), "-name", "ALICE"),
    )
    secret.write_text(password)
    words: Words = ["import", "--into", into, "--nickname", "sigul-client-cert", "--pkcs12", bundle]
    if form != "not encrypted":
        (tmp_path / "wrong").write_text("wrong")
        refused([*words, "--pkcs12-password-file", tmp_path / "wrong"], "its password is another")
    if password and form != "not encrypted":
        refused(words, "its password is another")
    # An empty password is given as one, or not at all.
    given = ["--pkcs12-password-file", secret]
    assert pki(*words, *(given if password or form == "AES" else [])) == 0
    trust = {item.nickname: item.trust for item in opened(into).certificates()}
    assert set(trust.values()) == {"u,u,u", "CT,,", ",,"}
    assert trust["sigul-client-cert"] == "u,u,u"
    assert pki("check", into, "--role", "client", "--name", "alice") == 0


# ------------------------------------------------------------------------------ again, and anew


def test_again_without_doubles(other: OtherCA, tmp_path: Path) -> None:
    """The same, a renewed one with the same key, one with a new key, one of another CA."""
    into = tmp_path / "nss"
    words = words_of(other, "client", into)
    assert pki(*words) == 0
    refused(words, "is taken", "--replace")
    _, key = other.leaf("client-2", common="alice", usages=(CLIENT,), days=(-1, 80))
    other.leaf("client-3", common="alice", usages=(CLIENT,), key=key)
    new = OtherCA.make(tmp_path / "new", "New")
    new.leaf("client-4", common="alice", usages=(CLIENT,), key=ec_key())
    for source, name in (
        (other, "client"),
        (other, "client-2"),
        (other, "client-3"),
        (new, "client-4"),
        (other, "client"),
    ):
        assert pki(*words_of(source, name, into), "--replace") == 0
        wanted = x509.load_pem_x509_certificate(source.path(f"{name}.pem").read_bytes())
        held = opened(into).certificates()
        (found,) = [item for item in held if item.has_private_key]
        assert (found.nickname, found.certificate) == ("sigul-client-cert", wanted)
        assert opened(into).other_key_ids() == []
        assert len({item.certificate for item in held}) == len(held)
        listed = subprocess.run(
            ["certutil", "-L", "-d", f"sql:{into}"], capture_output=True, check=True, timeout=60
        ).stdout.decode()
        assert listed.count("sigul-client-cert") == 1
    # Both CAs are there meanwhile, as in a rollover; the old one goes when it is told to.
    trusted = {item.common_name for item in opened(into).certificates() if "C" in item.trust}
    assert trusted == {"Other Root", "New Root"}


def test_several_authorities_for_a_rollover(other: OtherCA, tmp_path: Path) -> None:
    new = OtherCA.make(tmp_path / "new", "New")
    both = tmp_path / "both.pem"
    both.write_bytes(other.path("root.pem").read_bytes() + new.path("root.pem").read_bytes())
    into = tmp_path / "nss"
    words = words_of(other, "bridge", into)
    words[words.index(other.path("root.pem"))] = both
    assert pki(*words) == 0
    trust = {item.common_name: item.trust for item in opened(into).certificates()}
    assert (trust["Other Root"], trust["New Root"]) == ("CT,,", "CT,,")
    assert pki("check", into, "--role", "bridge", "--name", BRIDGE) == 0


# ------------------------------------------------------------------------------- what is refused


@pytest.mark.once("how our program reads chains")
def test_a_chain_that_does_not_end_in_the_ca(other: OtherCA, tmp_path: Path) -> None:
    into = tmp_path / "nss"
    stranger = OtherCA.make(tmp_path / "stranger", "Stranger")
    words = words_of(other, "client", into)
    words[words.index(other.path("root.pem"))] = stranger.path("root.pem")
    refused(words, "ends with 'Other Sub', whose issuer ('Other Root') is not in the database")
    whole = tmp_path / "whole.pem"
    whole.write_bytes(other.path("client.pem").read_bytes() + other.path("root.pem").read_bytes())
    words[words.index(other.path("client.pem"))] = whole
    refused(words, "ends in 'Other Root', which is none of the CAs that are trusted", "Stranger")
    # Of the same name, but another key.
    namesake = OtherCA.make(tmp_path / "namesake")
    words = words_of(other, "client", into)
    words[words.index(other.path("root.pem"))] = namesake.path("root.pem")
    refused(words, "ends with 'Other Sub'")
    # The intermediate CA is missing.
    alone = tmp_path / "alone.pem"
    first = x509.load_pem_x509_certificate(other.path("client.pem").read_bytes())
    alone.write_bytes(first.public_bytes(Encoding.PEM))
    words = words_of(other, "client", into)
    words[words.index(other.path("client.pem"))] = alone
    refused(words, "CA that issued 'alice' (CN=Other Sub) is not in the database", "--ca")
    assert pki(*words, other.path("sub.pem")) == 0


@pytest.mark.parametrize(
    ("days", "said"),
    [((-90, -1), "expired on"), ((1, 90), "is not yet valid")],
)
def test_dates(other: OtherCA, tmp_path: Path, days: tuple[int, int], said: str) -> None:
    other.leaf("client-dates", common="alice", usages=(CLIENT,), days=days)
    refused(words_of(other, "client-dates", tmp_path / "nss"), "'sigul-client-cert'", said)


def test_a_ca_that_has_expired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    late = OtherCA.make(tmp_path / "late", "Late", sub_days=-1)
    late.leaf("client", common="alice", usages=(CLIENT,))
    refused(words_of(late, "client", tmp_path / "nss"), "expired on", "renewed certificate")
    # One that is only to be trusted is taken, with a word.
    capsys.readouterr()
    assert pki("import", "--into", tmp_path / "nss", "--ca", late.path("sub.pem")) == 0
    assert "the CA 'Late Sub' expired on" in capsys.readouterr().err


def test_what_ends_soon_is_told(
    other: OtherCA, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other.leaf("bridge-soon", common=BRIDGE, days=(-1, 10))
    assert pki(*words_of(other, "bridge-soon", tmp_path / "nss")) == 0
    told = capsys.readouterr().err
    assert "in 9 days" in told
    assert "has its host name in the CN only" in told


@pytest.mark.parametrize(
    ("role", "usages", "said"),
    [
        ("bridge", (CLIENT,), "its extended key usage lacks TLS server"),
        ("client", (SERVER,), "its extended key usage lacks TLS client"),
        ("server", (SERVER,), "its extended key usage lacks TLS client"),
        ("server", (CLIENT,), "its extended key usage lacks TLS server"),
    ],
)
def test_usage(
    other: OtherCA,
    tmp_path: Path,
    role: str,
    usages: tuple[x509.ObjectIdentifier, ...],
    said: str,
) -> None:
    other.leaf(f"{role}-usage", common="x.example.org", names=["x.example.org"], usages=usages)
    refused(words_of(other, f"{role}-usage", tmp_path / "nss"), f"not meant for a {role}", said)


def test_what_nss_refuses_is_told_in_its_words(other: OtherCA, tmp_path: Path) -> None:
    """A TLS server's RSA key that may not encipher: OpenSSL takes it, NSS's peers do not."""
    other.leaf("bridge-signs", common=BRIDGE, names=[BRIDGE], encipherment=False)
    refused(
        words_of(other, "bridge-signs", tmp_path / "nss"),
        *("NSS does not take 'sigul-bridge-cert' for a TLS server's certificate", "key usage"),
        "keyEncipherment",
    )
    # With an EC key none is needed.
    other.leaf("bridge-ec", common=BRIDGE, names=[BRIDGE], encipherment=False, key=ec_key())
    assert pki(*words_of(other, "bridge-ec", tmp_path / "nss"), "--name", BRIDGE) == 0


def test_names(other: OtherCA, tmp_path: Path) -> None:
    words = words_of(other, "bridge", tmp_path / "nss")
    refused(
        [*words, "--name", BRIDGE, "--name", "sigul.example.org"],
        *("does not name sigul.example.org", f"it names: {BRIDGE}, bridge", "alternative names"),
    )
    words = words_of(other, "client", tmp_path / "nss")
    refused([*words, "--name", "bob"], "is for the user 'alice', not 'bob'")


def test_a_refused_replacement_leaves_the_old_one(other: OtherCA, tmp_path: Path) -> None:
    assert pki(*words_of(other, "bridge", tmp_path / "nss")) == 0
    other.leaf("bridge-old", common=BRIDGE, names=[BRIDGE], days=(-9, -1))
    refused([*words_of(other, "bridge-old", tmp_path / "nss"), "--replace"], "expired")
    assert pki("check", tmp_path / "nss", "--role", "bridge", "--name", BRIDGE) == 0


def test_files_that_are_something_else(other: OtherCA, tmp_path: Path) -> None:
    into = tmp_path / "nss"
    words: Words = ["import", "--into", into, "--nickname", "sigul-client-cert"]
    refused([*words, "--pkcs12", other.path("client.pem")], "is PEM", "--cert and --key")
    der = tmp_path / "der"
    openssl("x509", "-in", str(other.path("client.pem")), "-outform", "DER", "-out", str(der))
    key = ["--key", other.path("client.key")]
    refused([*words, "--cert", der, *key], "no certificate that can be read", "-inform DER")
    openssl("pkey", "-in", str(other.path("client.key")), "-outform", "DER", "-out", str(der))
    refused([*words, "--cert", other.path("client.pem"), "--key", der], "no private key in PEM")
    refused([*words, "--pkcs12", der], "no PKCS#12 file")
    odd = tmp_path / "odd.key"
    openssl("genpkey", "-algorithm", "ed25519", "-out", str(odd))
    refused([*words, "--cert", other.path("client.pem"), "--key", odd], "neither an RSA nor an EC")
    openssl("ecparam", "-name", "secp256k1", "-genkey", "-noout", "-out", str(odd))
    refused([*words, "--cert", other.path("client.pem"), "--key", odd], "secp256k1", "P-256")
    odd.write_bytes(pem_of(rsa_key()))
    refused([*words, "--cert", other.path("client.pem"), "--key", odd], "belongs to none")
    empty = tmp_path / "empty.p12"
    openssl(
        *("pkcs12", "-export", "-nokeys", "-in", str(other.path("root.pem"))),
        *("-out", str(empty), "-passout", "pass:"),
    )
    refused([*words, "--pkcs12", empty], "certificate together with its private key")
