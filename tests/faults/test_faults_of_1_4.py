"""Faults of Sigul 1.2 to 1.4 that a server and bridge in their place must not have.

Each is a test of what an old client, written from the page, gets on the wire.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sigul_stack.errors import Status
from sigul_stack.keystore.envelope import seal
from sigul_stack.secret import Secret
from tests.faults.conftest import KEY, KEY_PASSPHRASE, PeerFactory
from tests.site import Process, Site

pytestmark = pytest.mark.once("our own framing, options and directories")

ADMIN = b"admin-pw"
PASSPHRASE = {"passphrase": KEY_PASSPHRASE.encode()}
MAKE = {"password": ADMIN, "passphrase": b"new-pw"}
IMPORT = {"password": ADMIN, "passphrase": b"file-pw", "new-passphrase": b"new-pw"}

Served = tuple[Site, Process, Process]


@pytest.fixture(scope="module")
def large(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A running site with `rsa-key-size`."""
    site = Site.copy(template, tmp_path_factory.mktemp("large") / "site")
    site.extra = {"server": {"keys": "rsa-key-size: 3072\n"}}
    site.configure()
    with site.running():
        yield site


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"file-pw"),
    )


def test_rsa_key_size_is_a_number(large: Site, peer: PeerFactory) -> None:
    client = peer(large, "client")
    told = client.run(op="new-key", fields={"key": b"r", "keytype": b"RSA"}, secrets=MAKE)
    assert (told["status"], told["ended"]) == (Status.OK, True)
    public = serialization.load_pem_public_key(told["payload"])
    assert isinstance(public, rsa.RSAPublicKey)
    assert public.key_size == 3072
    assert client.run(secrets={"password": ADMIN})["status"] == Status.OK


def test_keys_storage_that_is_not_there(large: Site, peer: PeerFactory) -> None:
    client = peer(large, "client")
    make = {"op": "new-key", "fields": {"key": b"e", "keytype": b"ECC"}, "secrets": MAKE}
    assert client.run(**make)["status"] == Status.OK
    shutil.move(large.path("server/keys"), large.path("server/away"))
    try:
        for request in (
            {**make, "fields": {"key": b"e2", "keytype": b"ECC"}},
            {"op": "import-key", "fields": {"key": b"e3", "keytype": b"RSA"}, "secrets": IMPORT,
             "payload": pem(rsa.generate_private_key(65537, 2048))},
            {"op": "get-public-key", "fields": {"key": b"e"}, "secrets": {"password": ADMIN}},
        ):  # fmt: skip
            told = client.run(**request)
            assert told["status"] != Status.OK
            assert told["ended"]
        listed = client.run(op="list-keys", secrets={"password": ADMIN})
        assert b"e (ECC)" in listed["payload"]
        assert b"e2" not in listed["payload"]
        assert b"e3" not in listed["payload"]
    finally:
        shutil.rmtree(large.path("server/keys"), ignore_errors=True)
        shutil.move(large.path("server/away"), large.path("server/keys"))
    told = client.run(op="get-public-key", fields={"key": b"e"}, secrets={"password": ADMIN})
    assert told["status"] == Status.OK


@pytest.mark.parametrize("said", [b"RSA", b"ECC", b"gnupg"])
def test_a_file_is_of_the_type_that_the_request_says(
    large: Site, peer: PeerFactory, said: bytes
) -> None:
    made = {
        b"RSA": ec.generate_private_key(ec.SECP256R1()),
        b"ECC": rsa.generate_private_key(65537, 2048),
        b"gnupg": ec.generate_private_key(ec.SECP256R1()),
    }[said]
    before = sorted(path.name for path in large.path("server/keys").iterdir())
    told = peer(large, "client").run(
        op="import-key", fields={"key": b"wrong", "keytype": said}, secrets=IMPORT,
        payload=pem(made),
    )  # fmt: skip
    assert (told["status"], told["ended"]) == (Status.INVALID_IMPORT, True)
    assert sorted(path.name for path in large.path("server/keys").iterdir()) == before


@pytest.mark.parametrize("importing", [b"\0", None])
def test_an_error_without_return_data_has_all_bytes_of_its_length(
    served: Served, peer: PeerFactory, importing: bytes | None
) -> None:
    site, _bridge, _server = served
    fields = {"key": KEY.encode(), "return-data": b"\0"}
    if importing is not None:
        fields["import-signature"] = importing
    told = peer(site, "client").run(
        op="sign-rpm", fields=fields, secrets=PASSPHRASE, payload=b"no RPM"
    )
    assert told["status"] == Status.CORRUPT_RPM
    assert (told["payload"], told["ended"]) == (b"", True)


def test_a_failed_decrypt_is_one_whole_reply(served: Served, peer: PeerFactory) -> None:
    site, _bridge, _server = served
    for_nobody = seal(Secret("text"), Secret("another passphrase"))
    client = peer(site, "client")
    for payload in (b"", b"no message", for_nobody):
        told = client.run(
            op="decrypt", fields={"key": KEY.encode()}, secrets=PASSPHRASE, payload=payload
        )
        assert told["status"] == Status.DECRYPT_FAILED
        assert (told["payload"], told["ended"]) == (b"", True)
