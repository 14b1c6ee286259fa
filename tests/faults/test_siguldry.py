"""siguldry's client against our bridge and server: TLS, the request, the inner session, the reply.

One test for each behaviour that it takes for granted; the client is `tests.siguldry`, which fails
as siguldry's does. Its numbers are those of the page of facts that it is written from.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from sigul_stack.errors import Status
from sigul_stack.pki import Authority, LeafRequest, NSSDatabase, Role
from sigul_stack.pki.password_files import read_password
from tests.faults.conftest import KEY, KEY_PASSPHRASE, PeerFactory
from tests.faults.observe import storm
from tests.faults.scripted import Peer
from tests.siguldry import (
    MIB,
    Failure,
    SignatureInvalid,
    Siguldry,
    StreamFailed,
    TooShort,
    Unreachable,
    export,
)
from tests.site import Process, Site, wait_until
from tests.wire import u32

pytestmark = pytest.mark.once("our own framing and order of messages")

ADMIN = {"password": b"admin-pw"}
PASSPHRASE = {"passphrase": KEY_PASSPHRASE.encode()}
OF_KEY = [("key", KEY.encode())]
USERS = {"fields": {"num-users": u32(1)}, "payload": b"admin\0"}
TEXT = b"some text\n" * 300_000

Served = tuple[Site, Process, Process]


@pytest.fixture
def siguldry(served: Served, tmp_path: Path) -> Siguldry:
    """The client of a running site's administrator."""
    return Siguldry.of(served[0], tmp_path / "siguldry")


@pytest.fixture
def scripted(with_limits: Site, tmp_path: Path, peer: PeerFactory) -> tuple[Siguldry, Peer]:
    """A client of our bridge, whose server is a scripted one that follows no script yet."""
    with_limits.start_bridge()
    return Siguldry.of(with_limits, tmp_path / "siguldry"), peer(with_limits, "server")


def answer(scripted: tuple[Siguldry, Peer], **script: object) -> bytes:
    """What the client gets of a `list-users` that the scripted server answers so."""
    client, server = scripted
    server.start(**{**USERS, **script})
    server.wait_for("waiting")
    return client.request("list-users", inner=ADMIN).payload


# --------------------------------------------------------------------------------- TLS and identity


def test_line_01_tls_1_2_exactly_on_both_layers(siguldry: Siguldry) -> None:
    found = siguldry.request("list-users", inner=ADMIN)
    assert found.names() == ["admin"]
    assert (found.outer_tls[0], found.inner_tls[0]) == ("TLSv1.2", "TLSv1.2")


@pytest.mark.parametrize("component", ["bridge", "server"])
def test_line_01_tls_1_3_alone_cannot_be_reached(
    template: Site, tmp_path: Path, component: str
) -> None:
    site = Site.copy(template, tmp_path / "site")
    dialling = "nss-max-tls: tls1.3\n"
    site.extra = {name: {"nss": dialling} for name in ("bridge", "server", "client")}
    site.extra[component]["nss"] += "nss-min-tls: tls1.3\n"
    site.configure()
    with site.running():
        assert site.sigul("list-users", secrets=["admin-pw"]).stdout == b"admin\n"
        with pytest.raises(StreamFailed if component == "bridge" else Failure):
            Siguldry.of(site, tmp_path / "siguldry").request("list-users", inner=ADMIN)


@pytest.mark.parametrize("passphrase", [None, b"pass phrase", b"a line and its end\n"])
def test_line_02_pem_files(served: Served, tmp_path: Path, passphrase: bytes | None) -> None:
    site, _bridge, _server = served
    client = Siguldry.of(site, tmp_path / "siguldry")
    client.identity = export(site, tmp_path / "pem", passphrase=passphrase)
    assert client.identity.certificate.read_text().count("BEGIN CERTIFICATE") == 1
    # As in a rollover: other CAs stand beside the one.
    authorities = client.identity.authorities
    authorities.write_bytes(_self_signed() + authorities.read_bytes())
    assert client.request("list-users", inner=ADMIN).names() == ["admin"]


