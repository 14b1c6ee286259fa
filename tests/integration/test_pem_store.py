"""ECC and RSA keys as files, checked with openssl, and the key store over both kinds of keys."""

from __future__ import annotations

import datetime
import logging
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)

from sigul_stack.database import Key, KeyType
from sigul_stack.errors import (
    ConfigurationError,
    KeystoreError,
    RequestRefused,
    Status,
    WrongPassphrase,
)
from sigul_stack.keystore import pem
from sigul_stack.keystore.bindings import CannotUnbind, enabled_methods, parse_layer
from sigul_stack.keystore.gnupg import UserId
from sigul_stack.keystore.pem import CURVES, PemSettings, PemStore
from sigul_stack.keystore.store import KeyStore, new_access, open_access
from sigul_stack.secret import Secret
from sigul_stack.system import files
from tests.held_data import held

from .gnupg_support import LEGACY_KEY, gnupg_home, legacy_home, legacy_passphrase, outside_home

# The keys are what is tested here.
pytestmark = pytest.mark.usefixtures("made_keys")

PASSPHRASE = Secret("nKRGmQ9C_Vds-apcVaS6ioMsNNha-OypuKkhvZHOzt4Ek0qF0K6MAakUCcxjoaKc")
FILE_PASSPHRASE = Secret("file passphrase")
ALL_TYPES = frozenset({KeyType.ECC, KeyType.RSA})
IMA, CODESIGN = (
    "f6597b0096217da182ac23243ca4c79778c380dd",
    "b805eb5b0243e0df10c7dc5f51f12460bd0d90f1",
)


@pytest.fixture
def store(tmp_path: Path) -> PemStore:
    store = PemStore(tmp_path / "keys")
    store.prepare()
    return store


def openssl(*arguments: str | Path, data: bytes = b"") -> bytes:
    return subprocess.run(
        ["openssl", *arguments], input=data, stdout=subprocess.PIPE, timeout=60, check=True
    ).stdout


def names(store: PemStore) -> list[str]:
    return sorted(path.name for path in store.path.iterdir())


# --- Making keys -------------------------------------------------------------------------------


@pytest.mark.parametrize("keytype", [KeyType.ECC, KeyType.RSA])
def test_a_new_key_as_openssl_sees_it(store: PemStore, keytype: KeyType) -> None:
    fingerprint = store.generate(keytype, PASSPHRASE)
    assert names(store) == [f"{fingerprint}.pem", f"{fingerprint}.public.pem"]
    private, public = (store.path / name for name in names(store))
    assert private.stat().st_mode & 0o777 == 0o600
    assert private.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    opened = openssl("pkey", "-in", private, "-passin", f"pass:{PASSPHRASE.reveal().decode()}",
                     "-pubout")  # fmt: skip
    assert opened == public.read_bytes() == store.public(fingerprint)
    der = openssl("pkey", "-pubin", "-in", public, "-outform", "DER")
    assert openssl("dgst", "-sha1", "-r", data=der).split()[0].decode() == fingerprint
    key = store.load(fingerprint, PASSPHRASE)
    assert key.key_size == (256 if keytype is KeyType.ECC else 2048)
    with pytest.raises(WrongPassphrase):
        store.load(fingerprint, Secret("wrong"))
    assert store.fingerprints() == {fingerprint}


@pytest.mark.parametrize("curve", CURVES)
def test_every_curve(tmp_path: Path, curve: str) -> None:
    store = PemStore(tmp_path, settings=PemSettings(curve=curve))
    key = store.load(store.generate(KeyType.ECC, PASSPHRASE), PASSPHRASE)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.curve.name.upper() == curve


def test_another_size(tmp_path: Path) -> None:
    store = PemStore(tmp_path, settings=PemSettings(rsa_key_size=3072))
    assert store.load(store.generate(KeyType.RSA, PASSPHRASE), PASSPHRASE).key_size == 3072


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="ecc-default-curve"):
        PemStore(tmp_path, settings=PemSettings(curve="P256")).generate(KeyType.ECC, PASSPHRASE)
    with pytest.raises(ConfigurationError, match="rsa-key-size"):
        PemStore(tmp_path, settings=PemSettings(rsa_key_size=512)).generate(KeyType.RSA, PASSPHRASE)


