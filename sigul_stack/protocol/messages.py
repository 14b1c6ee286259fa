"""Requests, replies, subrequests and subreplies, and what authenticates them.

Layouts (docs/protocol.md; HMAC is HMAC-SHA-512, 64 bytes, hash is SHA-512):

    request     u32 version, fields, payload length, payload            (outer stream)
                one field map with hashes and HMAC keys                 (inner session)
    reply       u32 status, fields, HMAC, length, payload, HMAC
    subrequest  fields, HMAC(K(i)), length, payload, HMAC(K(i))
    subreply    the same, with `id` and `status` in its fields

How wide lengths and booleans are depends on the version (`versions`).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Collection, Mapping
from typing import Final

from ..errors import BridgeRefused, ProtocolError, RemoteProtocolError, Status, printable, shortened
from ..records import dataclass, field
from .authentication import DIGEST_BYTES, UNAUTHENTICATED_MAC, check_digest
from .codec import U32_BYTES, Fields, Parser, encode_fields, pack_u32, read_fields, read_integer
from .knowledge import KNOWS, words_in
from .log_fields import FILE_NAME, LOG_SEEN, read_file_name, read_seen
from .versions import VERSIONS, Version

#: Fewest bytes of an HMAC key that a request may bring.
MIN_KEY_BYTES: Final = 64
#: Bytes of the HMAC keys that this package makes.
NEW_KEY_BYTES: Final = 64

HEADER_HASH: Final = "header-auth-sha512"
PAYLOAD_HASH: Final = "payload-auth-sha512"
HEADER_KEY: Final = "header-auth-key"
PAYLOAD_KEY: Final = "payload-auth-key"
#: A bridge's clock, in what it says by itself.
BRIDGE_TIME: Final = "bridge-time"
#: The field that says that nothing was done and nothing is wrong with the request: a later try may
#: go well. Its value means nothing.
BUSY: Final = "busy"
SUBREQUEST_HEADER_KEY: Final = "subrequest-header-auth-key"
SUBREQUEST_PAYLOAD_KEY: Final = "subrequest-payload-auth-key"
SUBREPLY_HEADER_KEY: Final = "subreply-header-auth-key"
SUBREPLY_PAYLOAD_KEY: Final = "subreply-payload-auth-key"


class UnknownVersion(ProtocolError):
    """A request is of a protocol version that its reader does not speak.

    `spoken` are the numbers of those that it does; none where the reader is another peer.
    """

    def __init__(self, number: int, spoken: Collection[int] = ()) -> None:
        self.number = number
        speaks = " and ".join(map(str, sorted(spoken)))
        super().__init__(
            f"protocol version {number} is unknown"
            + (f"; this peer speaks {speaks}" if speaks else " to the server")
        )


# ------------------------------------------------------------------------------------- requests


def encode_request_header(fields: Mapping[str, bytes], number: int) -> bytes:
    """A request's header data: the version's number and the fields.

    Its SHA-512 goes into the inner session.
    """
    return pack_u32(number) + encode_fields(fields)


@dataclass(frozen=True, slots=True)
class RequestHeader:
    """A request's version and outer fields, as they came."""

    version: Version
    fields: Fields

    def encode(self) -> bytes:
        """The header data, as it came."""
        return encode_request_header(self.fields, self.version.number)


def read_request_header(spoken: Collection[int]) -> Parser[RequestHeader]:
    """Parse a request's version and fields.

    Raises `UnknownVersion`, as soon as the version is read, for one that is not in `spoken`.
    """
    number = yield from read_integer(U32_BYTES)
    if number not in spoken:
        raise UnknownVersion(number, spoken)
    version = VERSIONS[number]
    return RequestHeader(version, (yield from read_fields(version.boolean_bytes)))


@dataclass(frozen=True, slots=True)
class ReplyKeys:
    """The HMAC keys that a client chose for the reply to its request; each ≥ 64 bytes."""

    header: bytes = field(repr=False)
    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class InnerFields:
    """A client's message in the inner session, once checked for form.

    `payload_hash` is None only where the request left it out, which only `sign-rpm` with
    `rpm-sigmd5` may do. `secrets` are the remaining fields, by name.
    """

    header_hash: bytes = field(repr=False)
    payload_hash: bytes | None = field(repr=False)
    keys: ReplyKeys = field(repr=False)
    secrets: Fields
    #: What the client says that it knows; None where it does not say.
    knows: frozenset[str] | None = None
    #: Sizes of signing logs that it has seen, by the IDs of their keys, and its file's name.
    seen: Mapping[bytes, int] = field(default_factory=dict)
    file_name: str = ""