def _self_signed() -> bytes:
    """Another CA's certificate."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "another CA")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(True, None), critical=True)
    )
    return made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


@pytest.mark.parametrize("layer", ["bridge_hostname", "server_hostname"])
def test_line_03_the_peers_name_is_checked_on_both_layers(siguldry: Siguldry, layer: str) -> None:
    wrong = dataclasses.replace(siguldry, **{layer: "other.example.org"})
    with pytest.raises(StreamFailed, match=r"other\.example\.org"):
        wrong.request("list-users", inner=ADMIN)
    assert siguldry.request("list-users", inner=ADMIN).status == Status.OK


def test_line_03_an_ip_address_is_checked_by_its_ip_san(template: Site, tmp_path: Path) -> None:
    site = Site.copy(template, tmp_path / "site")
    for role in (Role.BRIDGE, Role.SERVER):
        name = site.bridge_name if role is Role.BRIDGE else site.server_name
        ca = site.path("pki/ca")
        place = site.path(f"pki/{role.value}")
        leaf = Authority.open(ca, read_password(ca / "nss-password")).issue(
            LeafRequest(role, name, (name, "127.0.0.1"))
        )
        NSSDatabase(place, read_password(place / "nss-password")).replace_leaf(leaf, role.nickname)
    with site.running():
        client = Siguldry.of(site, tmp_path / "siguldry")
        client.bridge_hostname = client.server_hostname = "127.0.0.1"
        assert client.request("list-users", inner=ADMIN).names() == ["admin"]
        client.server_hostname = "127.0.0.2"
        with pytest.raises(StreamFailed, match="IP address mismatch"):
            client.request("list-users", inner=ADMIN)


def test_line_04_openssls_defaults_hold_for_keys_and_digests(siguldry: Siguldry) -> None:
    """No security level is lowered here, and nothing that the kit issues needs it."""
    for path in (siguldry.identity.certificate, siguldry.identity.authorities):
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        key = certificate.public_key()
        assert isinstance(key, rsa.RSAPublicKey)
        assert key.key_size >= 2048
        assert isinstance(certificate.signature_hash_algorithm, hashes.SHA256)
    found = siguldry.request("list-users", inner=ADMIN)
    assert found.outer_tls[1].startswith("ECDHE-")


def test_line_05_ipv6_where_the_name_has_it(template: Site, tmp_path: Path) -> None:
    """SNI goes with it, of both layers' names."""
    site = Site.copy(template, tmp_path / "site")
    site.listen_address = "::1"
    site.addresses = dict.fromkeys(site.addresses, "::1")
    site.configure()
    with site.running():
        client = Siguldry.of(site, tmp_path / "siguldry", connect_to="::1")
        assert client.request("list-users", inner=ADMIN).names() == ["admin"]


def test_line_06_one_connection_a_request(served: Served, siguldry: Siguldry) -> None:
    with storm(*served):
        for _ in range(6):
            assert siguldry.request("list-users", inner=ADMIN).names() == ["admin"]


# ------------------------------------------------------------------------------------- the request