@pytest.mark.parametrize(
    ("allowed", "wanted"),
    [(ALL_TYPES, KeyType.GNUPG), (frozenset({KeyType.ECC}), KeyType.RSA),
     (frozenset(KeyType), KeyType.GNUPG), (frozenset(), KeyType.ECC)],
)  # fmt: skip
def test_types_that_may_not_be_made(
    tmp_path: Path, allowed: frozenset[KeyType], wanted: KeyType
) -> None:
    store = PemStore(tmp_path, settings=PemSettings(allowed_key_types=allowed))
    attempts: list[Callable[[], object]] = [
        lambda: store.generate(wanted, PASSPHRASE),
        lambda: store.import_secret(wanted, b"", PASSPHRASE, PASSPHRASE),
    ]
    for attempt in attempts:
        with pytest.raises(RequestRefused) as raised:
            attempt()
        assert raised.value.status == Status.UNSUPPORTED_KEYTYPE
    assert names(store) == []


# --- Importing keys ----------------------------------------------------------------------------

ECC_KEY = ec.generate_private_key(ec.SECP384R1())
RSA_KEY = rsa.generate_private_key(65537, 2048)
KEYS: dict[KeyType, pem.PrivateKey] = {KeyType.ECC: ECC_KEY, KeyType.RSA: RSA_KEY}
LOCKED = BestAvailableEncryption(FILE_PASSPHRASE.reveal())
OPEN = NoEncryption()
PEM, DER = Encoding.PEM, Encoding.DER
PKCS8, TRADITIONAL = PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL


@pytest.mark.parametrize("keytype", [KeyType.ECC, KeyType.RSA])
@pytest.mark.parametrize(
    ("encoding", "form", "encryption"),
    [(PEM, PKCS8, LOCKED), (DER, PKCS8, LOCKED), (PEM, TRADITIONAL, LOCKED), (PEM, PKCS8, OPEN),
     (DER, PKCS8, OPEN), (PEM, TRADITIONAL, OPEN), (DER, TRADITIONAL, OPEN)],
)  # fmt: skip
def test_an_imported_key_gets_its_own_passphrase(
    store: PemStore,
    keytype: KeyType,
    encoding: Encoding,
    form: PrivateFormat,
    encryption: KeySerializationEncryption,
) -> None:
    original = KEYS[keytype]
    data = original.private_bytes(encoding, form, encryption)
    fingerprint = store.import_secret(keytype, data, FILE_PASSPHRASE, PASSPHRASE)
    public = original.public_key()
    assert store.load(fingerprint, PASSPHRASE).public_key() == public
    assert load_pem_public_key(store.public(fingerprint)) == public
    with pytest.raises(RequestRefused) as raised:
        store.import_secret(keytype, data, FILE_PASSPHRASE, Secret("another"))
    assert raised.value.status == Status.ALREADY_EXISTS
    assert store.load(fingerprint, PASSPHRASE).public_key() == public


@pytest.mark.parametrize("encoding", [PEM, DER])
@pytest.mark.parametrize("given", ["wrong", "", "x" * 2000])
def test_a_wrong_passphrase_of_the_file(store: PemStore, encoding: Encoding, given: str) -> None:
    data = ECC_KEY.private_bytes(encoding, PKCS8, LOCKED)
    with pytest.raises(RequestRefused) as raised:
        store.import_secret(KeyType.ECC, data, Secret(given), PASSPHRASE)
    assert raised.value.status == Status.IMPORT_PASSPHRASE_ERROR
    assert names(store) == []


GOOD_PEM = ECC_KEY.private_bytes(PEM, PKCS8, LOCKED)


