"""The typed client: each method sends what a 1.2 client sent, and reads what its server answered.

The recorded exchanges (tests/data/exchanges) stand in for the connection; everything else is real.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import pytest

from sigul_stack.client.api import Client, KeyInfo, KeyUserInfo, UserInfo
from sigul_stack.client.core import Reply
from sigul_stack.config.client import ClientSettings
from sigul_stack.config.shared import NSSSettings
from sigul_stack.errors import ProtocolError, RequestRefused, Status
from sigul_stack.keystore.bindings import MethodUse, load_layers
from sigul_stack.protocol import messages
from sigul_stack.protocol.codec import Fields, encode_fields, read_fields
from sigul_stack.protocol.operations import OPERATIONS
from sigul_stack.protocol.versions import LATEST, VERSIONS
from sigul_stack.secret import Secret
from tests.held_data import held
from tests.wire import parse_whole

SETTINGS = ClientSettings(
    bridge_hostname="b", server_hostname="s", nss=NSSSettings(directory="sql:/nowhere")
)
#: Inner fields that belong to every request, not to what is asked.
_OF_EVERY_REQUEST = {
    "header-auth-sha512", "payload-auth-sha512", "header-auth-key", "payload-auth-key",
}  # fmt: skip


class Wire(Client):
    """A client whose requests are kept, and answered with a reply that is given beforehand."""

    def __init__(self, user: str = "root", reply: Reply | RequestRefused | None = None) -> None:
        super().__init__(SETTINGS, user_name=user)
        self.reply = reply or Reply(Fields({}), b"")
        self.header = b""
        self.inner: dict[str, bytes] = {}
        self.payload = b""

    def call(
        self,
        op: str,
        fields: Mapping[str, str | bool] | None = None,
        secrets: Mapping[str, Secret] | None = None,
        *,
        payload: BinaryIO | bytes = b"",
        output: BinaryIO | None = None,
        file_name: str = "",
    ) -> Reply:
        values = {"op": op, "user": self.user_name, **(fields or {})}
        encoded = {name: LATEST.encode_value(value) for name, value in values.items()}
        OPERATIONS[op].check(Fields(encoded))
        self.header = messages.encode_request_header(encoded, LATEST.number)
        self.inner = {name: secret.reveal() for name, secret in (secrets or {}).items()}
        encode_fields(self.inner)  # a secret that no field can hold is an error here
        self.payload = payload if isinstance(payload, bytes) else payload.read()
        if isinstance(self.reply, RequestRefused):
            raise self.reply
        if output is not None:
            output.write(self.reply.payload)
            return Reply(self.reply.fields, b"")
        return self.reply

    @property
    def outer(self) -> dict[str, bytes]:
        return dict(parse_whole(messages.read_request_header(VERSIONS), self.header).fields)


def recorded(name: str) -> tuple[dict[str, bytes], dict[str, bytes], bytes, Reply | RequestRefused]:
    """A recorded exchange: outer fields, inner fields of its own, payload, and the reply."""
    exchange = json.loads(held("exchanges", f"{name}.json").read_text())
    outer, rest = _request(bytes.fromhex(exchange["outer_sent"]))
    inner = dict(parse_whole(read_fields(), bytes.fromhex(exchange["inner_sent"])))
    secrets = {key: value for key, value in inner.items() if key not in _OF_EVERY_REQUEST}
    read = bytes.fromhex(exchange["reply_read"])
    status = exchange["status"]
    if status:
        return outer, secrets, rest, RequestRefused(status)
    fields, end = _fields(read[4:])
    payload = read[4 + end + 64 + 8 : -64]
    return outer, secrets, rest, Reply(fields, payload)


def _fields(data: bytes) -> tuple[Fields, int]:
    """The field map at the beginning of `data`, and its length."""
    for end in range(1, len(data) + 1):
        try:
            return parse_whole(read_fields(), data[:end]), end
        except ProtocolError:
            continue
    raise AssertionError("no field map")


def _request(data: bytes) -> tuple[dict[str, bytes], bytes]:
    fields, end = _fields(data[4:])
    return dict(fields), data[4 + end + 8 :]


PW = Secret("rootroot")
KPW = Secret("kpw")

RECORDED: list[tuple[str, str, Callable[[Client], object], object]] = [
    ("list-users", "root", lambda c: c.list_users(PW), ["root"]),
    ("new-user", "root", lambda c: c.new_user(PW, "alice", new_password=Secret("pw")), None),
    ("user-info", "root", lambda c: c.user_info(PW, "alice"), UserInfo(False)),
    ("key-user-info-none", "root", lambda c: c.key_user_info(PW, "alice", "k1"), None),
    ("list-keys", "root", lambda c: c.list_keys(PW), [KeyInfo("k1", "gnupg")]),
    ("list-key-users", "root", lambda c: c.list_key_users("k1", passphrase=KPW), ["alice", "root"]),
    (
        "grant",
        "root",
        lambda c: c.grant_key_access("k1", "alice", KPW, Secret("alicepw")),
        None,
    ),
    (
        "change-pass",
        "alice",
        lambda c: c.change_passphrase("k1", Secret("alicepw"), Secret("alicepw2")),
        None,
    ),
]


@pytest.mark.parametrize(
    ("name", "user", "method", "result"), RECORDED, ids=[name for name, *_ in RECORDED]
)
def test_a_recorded_exchange(
    name: str, user: str, method: Callable[[Client], object], result: object
) -> None:
    outer, secrets, payload, reply = recorded(name)
    client = Wire(user, reply)
    found = method(client)
    assert client.outer == outer
    assert client.inner == secrets
    assert client.payload == payload
    assert found == result


def test_recorded_new_key_and_signatures() -> None:
    outer, secrets, _, reply = recorded("new-ecc")
    client = Wire("root", reply)
    public = client.new_key(PW, "ecc1", Secret("epw"), key_type="ECC")
    assert (client.outer, client.inner) == (outer, secrets)
    assert public.startswith(b"-----BEGIN PUBLIC KEY-----")
    for name in ("sign-data", "sign-text"):
        outer, secrets, payload, reply = recorded(name)
        client = Wire("root", reply)
        if name == "sign-data":
            signed = client.sign_data("k1", KPW, payload, armor=True)
        else:
            signed = client.sign_text("k1", KPW, payload)
        assert (client.outer, client.inner, client.payload) == (outer, secrets, payload)
        assert signed.startswith(b"-----BEGIN PGP SIG")


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("list-users-bad-password", lambda c: c.list_users(Secret("wrong"))),
        ("new-user-exists", lambda c: c.new_user(PW, "alice")),
        ("user-info-missing", lambda c: c.user_info(PW, "nobody")),
    ],
)
def test_a_recorded_refusal(name: str, method: Callable[[Client], object]) -> None:
    outer, secrets, _, reply = recorded(name)
    client = Wire("root", reply)
    with pytest.raises(RequestRefused) as caught:
        method(client)
    assert caught.value is reply
    assert (client.outer, client.inner) == (outer, secrets)


# ------------------------------------------------------------- what the recordings do not have


def test_fields_that_are_not_given_are_not_sent() -> None:
    client = Wire()
    client.modify_user(PW, "u")
    assert client.outer.keys() == {"op", "user", "name"}
    assert client.inner.keys() == {"password"}
    client.modify_user(PW, "u", admin=False, new_name="v", new_password=Secret("n"))
    assert (client.outer["admin"], client.outer["new-name"]) == (b"\0", b"v")
    assert client.inner["new-password"] == b"n"
    client.modify_key_user(PW, "u", "k", key_admin=True)
    assert client.outer["key-admin"] == b"\1"
    client.modify_key(PW, "k", new_name="l")
    assert client.outer["new-name"] == b"l"
    client.new_key(
        PW, "k", KPW, key_admin="u", name_real="R", name_comment="C", name_email="E",
        expire_date=datetime.date(2030, 1, 31),
    )  # fmt: skip
    assert client.outer == {
        "op": b"new-key", "user": b"root", "key": b"k", "initial-key-admin": b"u",
        "name-real": b"R", "name-comment": b"C", "name-email": b"E",
        "expire-date": b"2030-01-31",
    }  # fmt: skip
    client.change_key_expiration("k", KPW)
    assert client.outer.keys() == {"op", "user", "key"}
    client.change_key_expiration("k", KPW, expire_date=datetime.date(2030, 1, 31), subkey=0)
    assert (client.outer["expire-date"], client.outer["subkey"]) == (b"2030-01-31", b"0")
    client.import_key(PW, "k", b"secret key", KPW, Secret("n"), key_type="RSA")
    assert client.outer == {
        "op": b"import-key", "user": b"root", "key": b"k", "keytype": b"RSA"
    }  # fmt: skip
    assert client.inner == {"password": b"rootroot", "passphrase": b"kpw", "new-passphrase": b"n"}
    assert client.payload == b"secret key"
    client.delete_key(PW, "k")
    client.delete_user(PW, "u")
    client.revoke_key_access("k", "u", password=PW)
    assert client.inner == {"password": b"rootroot"}


def test_replies_that_tell_something() -> None:
    client = Wire(reply=Reply(Fields({"key-admin": b"\1"}), b""))
    assert client.key_user_info(PW, "u", "k") == KeyUserInfo(True)
    client.reply = Reply(Fields({"num-methods": b"\0\0\0\2"}), b"test\0pkcs11\0")
    assert client.list_server_binding_methods(PW) == ["test", "pkcs11"]
    client.reply = Reply(Fields({"num-keys": b"\0\0\0\3"}), b"a (ECC)\0b (x) (RSA)\0old\0")
    assert [str(key) for key in client.list_keys(PW)] == ["a (ECC)", "b (x) (RSA)", "old (gnupg)"]
    client.reply = Reply(Fields({}), b"public")
    assert client.get_public_key("k", password=PW) == b"public"
    client.reply = RequestRefused(Status.KEY_NOT_FOUND)
    with pytest.raises(RequestRefused):
        client.key_user_info(PW, "u", "k")


def test_bindings_go_as_layers() -> None:
    client = Wire()
    client.grant_key_access(
        "k", "u", KPW, Secret("n"), server_binding=["test|pkcs11,token=a", "test"],
        client_binding=["keyring"],
    )  # fmt: skip
    layers = load_layers(client.inner["server-binding"].decode())
    assert layers == (
        (MethodUse("test", {}), MethodUse("pkcs11", {"token": "a"})),
        (MethodUse("test", {}),),
    )
    assert load_layers(client.inner["client-binding"].decode()) == ((MethodUse("keyring", {}),),)


def test_one_of_two_rights() -> None:
    client = Wire()
    both: dict[str, Any] = {"passphrase": KPW, "password": PW}
    for wrong in ({}, both):
        with pytest.raises(ValueError, match="one of the two"):
            client.get_public_key("k", **wrong)


def test_an_import_has_a_limit() -> None:
    client = Wire()
    client.import_key(PW, "k", bytes(1 << 20), KPW, KPW)
    with pytest.raises(ProtocolError, match="1048576 bytes"):
        client.import_key(PW, "k", bytes((1 << 20) + 1), KPW, KPW)