def encode_inner_fields(
    header_data: bytes, payload_hash: bytes | None, keys: ReplyKeys, secrets: Mapping[str, bytes]
) -> bytes:
    """The one field map of the inner session."""
    return encode_fields(
        {
            **secrets,
            HEADER_HASH: hashlib.sha512(header_data).digest(),
            **({} if payload_hash is None else {PAYLOAD_HASH: payload_hash}),
            HEADER_KEY: keys.header,
            PAYLOAD_KEY: keys.payload,
        }
    )


def read_inner_fields() -> Parser[InnerFields]:
    """Parse the inner session's field map and check the form of hashes and keys."""
    fields = yield from read_fields()
    payload_hash = fields.get(PAYLOAD_HASH)
    for name, value in ((HEADER_HASH, fields.blob(HEADER_HASH)), (PAYLOAD_HASH, payload_hash)):
        if value is not None and len(value) != DIGEST_BYTES:
            raise RemoteProtocolError(f"'{name}' has {len(value)} bytes instead of {DIGEST_BYTES}")
    keys = ReplyKeys(auth_key(fields, HEADER_KEY), auth_key(fields, PAYLOAD_KEY))
    own = (HEADER_HASH, PAYLOAD_HASH, HEADER_KEY, PAYLOAD_KEY, KNOWS, LOG_SEEN, FILE_NAME)
    secrets = Fields({name: value for name, value in fields.items() if name not in own})
    return InnerFields(
        fields.blob(HEADER_HASH),
        payload_hash,
        keys,
        secrets,
        words_in(fields),
        read_seen(fields),
        read_file_name(fields),
    )


def auth_key(fields: Fields, name: str) -> bytes:
    """The HMAC key in field `name`; `ProtocolError` if absent or shorter than 64 bytes."""
    key = fields.blob(name)
    if len(key) < MIN_KEY_BYTES:
        raise RemoteProtocolError(
            f"'{name}' has {len(key)} bytes; at least {MIN_KEY_BYTES} are needed"
        )
    return key


# -------------------------------------------------------------------------------------- replies


def encode_reply_header(status: int, fields: Mapping[str, bytes], key: bytes) -> bytes:
    """Status, fields and their HMAC: a writer sends them to a client as exactly one chunk."""
    data = pack_u32(status) + encode_fields(fields)
    return data + hmac.digest(key, data, "sha512")


@dataclass(frozen=True, slots=True)
class ReplyHeader:
    """A reply's status and fields as they came, with what a reader needs to verify them."""

    status: int
    fields: Fields
    code: bytes

    @property
    def bridge_time(self) -> int | None:
        """The clock of the bridge whose own word this is, in seconds since 1970, if it tells."""
        if self.code != UNAUTHENTICATED_MAC or BRIDGE_TIME not in self.fields:
            return None
        return self.fields.integer(BRIDGE_TIME)

    def encode(self) -> bytes:
        """The header's bytes, its authentication code included, as they came."""
        return pack_u32(self.status) + encode_fields(self.fields) + self.code

    @property
    def is_without_proof(self) -> bool:
        """Tell whether this is the bridge's own word: an error without a code."""
        return self.code == UNAUTHENTICATED_MAC and self.status != Status.OK

    @property
    def message(self) -> str:
        """The text of the field `message`; empty where it is absent."""
        return _message(self.fields)

    def check_origin(self) -> None:
        """Raise `BridgeRefused` where this is the bridge's own word."""
        if self.is_without_proof:
            raise BridgeRefused(self.message, busy=BUSY in self.fields)

    def verify(self, key: bytes) -> None:
        """Raise `ProtocolError` unless the header's HMAC under `key` is right."""
        data = pack_u32(self.status) + encode_fields(self.fields)
        check_digest(hmac.digest(key, data, "sha512"), self.code, "the reply's header")


def read_reply_header(version: Version) -> Parser[ReplyHeader]:
    """Parse status, fields and HMAC, unverified (the bridge has no key; a client verifies).

    `version` is the request's.

    A bare UNKNOWN_VERSION status is what a server answers to a version that it does not know, with
    nothing behind it and nothing to authenticate it: `UnknownVersion` is raised at once.
    """
    status = yield from read_integer(U32_BYTES)
    if status == Status.UNKNOWN_VERSION:
        raise UnknownVersion(version.number)
    fields = yield from read_fields(version.boolean_bytes)
    return ReplyHeader(status, fields, (yield DIGEST_BYTES))