@pytest.mark.parametrize(
    ("keytype", "data"),
    [
        (KeyType.RSA, GOOD_PEM), (KeyType.ECC, RSA_KEY.private_bytes(PEM, PKCS8, LOCKED)),
        (KeyType.ECC, b""), (KeyType.ECC, b"garbage"), (KeyType.ECC, b"\x30\x80" * 100),
        (KeyType.ECC, GOOD_PEM[:100]), (KeyType.ECC, GOOD_PEM[:100] + GOOD_PEM[110:]),
        (KeyType.ECC, ECC_KEY.private_bytes(DER, PKCS8, LOCKED)[:-9]),
        (KeyType.ECC, GOOD_PEM * 2),
        (KeyType.ECC, ECC_KEY.public_key().public_bytes(PEM, PublicFormat.SubjectPublicKeyInfo)),
        (KeyType.ECC, ed25519.Ed25519PrivateKey.generate().private_bytes(PEM, PKCS8, LOCKED)),
        (KeyType.RSA, dsa.generate_private_key(2048).private_bytes(PEM, PKCS8, LOCKED)),
        (KeyType.ECC, b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nAAAA\n"),
    ],
    # Not after the data: the keys in it are others at each start.
    ids=lambda value: value.value if isinstance(value, KeyType) else "data",
)  # fmt: skip
def test_what_is_no_key_of_that_type(store: PemStore, keytype: KeyType, data: bytes) -> None:
    with pytest.raises(RequestRefused) as raised:
        store.import_secret(keytype, data, FILE_PASSPHRASE, PASSPHRASE)
    assert raised.value.status == Status.INVALID_IMPORT
    assert names(store) == []


def test_of_imports_of_one_key_at_once_one_succeeds(store: PemStore) -> None:
    def attempt(number: int) -> object:
        try:
            return store.import_secret(
                KeyType.ECC, GOOD_PEM, FILE_PASSPHRASE, Secret(f"passphrase {number}")
            )
        except RequestRefused as error:
            return error.status

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(attempt, range(8)))
    assert found.count(Status.ALREADY_EXISTS) == 7
    (winner,) = (number for number, status in enumerate(found) if isinstance(status, str))
    (fingerprint,) = store.fingerprints()
    store.load(fingerprint, Secret(f"passphrase {winner}"))
    assert names(store) == [f"{fingerprint}.pem", f"{fingerprint}.public.pem"]


# --- Certificates and deleting -----------------------------------------------------------------


def test_certificates_belong_to_a_key_and_go_with_it(store: PemStore) -> None:
    one, two = (store.generate(KeyType.ECC, PASSPHRASE) for _ in range(2))
    store.add_certificate(one, "root", b"certificate")
    store.add_certificate(two, "root", b"another")
    assert store.certificate(one, "root") == b"certificate"
    assert store.certificates(one) == store.certificates(two) == {"root"}
    with pytest.raises(RequestRefused) as raised:
        store.add_certificate(one, "root", b"new")
    assert raised.value.status == Status.ALREADY_EXISTS
    assert store.certificate(one, "root") == b"certificate"
    store.delete(one)
    assert names(store) == sorted(
        f"{two}.{kind}" for kind in ("pem", "public.pem", "cert.root.pem")
    )
    assert store.certificates(one) == frozenset()


def test_all_certificates_are_in_the_order_of_their_making(store: PemStore) -> None:
    fingerprint = store.generate(KeyType.ECC, PASSPHRASE)
    made = ["zz", "b", "aa", "c"]
    for name in made:
        store.add_certificate(fingerprint, name, name.encode())
        time.sleep(0.02)  # the clock of files goes in steps
    assert store.all_certificates() == [name.encode() for name in made]


@pytest.mark.parametrize("name", ["", "a.b", "../x", "a/b", "a b", "a\n", "ä", "x1"])
def test_names_of_certificates_are_letters(store: PemStore, name: str) -> None:
    with pytest.raises(KeystoreError, match="letters only"):
        store.add_certificate(IMA, name, b"certificate")
    assert names(store) == []


@pytest.mark.parametrize("fingerprint", ["", "..", "*", IMA.upper(), IMA + "\n", IMA[:-1]])
def test_what_is_no_fingerprint(store: PemStore, fingerprint: str) -> None:
    attempts: list[Callable[[], object]] = [
        lambda: store.delete(fingerprint),
        lambda: store.public(fingerprint),
        lambda: store.load(fingerprint, PASSPHRASE),
        lambda: store.certificates(fingerprint),
        lambda: store.certificate(fingerprint, "root"),
    ]
    for attempt in attempts:
        with pytest.raises(KeystoreError, match="is no fingerprint"):
            attempt()


