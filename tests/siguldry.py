"""A client with the habits of siguldry's for protocol 1, on OpenSSL, for tests.

It takes for granted what its page of facts says of it, and fails in the same way where that does
not hold: each `Failure` below is one. It is written from that page, with Python's ssl alone, and
reads and writes the chunk layer by itself. One call of `request` is one connection.
"""

from __future__ import annotations

import contextlib
import random
import secrets
import socket
import ssl
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from sigul_stack.pki import NSSDatabase, read_password
from tests.site import Site
from tests.wire import field_map, hmac512, sha512, u32, u64

#: Seconds that any step may take: a limit against hanging.
STEP_SECONDS = 60.0
#: The largest chunk that it writes, and that it can read of a payload, in bytes.
MIB = 1024**2
#: What a read may ask for so that it gets one TLS record, in bytes.
RECORD = 32 * 1024
#: Operations whose reply must not have a payload.
WITHOUT_PAYLOAD = frozenset(
    {
        "new-user", "user-info", "modify-user", "delete-user", "key-user-info", "modify-key-user",
        "import-key", "delete-key", "modify-key", "grant-key-access", "revoke-key-access",
        "change-key-expiration", "change-passphrase",
    }
)  # fmt: skip
_COUNTED = {"num-users", "num-keys", "num-methods"}


class Failure(Exception):
    """The client fails: an error of its own, a panic, or worse."""


class ProtocolViolation(Failure):
    """An outer chunk came before the server's inner end."""


class Unreachable(Failure):
    """The stream ended before the server's inner end: "server might not be reachable"."""


class Panic(Failure):
    """The program ends at what it took for impossible."""


class SignatureInvalid(Failure):
    """A code of the reply is wrong."""


class TooShort(Failure):
    """The reply's header has less than 64 bytes."""


class Spins(Failure):
    """The program loops for ever at full load."""


class WrongLengths(Failure):
    """A chunk's head came in two pieces: the reader has lost count."""


class StreamFailed(Failure):
    """An I/O error, in place of whatever was to come."""


@dataclass
class Reply:
    """A whole reply with right codes, and what was seen on the way."""

    status: int
    fields: dict[str, bytes]
    payload: bytes
    #: The length of each payload chunk.
    cuts: list[int]
    #: The name in the server's certificate, and the versions and suites of both sessions.
    server: str
    outer_tls: tuple[str, str]
    inner_tls: tuple[str, str]

    @property
    def message(self) -> str:
        """It is never shown by siguldry; tests look at it."""
        return self.fields.get("message", b"").decode()

    def names(self) -> list[str]:
        """The names of a list, which are as many as its field says, of four bytes."""
        (count,) = (self.fields[name] for name in self.fields if name in _COUNTED)
        if len(count) != 4:
            raise Failure(f"the count has {len(count)} bytes")
        found = [name.decode("utf-8") for name in self.payload.split(b"\0") if name]
        if len(found) != int.from_bytes(count, "big"):
            raise Failure(f"{len(found)} names, not {int.from_bytes(count, 'big')}")
        return found


@dataclass
class Identity:
    """Its PEM files: a certificate, a key and the file with its passphrase, and the CAs."""

    certificate: Path
    key: Path
    authorities: Path
    passphrase_file: Path | None = None


def export(
    site: Site, directory: Path, who: str = "clients/admin", passphrase: bytes | None = None
) -> Identity:
    """Somebody's PEM files, in `directory`; with a `passphrase` the key is encrypted."""
    database = NSSDatabase(
        site.path("pki") / who, read_password(site.path(f"pki/{who}/nss-password"))
    )
    nickname = "sigul-client-cert"
    (named,) = [item for item in database.certificates() if item.nickname == nickname]
    directory.mkdir(exist_ok=True)
    found = Identity(directory / "cert.pem", directory / "key.pem", directory / "ca.pem")
    found.certificate.write_bytes(named.certificate.public_bytes(serialization.Encoding.PEM))
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        encryption = serialization.BestAvailableEncryption(passphrase)
        found.passphrase_file = directory / "key-passphrase"
        found.passphrase_file.write_bytes(passphrase)
    found.key.write_bytes(
        database.export_key(nickname).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )
    )
    found.authorities.write_bytes(site.path("pki/ca/ca.pem").read_bytes())
    return found