def bridge_refusal(
    message: str, version: Version, clock: int | None = None, *, busy: bool = False
) -> list[bytes]:
    """A reply with which a bridge refuses a request by itself, cut as clients want it.

    `version` is the request's; `clock` is the bridge's, in seconds since 1970. `busy`: the same
    request may well be served later.
    """
    fields = {"message": shortened(message).encode()}
    if busy:
        fields[BUSY] = version.encode_value(True)
    if clock is not None:
        fields[BRIDGE_TIME] = pack_u32(clock)
    header = pack_u32(Status.UNKNOWN_ERROR) + encode_fields(fields)
    return [header + UNAUTHENTICATED_MAC, version.encode_length(0), UNAUTHENTICATED_MAC]


def warnings_in(fields: Fields) -> list[str]:
    """The texts of a reply's notes `warning-1` and so on, each as one printable line."""
    return [
        printable(fields[name].decode("utf-8", "backslashreplace"))
        for name in sorted(fields)
        if name.startswith("warning-")
    ]


def _message(fields: Fields) -> str:
    return fields.get("message", b"").decode("utf-8", "backslashreplace")


# -------------------------------------------------------------------- subrequests and subreplies


@dataclass(frozen=True, slots=True)
class ChainKeys:
    """Base keys of one direction of `sign-rpms`; message number i has keys of its own."""

    header: bytes = field(repr=False)
    payload: bytes = field(repr=False)

    @classmethod
    def of_subrequests(cls, secrets: Fields) -> ChainKeys:
        """The keys of the subrequests, from the request's inner fields."""
        return cls(
            auth_key(secrets, SUBREQUEST_HEADER_KEY), auth_key(secrets, SUBREQUEST_PAYLOAD_KEY)
        )

    @classmethod
    def of_subreplies(cls, secrets: Fields) -> ChainKeys:
        """The keys of the subreplies, from the request's inner fields."""
        return cls(auth_key(secrets, SUBREPLY_HEADER_KEY), auth_key(secrets, SUBREPLY_PAYLOAD_KEY))

    def numbered(self, index: int) -> ReplyKeys:
        """The HMAC keys of message `index`: SHA-512(u32 1 ‖ base ‖ u32 index) of each base."""
        return ReplyKeys(_derive(self.header, index), _derive(self.payload, index))


def _derive(base: bytes, index: int) -> bytes:
    return hashlib.sha512(pack_u32(1) + base + pack_u32(index)).digest()


def new_chain_secrets(random: Callable[[int], bytes]) -> dict[str, bytes]:
    """New base keys for both directions of `sign-rpms`, as inner fields."""
    return {
        name: random(NEW_KEY_BYTES)
        for name in (
            *(SUBREQUEST_HEADER_KEY, SUBREQUEST_PAYLOAD_KEY),
            *(SUBREPLY_HEADER_KEY, SUBREPLY_PAYLOAD_KEY),
        )
    }


@dataclass(frozen=True, slots=True)
class SubHeader:
    """A subrequest's or subreply's fields as they came, with their HMAC."""

    fields: Fields
    code: bytes

    def encode(self) -> bytes:
        """The header's bytes, as they came."""
        return encode_fields(self.fields) + self.code

    @property
    def refusal(self) -> BridgeRefused | None:
        """The bridge's own word on this message, where it is one: an error without a code."""
        if self.code != UNAUTHENTICATED_MAC or self.fields.integer("status") == Status.OK:
            return None
        return BridgeRefused(_message(self.fields))

    def verify(self, keys: ReplyKeys) -> None:
        """Raise `ProtocolError` unless the HMAC under this message's keys is right."""
        expected = hmac.digest(keys.header, encode_fields(self.fields), "sha512")
        check_digest(expected, self.code, "a subrequest's or subreply's header")


def encode_sub_header(fields: Mapping[str, bytes], keys: ReplyKeys) -> bytes:
    """Fields and their HMAC under the keys of this message's number."""
    data = encode_fields(fields)
    return data + hmac.digest(keys.header, data, "sha512")


def bridge_subrefusal(number: bytes, message: str, version: Version) -> list[bytes]:
    """A subreply with which a bridge fails the RPM of this `id`, cut as clients want it."""
    fields = {
        "id": number,
        "status": pack_u32(Status.UNKNOWN_ERROR),
        "message": shortened(message).encode(),
    }
    header = encode_fields(fields) + UNAUTHENTICATED_MAC
    return [header, version.encode_length(0), UNAUTHENTICATED_MAC]


def read_sub_header() -> Parser[SubHeader]:
    """Parse a subrequest's or subreply's fields and HMAC, unverified."""
    return SubHeader((yield from read_fields()), (yield DIGEST_BYTES))