def test_a_key_that_is_not_there(store: PemStore, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(KeystoreError, match="No such file"):
        store.load(IMA, PASSPHRASE)
    with pytest.raises(KeystoreError, match="No such file"):
        store.public(IMA)
    with caplog.at_level(logging.WARNING):
        store.delete(IMA)
    assert IMA in caplog.text


# --- Killed and failing ------------------------------------------------------------------------


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_failure_leaves_nothing(
    store: PemStore, monkeypatch: pytest.MonkeyPatch, attempt: int
) -> None:
    calls = []

    def fail(path: Path, content: bytes, *, replace: bool, mode: int = 0o600) -> None:
        calls.append(path)
        if len(calls) == attempt:
            raise OSError(28, "No space left on device")
        files.write_whole(path, content, replace=replace, mode=mode)

    monkeypatch.setattr(pem, "write_whole", fail)
    with pytest.raises(KeystoreError, match="No space left"):
        store.generate(KeyType.ECC, PASSPHRASE)
    assert names(store) == []


#: Imports the key in the file it is given, and is killed at the n-th file that is put in place.
KILLED = """
import os, signal, sys
from pathlib import Path
from sigul_stack.database import KeyType
from sigul_stack.keystore.pem import PemStore
from sigul_stack.secret import Secret
link, calls = os.link, []
def die(*arguments, **more):
    calls.append(arguments)
    if len(calls) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return link(*arguments, **more)
os.link = die
PemStore(Path(sys.argv[1])).import_secret(
    KeyType.ECC, Path(sys.argv[2]).read_bytes(), Secret("file passphrase"), Secret("passphrase"))
"""


@pytest.mark.parametrize("when", [1, 2])
def test_a_kill_leaves_no_key_and_nothing_in_the_way(
    store: PemStore, tmp_path: Path, when: int
) -> None:
    (tmp_path / "file").write_bytes(GOOD_PEM)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, store.path, tmp_path / "file", str(when)], timeout=60
    )
    assert killed.returncode == -signal.SIGKILL
    assert store.fingerprints() == frozenset()
    store.prepare()
    fingerprint = store.import_secret(KeyType.ECC, GOOD_PEM, FILE_PASSPHRASE, PASSPHRASE)
    assert names(store) == [f"{fingerprint}.pem", f"{fingerprint}.public.pem"]
    store.delete(fingerprint)
    assert names(store) == []


def test_certificates_do_not_come_back_after_a_kill_in_a_deletion(store: PemStore) -> None:
    fingerprint = store.import_secret(KeyType.ECC, GOOD_PEM, FILE_PASSPHRASE, PASSPHRASE)
    store.add_certificate(fingerprint, "root", b"certificate")
    (store.path / f"{fingerprint}.pem").unlink()  # as far as the deletion came
    assert store.fingerprints() == frozenset()
    store.import_secret(KeyType.ECC, GOOD_PEM, FILE_PASSPHRASE, PASSPHRASE)
    assert names(store) == [f"{fingerprint}.pem", f"{fingerprint}.public.pem"]


def test_a_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(KeystoreError, match="check the disk"):
        PemStore(tmp_path / "file").prepare()


# --- An existing site --------------------------------------------------------------------------


@pytest.fixture
def legacy(tmp_path: Path) -> PemStore:
    (tmp_path / "legacy").mkdir()
    for file in held("legacy-site", "keys").iterdir():
        shutil.copyfile(file, tmp_path / "legacy" / file.name)
    return PemStore(tmp_path / "legacy")


def test_the_keys_of_an_existing_site(legacy: PemStore) -> None:
    assert legacy.fingerprints() == {IMA, CODESIGN}
    ima = legacy.load(IMA, legacy_passphrase("ima", "ima-pw"))
    codesign = legacy.load(CODESIGN, legacy_passphrase("codesign", "codesign-pw"))
    assert isinstance(ima, ec.EllipticCurvePrivateKey)
    assert isinstance(codesign, rsa.RSAPrivateKey)
    for fingerprint, key in ((IMA, ima), (CODESIGN, codesign)):
        assert pem._fingerprint(key.public_key()) == fingerprint
        assert load_pem_public_key(legacy.public(fingerprint)) == key.public_key()
    expected = held("legacy-site", "expected", "ima.out").read_bytes()
    assert legacy.public(IMA) in expected
    assert legacy.certificates(CODESIGN) == {"root"}
    certificate = held("legacy-site", "expected", "codesign-root.out").read_bytes()
    assert legacy.certificate(CODESIGN, "root").strip() in certificate
    legacy.delete(CODESIGN)
    assert names(legacy) == [f"{IMA}.pem", f"{IMA}.public.pem"]


# --- The key store over both -------------------------------------------------------------------


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[KeyStore]:
    with gnupg_home(tmp_path / "gnupg") as home:
        store = KeyStore(home, PemStore(tmp_path / "keys"))
        store.prepare()
        yield store


