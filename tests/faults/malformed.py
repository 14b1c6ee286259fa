"""Requests that must be refused, as scripts for a scripted client.

`AT_BRIDGE` are those that a bridge has to refuse by itself, before any server sees them; a server
behind a bridge that checks nothing has to refuse all of them.
"""

from __future__ import annotations

from typing import Any

from tests.wire import field_map, sha512, u32

Script = dict[str, Any]

GIB = 1024**3
_OP, _USER = b"list-users", b"admin"
PASSWORD = {"password": b"admin-pw"}


def _map(*pairs: tuple[bytes, bytes]) -> bytes:
    """A field map of raw keys and values, whatever they are."""
    out = bytes((len(pairs),))
    for key, value in pairs:
        out += bytes((len(key),)) + key + bytes((len(value),)) + value
    return out


_LIST = ((b"op", _OP), (b"user", _USER))
#: A header, version included, that no field map is in.
_BROKEN_MAPS = {
    "empty key": _map(*_LIST, (b"", b"x")),
    "key with a control character": _map(*_LIST, (b"na\x01me", b"x")),
    "key of DEL and beyond": _map(*_LIST, (b"na\x80me", b"x")),
    "repeated key": _map(*_LIST, (b"op", b"list-keys")),
    "255 fields that nobody knows": _map(
        *((f"f{n}".encode(), b"x" * 255) for n in range(253)), *_LIST
    ),
}
_WRONG_FIELDS: dict[str, dict[str, bytes]] = {
    "no field at all": {},
    "no op": {"user": _USER},
    "no user": {"op": _OP},
    "op that is not UTF-8": {"op": b"\xff\xfe", "user": _USER},
    "op with a NUL": {"op": b"list-users\0", "user": _USER},
    "empty op": {"op": b"", "user": _USER},
    "unknown op": {"op": b"sign-everything", "user": _USER},
    "unknown field": {"op": _OP, "user": _USER, "colour": b"red"},
    "user with a newline": {"op": _OP, "user": b"admin\n"},
    "user that is not UTF-8": {"op": _OP, "user": b"\xc3\x28"},
    "bool of two bytes": {"op": b"new-user", "user": _USER, "name": b"x", "admin": b"\0\0"},
    "bool of 2": {"op": b"new-user", "user": _USER, "name": b"x", "admin": b"\2"},
    "name with a control character": {"op": b"new-user", "user": _USER, "name": b"a\tb"},
    "missing name": {"op": b"new-user", "user": _USER},
    "date that is none": {
        "op": b"new-key", "user": _USER, "key": b"k", "expire-date": b"2026-02-30",
    },
    "number that is none": {
        "op": b"change-key-expiration", "user": _USER, "key": b"k", "subkey": b"-1",
    },
    "file name with a slash": {
        "op": b"sign-ostree", "user": _USER, "key": b"k", "ostree-hash": b"../../etc/passwd",
    },
}  # fmt: skip
_LENGTHS: dict[str, Script] = {
    "payload where none belongs": {"payload": b"x"},
    "2^64-1 bytes announced": {"length": 2**64 - 1, "op": "sign-data", "fields": {"key": b"k"}},
    "2^63 bytes announced": {"length": 2**63, "op": "sign-text", "fields": {"key": b"k"}},
    "1 GiB and one byte announced": {
        "length": GIB + 1, "op": "sign-text", "fields": {"key": b"k"},
    },
    "1 TiB and one byte announced": {
        "length": 1024**4 + 1, "op": "sign-data", "fields": {"key": b"k"},
    },
    "1 MiB and one byte to import": {
        "length": 1024**2 + 1, "op": "import-key", "fields": {"key": b"k"},
    },
}  # fmt: skip
_VERSIONS: dict[str, Script] = {
    f"version {version}": {"version": version} for version in (3, 2, 0x01000000, 2**32 - 1)
}

AT_BRIDGE: dict[str, Script] = {
    **{name: {"header": u32(1) + fields} for name, fields in _BROKEN_MAPS.items()},
    **{name: {"header": u32(1) + field_map(fields)} for name, fields in _WRONG_FIELDS.items()},
    **_LENGTHS,
    **_VERSIONS,
}

_SIGN: Script = {"op": "sign-text", "fields": {"key": b"k"}, "payload": b"some text\n"}
_INNER: dict[str, Script] = {
    "no header hash": {"inner": {"header-auth-sha512": None}},
    "no payload hash": {"inner": {"payload-auth-sha512": None}},
    "no header key": {"inner": {"header-auth-key": None}},
    "no payload key": {"inner": {"payload-auth-key": None}},
    "header key of 63 bytes": {"inner": {"header-auth-key": b"k" * 63}},
    "payload key of 63 bytes": {"inner": {"payload-auth-key": b"k" * 63}},
    "empty header key": {"inner": {"header-auth-key": b""}},
    "header hash of 32 bytes": {"inner": {"header-auth-sha512": bytes(32)}},
    "header hash of something else": {"inner": {"header-auth-sha512": sha512(b"else")}},
    "payload hash of something else": {"inner": {"payload-auth-sha512": sha512(b"else")}},
    "hash of another payload": {**_SIGN, "inner": {"payload-auth-sha512": sha512(b"")}},
    "inner fields of nothing": {"inner_raw": b"\0"},
    "inner fields cut off": {"inner_raw": field_map(PASSWORD)[:-3]},
    "inner field without a name": {"inner_raw": _map((b"", b"x"))},
    "inner field repeated": {"inner_raw": _map((b"password", b"a"), (b"password", b"b"))},
    "inner nonsense": {"inner_raw": bytes(range(1, 200))},
}
#: Refused with an authenticated answer, which is what `status` says.
ANSWERED: dict[str, tuple[Script, int]] = {
    "no password": ({"secrets": {}}, 3),
    "wrong password": ({"secrets": {"password": b"wrong"}}, 3),
    "empty password": ({"secrets": {"password": b""}}, 3),
    "password of 255 bytes": ({"secrets": {"password": b"\xff" * 255}}, 3),
    "another user's name": ({"user": "bob"}, 3),
    "a user's name that is a pattern": ({"user": "%"}, 3),
    "unknown key": ({**_SIGN, "secrets": {"passphrase": b"x"}}, 3),
    "key's name that is a path": (
        {**_SIGN, "fields": {"key": b"../../server.sqlite"}, "secrets": {"passphrase": b"x"}}, 3,
    ),
}  # fmt: skip

AT_SERVER: dict[str, Script] = {
    name: {"secrets": PASSWORD, **script} for name, script in (AT_BRIDGE | _INNER).items()
}
AT_BOTH: dict[str, Script] = {
    name: {"secrets": PASSWORD, **script} for name, script in _INNER.items()
}