@dataclass
class Siguldry:
    """The client of one user. `connect_to` is where the bridge's name leads."""

    identity: Identity
    bridge_hostname: str
    bridge_port: int
    server_hostname: str
    user: str = "admin"
    connect_to: str = "127.0.0.1"
    #: Seconds that a whole request may take, after which the connection is dropped (pesign-bridge).
    limit: float = STEP_SECONDS
    #: Of each request: what was sent, as ("outer", bytes) or ("inner", bytes).
    sent: list[tuple[str, int]] = field(default_factory=list)

    @classmethod
    def of(cls, site: Site, directory: Path, **further: object) -> Siguldry:
        """The administrator's client of a site; its files are put into `directory`."""
        identity = export(site, directory)
        return cls(
            identity,
            site.bridge_name,
            site.client_port,
            site.server_name,
            **further,  # type: ignore[arg-type]
        )

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 exactly, OpenSSL's defaults, one leaf certificate, the peer's name checked."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.minimum_version = made.maximum_version = ssl.TLSVersion.TLSv1_2
        # OpenSSL 3's default, which Python lifts: an end without a close-notify is an error.
        made.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        made.load_verify_locations(self.identity.authorities)
        secret = self.identity.passphrase_file
        # Taken whole, with a newline at its end if there is one.
        password = None if secret is None else secret.read_bytes()
        made.load_cert_chain(self.identity.certificate, self.identity.key, password)
        return made

    def request(
        self,
        op: str,
        fields: Sequence[tuple[str, bytes]] = (),
        inner: Mapping[str, bytes] | None = None,
        payload: bytes = b"",
    ) -> Reply:
        """One request. `fields` follow `op` and `user`, in their order. Raises `Failure`."""
        with self.connected() as exchange:
            exchange.send_request(op, fields, payload)
            exchange.whisper(inner or {})
            return exchange.read_reply(op)

    @contextlib.contextmanager
    def connected(self) -> Iterator[Exchange]:
        """A connection for one request, which just closes at the end, however that comes."""
        with self._failing():
            tcp = socket.create_connection((self.connect_to, self.bridge_port), self.limit)
            tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            context = self.context()
            try:
                tls = context.wrap_socket(
                    tcp, server_hostname=self.bridge_hostname, suppress_ragged_eofs=False
                )
            except BaseException:
                tcp.close()
                raise
            try:
                yield Exchange(self, tls, context)
            finally:
                # No close-notify.
                tls.close()

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StreamFailed(f"{type(error).__name__}: {error}") from error