def test_keys_of_all_types_live_side_by_side(keys: KeyStore, tmp_path: Path) -> None:
    made = [
        Key(keytype.lower(), keytype, keys.make(keytype, PASSPHRASE, UserId("x")).fingerprint)
        for keytype in KeyType
        if keytype != KeyType.PKCS11  # made by tokens alone
    ]
    assert keys.fingerprints() == {key.fingerprint for key in made}
    assert keys.check_consistency(made) == []
    assert [keys.public(key).splitlines()[0] for key in made] == [
        b"-----BEGIN PGP PUBLIC KEY BLOCK-----", b"-----BEGIN PUBLIC KEY-----",
        b"-----BEGIN PUBLIC KEY-----",
    ]  # fmt: skip
    keys.expire(made[0], PASSPHRASE, datetime.date(2099, 1, 1))
    with pytest.raises(RequestRefused) as raised:
        keys.expire(made[1], PASSPHRASE, None)
    assert raised.value.status == Status.UNSUPPORTED_KEYTYPE
    keys.delete(made[0].fingerprint)
    keys.delete(made[1].fingerprint)
    assert keys.fingerprints() == {made[2].fingerprint}
    for key in made:
        keys.delete(key.fingerprint)
    assert keys.fingerprints() == frozenset()


def test_imports_go_where_they_belong(keys: KeyStore, tmp_path: Path) -> None:
    with outside_home(tmp_path / "person") as person:
        fingerprint = person.make_key("imported")
        data = person.export_secret(fingerprint)
    new = keys.import_(KeyType.GNUPG, data, Secret(""), PASSPHRASE)
    assert new.fingerprint == fingerprint
    assert new.public == keys.public(Key("imported", KeyType.GNUPG, fingerprint))
    ecc = keys.import_(KeyType.ECC, GOOD_PEM, FILE_PASSPHRASE, PASSPHRASE)
    assert keys.pem.fingerprints() == {ecc.fingerprint}
    with pytest.raises(RequestRefused) as raised:
        keys.import_(KeyType.GNUPG, GOOD_PEM, FILE_PASSPHRASE, PASSPHRASE)
    assert raised.value.status == Status.INVALID_IMPORT


def test_differences_from_the_database_are_found(keys: KeyStore) -> None:
    """Fault 21: keys without a row, and rows without a key, are told."""
    stray_gnupg = keys.make(KeyType.GNUPG, PASSPHRASE, UserId("stray")).fingerprint
    stray_ecc = keys.make(KeyType.ECC, PASSPHRASE, UserId("")).fingerprint
    rows = [Key("release", KeyType.GNUPG, LEGACY_KEY), Key("ima", KeyType.ECC, IMA)]
    findings = keys.check_consistency(rows)
    assert [(finding.fingerprint, finding.name) for finding in findings] == [
        (LEGACY_KEY, "release"), (IMA, "ima"), (stray_gnupg, None), (stray_ecc, None),
    ]  # fmt: skip
    assert "restore it from a backup" in findings[0].text
    assert str(keys.pem.path) in findings[3].text


def test_an_existing_site_is_consistent(tmp_path: Path, legacy: PemStore) -> None:
    rows = [
        Key("release", KeyType.GNUPG, LEGACY_KEY), Key("ima", KeyType.ECC, IMA),
        Key("codesign", KeyType.RSA, CODESIGN),
    ]  # fmt: skip
    with legacy_home(tmp_path / "gnupg") as home:
        assert KeyStore(home, legacy).check_consistency(rows) == []


# --- The chain of passphrases ------------------------------------------------------------------


def test_the_chain_of_passphrases() -> None:
    user, registry = Secret("user's"), enabled_methods(["test"])
    layers = [parse_layer("test,may_unbind=1")]
    access = new_access(PASSPHRASE, user, layers, registry)
    assert open_access(access, user, registry) == PASSPHRASE
    with pytest.raises(CannotUnbind):
        open_access(access, user, enabled_methods([]))
    assert open_access(new_access(PASSPHRASE, user, [], registry), user, registry) == PASSPHRASE


def test_no_access_and_a_wrong_passphrase_are_told_apart_by_nothing() -> None:
    registry = enabled_methods([])
    texts = []
    for access in (None, new_access(PASSPHRASE, Secret("user's"), [], registry)):
        with pytest.raises(WrongPassphrase) as raised:
            open_access(access, Secret("wrong"), registry)
        texts.append(str(raised.value))
    assert texts[0] == texts[1]