@pytest.mark.parametrize("pause", [0.0, 0.3], ids=["at once", "in pieces"])
def test_line_07_the_parts_of_its_first_chunk_come_in_records_of_their_own(
    siguldry: Siguldry, pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = ssl.SSLSocket.sendall

    def slowly(tls: ssl.SSLSocket, data: bytes) -> None:
        send(tls, data)
        time.sleep(pause)

    monkeypatch.setattr(ssl.SSLSocket, "sendall", slowly)
    assert siguldry.request("list-users", inner=ADMIN).names() == ["admin"]


@pytest.mark.parametrize("size", [0, 1, MIB, MIB + 1, 3 * MIB])
def test_line_08_payload_chunks_of_1_mib_or_none(siguldry: Siguldry, size: int) -> None:
    found = siguldry.request("sign-data", [*OF_KEY, ("armor", b"\0")], PASSPHRASE, b"x" * size)
    assert (found.status, found.payload[:1]) == (0, b"\x89")
    chunks = [length for kind, length in siguldry.sent if kind == "outer"][1:]
    assert chunks == [MIB] * (size // MIB) + ([size % MIB] if size % MIB else [])


def test_line_09_it_ends_nothing(served: Served, siguldry: Siguldry) -> None:
    """No outer end, no close-notify: the bridge waits for none of them, and all is in order."""
    site, bridge, server = served
    with storm(site, bridge, server):
        before = bridge.text.count("forward_two_way loop completed normally")
        for _ in range(3):
            siguldry.request("list-users", inner=ADMIN)
        bridge.wait_for("forward_two_way loop completed normally", before + 3)
    assert "did not close within" not in bridge.text


def test_line_10_fields_in_its_order_and_types(siguldry: Siguldry) -> None:
    user = [("name", b"line10")]
    made = siguldry.request("new-user", [*user, ("admin", b"\0")], ADMIN)
    assert (made.status, made.payload) == (0, b"")
    # `op` and `user` first, a boolean of one byte, optional ones left out.
    changed = siguldry.request("modify-user", [*user, ("admin", b"\1")], ADMIN)
    assert changed.status == Status.OK
    assert siguldry.request("user-info", user, ADMIN).fields["admin"] == b"\1"
    assert siguldry.request("delete-user", user, ADMIN).status == Status.OK


def test_line_11_hash_of_nothing_and_inner_fields_in_any_order(siguldry: Siguldry) -> None:
    for _ in range(8):
        assert siguldry.request("list-users", inner=ADMIN).names() == ["admin"]


def test_line_12_the_inner_handshake_waits_for_nothing(served: Served, tmp_path: Path) -> None:
    """It is on its way before the bridge has even found a server."""
    client = Siguldry.of(served[0], tmp_path / "siguldry")
    with client.connected() as exchange:
        exchange.tls.setblocking(True)
        exchange.send_request("sign-text", OF_KEY, TEXT)
        with contextlib.suppress(ssl.SSLWantReadError):
            exchange._inner.do_handshake()
        exchange.flush()
        exchange.whisper(PASSPHRASE)
        assert exchange.read_reply("sign-text").payload.startswith(b"-----BEGIN PGP SIGNED")


# ------------------------------------------------------------------------------- the inner session

#: What our bridge refuses by itself, with what it tells a client that listens.
REFUSED: list[tuple[dict[str, object], str]] = [
    ({"op": "sign-everything"}, "operation 'sign-everything' is unknown"),
    ({"op": "list-users", "fields": {"odd": b"1"}}, "has no field 'odd'"),
    ({"op": "sign-data", "fields": {"key": b"k1", "armor": b"\2"}}, "'armor' is not a boolean"),
    ({"op": "sign-text", "fields": {"key": b"k1"}, "length": 2**41}, "over the limit of"),
    ({"op": "sign-rpm", "fields": {"key": b"k1", "koji-instance": b"none"}}, "none"),
]


@pytest.mark.parametrize(("request_", "told"), REFUSED)
def test_line_13_and_19_a_bridge_that_refuses_just_ends_the_stream(
    served: Served, siguldry: Siguldry, peer: PeerFactory, request_: dict[str, object], told: str
) -> None:
    """As one that has no server. A client that listens is told why."""
    site, bridge, server = served
    op, length = str(request_["op"]), request_.get("length")
    fields = list(request_.get("fields", {}).items())  # type: ignore[attr-defined]
    with storm(site, bridge, server):
        with siguldry.connected() as exchange, pytest.raises(Unreachable):
            exchange.send_request(op, fields, b"", length)  # type: ignore[arg-type]
            exchange.whisper(PASSPHRASE)
        ours = peer(site, "client")
        ours.start(hear=True, stop="request", **request_)
        assert told in ours.result()["bridge"]


def test_line_13_while_its_payload_is_on_its_way(served: Served, tmp_path: Path) -> None:
    site, bridge, server = served
    client = Siguldry.of(site, tmp_path / "siguldry")
    with (
        storm(site, bridge, server),
        client.connected() as exchange,
        pytest.raises((Unreachable, StreamFailed)),
    ):
        exchange.send_request("sign-text", [("none", b"")], bytes(4 * MIB))
        exchange.whisper(PASSPHRASE)


@pytest.mark.parametrize("who", ["siguldry", "ours"])
def test_line_19_no_server_is_there(template: Site, tmp_path: Path, who: str) -> None:
    site = Site.copy(template, tmp_path / "site")
    site.extra = {"bridge": {"bridge": "server-wait-timeout: 1\n"}}
    site.configure()
    site.start_bridge()
    try:
        if who == "siguldry":
            with pytest.raises(Unreachable):
                Siguldry.of(site, tmp_path / "siguldry").request("list-users", inner=ADMIN)
        else:
            told = site.sigul("list-users", secrets=["admin-pw"], code=75).stderr
            assert b"the bridge says: no signing server became free in time" in told
    finally:
        site.stop_all()


def test_line_19_too_many_connections(template: Site, tmp_path: Path) -> None:
    """Refused before the bridge has read anything, and among many others of the same name."""
    site = Site.copy(template, tmp_path / "site")
    site.extra = {"bridge": {"bridge": "max-connections-per-user: 2\n"}}
    site.configure()
    with site.running() as (bridge, _server), contextlib.ExitStack() as held:
        client = Siguldry.of(site, tmp_path / "siguldry")
        for _ in range(2):
            held.enter_context(client.connected())
        wait_until(lambda: len(bridge.text) > 0, 5, "the bridge's log")
        for _ in range(8):
            with pytest.raises(Unreachable):
                client.request("list-users", inner=ADMIN)
        told = site.sigul("list-users", secrets=["admin-pw"], code=75).stderr
        assert b"has 2 connections here" in told
    with site.running():
        assert client.request("list-users", inner=ADMIN).names() == ["admin"]


def test_line_13_a_server_that_refuses_a_payloads_length(template: Site, tmp_path: Path) -> None:
    """It says so without proof, as bridges do: only a client that listens hears of it."""
    site = Site.copy(template, tmp_path / "site")
    site.extra = {"server": {"server": "max-file-payload-size: 1000\n"}}
    site.configure()
    with site.running() as (_bridge, server):
        client = Siguldry.of(site, tmp_path / "siguldry")
        with pytest.raises(Unreachable):
            client.request("sign-text", OF_KEY, PASSPHRASE, bytes(5000))
        server.wait_for("over the limit")
        path = site.path("text")
        path.write_bytes(bytes(5000))
        told = site.sigul("sign-text", KEY, str(path), secrets=["x"], code=1).stderr
        assert b"the bridge says: " in told
        assert b"max-file-payload-size" in told


@pytest.mark.parametrize("ends", ["never", "late"])
def test_line_15_a_server_that_does_not_end_its_session_in_order(
    scripted: tuple[Siguldry, Peer], ends: str
) -> None:
    """No close-notify before the inner end. The bridge ends the stream, and the client is told."""
    with pytest.raises(StreamFailed, match="the inner session"):
        answer(scripted, finish=ends)


def test_line_14_and_15_the_server_says_nothing_and_ends_in_order(siguldry: Siguldry) -> None:
    """A close-notify, then the inner end in a record of its own: `whisper` fails otherwise."""
    with siguldry.connected() as exchange:
        exchange.send_request("list-users", [], b"")
        exchange.whisper(ADMIN)
        assert exchange.read_reply("list-users").names() == ["admin"]


def test_line_16_its_inner_end_never_comes(served: Served, siguldry: Siguldry) -> None:
    site, bridge, server = served
    with storm(site, bridge, server):
        for op in ("list-users", "list-keys"):
            assert siguldry.request(op, inner=ADMIN).status == Status.OK
    assert ("inner", 0) not in siguldry.sent


@pytest.mark.parametrize("record", [1, 3, 7, 1000])
def test_line_17_and_18_heads_stay_whole_though_the_server_splits_them(
    scripted: tuple[Siguldry, Peer], record: int
) -> None:
    assert answer(scripted, record=record) == b"admin\0"


# --------------------------------------------------------------------------------------- the reply


@pytest.mark.parametrize(
    "cuts", [(1,) * 200, (84, 8, 6, 64), (83, 1, 7, 1, 5, 1, 63), (162,), (85, 77)]
)
def test_line_20_23_25_and_27_each_part_in_a_chunk_of_its_own(
    scripted: tuple[Siguldry, Peer], cuts: tuple[int, ...]
) -> None:
    """The bridge cuts anew whatever a server sends."""
    assert answer(scripted, cuts=cuts) == b"admin\0"


def test_line_21_no_chunk_is_longer_than_its_content(siguldry: Siguldry) -> None:
    """A length that is never reached would be waited for."""
    found = siguldry.request("sign-text", OF_KEY, PASSPHRASE, TEXT)
    assert sum(found.cuts) == len(found.payload)


@pytest.mark.parametrize("part", ["header", "payload"])
def test_line_22_and_27_a_wrong_code_is_noticed(scripted: tuple[Siguldry, Peer], part: str) -> None:
    with pytest.raises(SignatureInvalid, match=part):
        answer(scripted, forge=part)


@pytest.mark.parametrize("chunk", [4096, MIB, MIB + 1, 3 * MIB])
def test_line_24_no_payload_chunk_of_more_than_1_mib(
    scripted: tuple[Siguldry, Peer], chunk: int
) -> None:
    """Whatever the server's are."""
    payload = b"a" * 1000
    found = answer(scripted, payload=payload, zeros=3 * MIB, chunk=chunk)
    assert found == payload + bytes(3 * MIB)


def test_line_24_our_own_chunks(siguldry: Siguldry) -> None:
    found = siguldry.request("sign-text", OF_KEY, PASSPHRASE, TEXT)
    assert len(found.payload) > 2 * MIB
    assert max(found.cuts) <= 256 * 1024


@pytest.mark.parametrize("how", ["abort", "notify", "reset"])
@pytest.mark.parametrize("kept", [1000, 100_000, 700_000])
def test_line_26_a_server_that_ends_inside_its_payload(
    scripted: tuple[Siguldry, Peer], how: str, kept: int
) -> None:
    """The stream ends between two chunks, and without a close-notify: that is an error."""
    with pytest.raises(StreamFailed):
        answer(scripted, zeros=MIB, cut=3000 + kept, how=how)


def test_line_28_the_outer_end_comes_though_the_server_has_none(
    scripted: tuple[Siguldry, Peer],
) -> None:
    assert answer(scripted, outer_end=False) == b"admin\0"


@pytest.mark.parametrize(
    ("op", "fields", "inner", "status"),
    [
        ("list-users", [], {"password": b"wrong"}, Status.AUTHENTICATION_FAILED),
        ("user-info", [("name", b"nobody")], ADMIN, Status.USER_NOT_FOUND),
        ("sign-data", OF_KEY, {"passphrase": b"wrong"}, Status.AUTHENTICATION_FAILED),
        ("delete-key", [("key", b"none")], ADMIN, Status.KEY_NOT_FOUND),
        ("list-users", [], {}, Status.AUTHENTICATION_FAILED),
    ],
)
def test_line_29_errors_have_the_same_full_shape(
    siguldry: Siguldry, op: str, fields: list[tuple[str, bytes]], inner: dict[str, bytes],
    status: Status,
) -> None:  # fmt: skip
    found = siguldry.request(op, fields, inner)
    assert (found.status, found.payload) in [(status, b""), (Status.UNKNOWN_ERROR, b"")]


def test_line_30_a_server_that_does_not_know_the_version(
    scripted: tuple[Siguldry, Peer],
) -> None:
    """`u32 1` alone: it is never seen as that, but fails."""
    with pytest.raises((TooShort, StreamFailed)):
        answer(scripted, speaks=(0,))


def test_line_30_a_bridge_that_does_not_speak_the_version(template: Site, tmp_path: Path) -> None:
    site = Site.copy(template, tmp_path / "site")
    site.extra = {"bridge": {"bridge": "protocol-versions: 0\n"}}
    site.configure()
    site.start_bridge()
    try:
        # It does not listen to what a bridge says by itself, and so is told nothing.
        with pytest.raises(Unreachable):
            Siguldry.of(site, tmp_path / "siguldry").request("list-users", inner=ADMIN)
    finally:
        site.stop_all()


@pytest.mark.parametrize("status", [*range(2, 17), 17, 2**32 - 1])
def test_line_31_every_status_arrives(scripted: tuple[Siguldry, Peer], status: int) -> None:
    client, server = scripted
    server.start(status=status, fields={"message": b"never shown"})
    server.wait_for("waiting")
    found = client.request("list-users", inner=ADMIN)
    assert (found.status, found.payload) == (status, b"")


# ------------------------------------------------------------------------ through bridges of others


@pytest.mark.parametrize("both_ends", [False, True], ids=["server's end", "both ends"])
def test_our_server_through_an_old_bridge(
    site: Site, tmp_path: Path, peer: PeerFactory, both_ends: bool
) -> None:
    """One that waits for the client's inner end, too, waits in vain."""
    bridge = peer(site, "bridge")
    bridge.start(requests=1, both_ends=both_ends)
    bridge.wait_for("listening")
    site.start("server")
    client = Siguldry.of(site, tmp_path / "siguldry", limit=3.0 if both_ends else 60.0)
    if both_ends:
        with pytest.raises(StreamFailed, match="timed out"):
            client.request("list-users", inner=ADMIN)
    else:
        assert client.request("list-users", inner=ADMIN).names() == ["admin"]
    site.stop_all()