class Exchange:
    """One request on its connection, step by step."""

    def __init__(self, client: Siguldry, tls: ssl.SSLSocket, context: ssl.SSLContext) -> None:
        self._client = client
        self.tls = tls
        self._keys = secrets.token_bytes(64), secrets.token_bytes(64)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._inner = context.wrap_bio(self._in, self._out, server_hostname=client.server_hostname)
        self._header = self._payload = b""

    # ------------------------------------------------------------------------------- the request

    def _send(self, data: bytes) -> None:
        """Send; of a connection that has ended meanwhile, the reader tells."""
        with contextlib.suppress(ssl.SSLEOFError, ConnectionError):
            self.tls.sendall(data)

    def send_request(
        self,
        op: str,
        fields: Sequence[tuple[str, bytes]],
        payload: bytes,
        length: int | None = None,
    ) -> None:
        """Version, fields and length in one chunk, each part in a TLS record; then the payload."""
        # `op` first, then all others in their order.
        named = {"op": op.encode(), "user": self._client.user.encode(), **dict(fields)}
        self._header, self._payload = u32(1) + field_map(named), payload
        size = u64(len(payload) if length is None else length)
        for part in (u32(len(self._header) + 8), self._header[:4], self._header[4:], size):
            self._send(part)
        self._client.sent.append(("outer", len(self._header) + 8))
        for start in range(0, len(payload), MIB):
            piece = payload[start : start + MIB]
            self._send(u32(len(piece)))
            self._send(piece)
            self._client.sent.append(("outer", len(piece)))

    def handshake(self) -> None:
        """The inner handshake, which waits for nothing before it begins."""
        while True:
            try:
                self._inner.do_handshake()
            except ssl.SSLWantReadError:
                self.flush()
                self._feed()
                continue
            except ssl.SSLEOFError as error:
                raise StreamFailed(f"the inner handshake: {error}") from error
            self.flush()
            return

    def flush(self) -> None:
        """Send what the inner session has to send, in chunks of up to 1 MiB."""
        while data := self._out.read(MIB):
            self._send(u32(len(data) | 0x8000_0000))
            self._send(data)
            self._client.sent.append(("inner", len(data)))

    def whisper(self, inner: Mapping[str, bytes]) -> None:
        """The inner session: one field map in random order, in one write; then read to its end."""
        self.handshake()
        fields = {
            **inner,
            "header-auth-sha512": sha512(self._header),
            "payload-auth-sha512": sha512(self._payload),
            "header-auth-key": self._keys[0],
            "payload-auth-key": self._keys[1],
        }
        shuffled = list(fields.items())
        random.shuffle(shuffled)
        self._inner.write(field_map(dict(shuffled)))
        self.flush()
        self._read_to_inner_end()

    def _read_to_inner_end(self) -> None:
        while True:
            try:
                said = self._inner.read(RECORD)
            except ssl.SSLWantReadError:
                self._feed()
                continue
            except ssl.SSLZeroReturnError:
                said = b""
            except ssl.SSLError as error:
                raise StreamFailed(f"the inner session: {error}") from error
            if said:
                raise Panic(f"the server says {len(said)} bytes in the inner session")
            break
        if self.tls.pending():
            raise StreamFailed("the inner end shares a TLS record with the close-notify")
        # The session itself is over: its end is to come.
        if self._chunk(reading_inner=True) != ("inner", 0):
            raise Panic("something else than the inner end follows the close-notify")

    def _feed(self) -> None:
        """Take one inner chunk, as its pieces come. Its end is the end of the session's input."""
        kind, length = self._chunk(reading_inner=True)
        if kind == "outer":
            raise ProtocolViolation(f"an outer chunk of {length} bytes")
        if length == 0:
            self._in.write_eof()
        while length:
            piece = self._some(min(length, RECORD))
            self._in.write(piece)
            length -= len(piece)

    # --------------------------------------------------------------------------------- the reply

    def read_reply(self, op: str) -> Reply:
        """The reply, each part in the chunks that it must have."""
        header = self._outer("the reply's header")
        if len(header) < 64:
            raise TooShort(f"{len(header)} bytes")
        data, code = header[:-64], header[-64:]
        if code != hmac512(self._keys[0], data):
            raise SignatureInvalid("of the header")
        length = self._outer("the payload's length", 8)
        (left,) = struct.unpack(">Q", length)
        payload, cuts = bytearray(), []
        while left:
            piece = self._outer("a payload chunk")
            if not 1 <= len(piece) <= MIB:
                raise Spins(f"a payload chunk of {len(piece)} bytes")
            if len(piece) > left:
                raise Failure("a chunk goes on behind the payload's end")
            left -= len(piece)
            payload += piece
            cuts.append(len(piece))
        if self._outer("the payload's code", 64) != hmac512(self._keys[1], bytes(payload)):
            raise SignatureInvalid("of the payload")
        if self._chunk() != ("outer", 0):
            raise Panic("something else than the outer end follows the reply")
        status = int.from_bytes(data[:4], "big")
        if status == 0 and payload and op in WITHOUT_PAYLOAD:
            raise Panic(f"a payload in the reply to {op}")
        peer = x509.load_der_x509_certificate(self._inner.getpeercert(True) or b"")
        (name,) = peer.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        return Reply(
            status, _fields(data[4:]), bytes(payload), cuts, str(name.value),
            _tls(self.tls), _tls(self._inner),
        )  # fmt: skip

    def _outer(self, what: str, exactly: int | None = None) -> bytes:
        """The content of the next chunk, which must be of the outer stream."""
        kind, length = self._chunk()
        if kind == "inner":
            raise Panic(f"an inner chunk in the place of {what}")
        if exactly is not None and length != exactly:
            raise Panic(f"{what} is a chunk of {length} bytes")
        data = b""
        while len(data) < length:
            try:
                piece = self.tls.recv(min(length - len(data), RECORD))
            except (ssl.SSLEOFError, ConnectionError) as error:
                raise Spins(f"the stream ends inside {what}") from error
            if not piece:
                raise Spins(f"a close-notify inside {what}")
            data += piece
        return data

    # -------------------------------------------------------------------------------- the chunks

    def _chunk(self, *, reading_inner: bool = False) -> tuple[str, int]:
        """The next chunk's stream and length."""
        try:
            head = self.tls.recv(4)
        except (ssl.SSLEOFError, ConnectionError) as error:
            raise self._ended(reading_inner) from error
        if not head:
            raise self._ended(reading_inner)
        if len(head) < 4:
            raise WrongLengths(f"a head of {len(head)} bytes")
        word = int.from_bytes(head, "big")
        return ("inner" if word >> 31 else "outer"), word & 0x7FFF_FFFF

    @staticmethod
    def _ended(reading_inner: bool) -> Failure:
        if reading_inner:
            return Unreachable("server might not be reachable")
        return StreamFailed("the stream ended where more was due")

    def _some(self, count: int) -> bytes:
        try:
            piece = self.tls.recv(count)
        except ssl.SSLEOFError as error:
            raise Unreachable("the stream ends inside an inner chunk") from error
        if not piece:
            raise Unreachable("the stream ends inside an inner chunk")
        return piece


def _fields(data: bytes) -> dict[str, bytes]:
    found, position = {}, 1
    for _ in range(data[0]):
        parts = []
        for _ in range(2):
            size = data[position]
            parts.append(data[position + 1 : position + 1 + size])
            position += 1 + size
        found[parts[0].decode("ascii")] = parts[1]
    if position != len(data):
        raise Failure("something stands between the fields and their code")
    return found


def _tls(session: ssl.SSLSocket | ssl.SSLObject) -> tuple[str, str]:
    suite = session.cipher()
    assert suite is not None
    return session.version() or "", suite[0]
