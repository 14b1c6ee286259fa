"""Users' passwords: what is stored, what verifies, and what must not."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing

import pytest
from passlib.hash import sha512_crypt

from sigul_stack.errors import KeystoreError
from sigul_stack.keystore import passwords
from sigul_stack.keystore.passwords import hash_password, verify_password
from sigul_stack.secret import Secret
from tests.held_data import held

# Made with crypt(3) of libxcrypt 4.4.33, for another implementation than ours to agree with.
VECTORS = [
    (
        b"Hello world!",
        b"$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFC"
        b"oEOfaS35inz1",
    ),
    (
        b"Hello world!",
        b"$6$rounds=10000$saltstringsaltst$OW1/O6BYHV6BcXZu8QVeXbDWra3Oeqh0sbHbbMCVNSnCM/UrjmM0Dp8vO"
        b"uZeHBy/YTBmSK6H9qs/y3RnOaw5v.",
    ),
    (
        b"the minimum number is still observed",
        b"$6$rounds=1000$roundstoolow$kUMsbe306n21p9R.FRkW3IGn.S9NPN0x50YhH1xhLsPuWGsUSklZt58jaTfF4ZE"
        b"QpyUNGc0dqbpBYYBaHHrsX.",
    ),
]


@pytest.fixture(scope="module")
def legacy() -> dict[str, bytes | None]:
    """The stored passwords of the users of a 1.2 server."""
    file = held("legacy-site", "server.sqlite")
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
        return dict(connection.execute("SELECT name, sha512_password FROM users"))


def stored_by_1_2(password: bytes) -> bytes:
    """What a 1.2 server stores, whatever the password is."""
    text: str = sha512_crypt.using(rounds=passwords.ROUNDS, salt_size=16).hash(password)
    return text.encode()


def rounds_run(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note the rounds of every hash that is really computed from now on."""
    seen: list[int] = []
    compute = sha512_crypt._calc_checksum

    def noting(self: sha512_crypt, secret: bytes) -> str:
        seen.append(self.rounds)
        checksum: str = compute(self, secret)
        return checksum

    monkeypatch.setattr(sha512_crypt, "_calc_checksum", noting)
    return seen


@pytest.mark.parametrize(
    ("user", "password"), [("root", "rootroot"), ("ops", "ops-pw"), ("alice", "alice-pw")]
)
def test_passwords_of_a_legacy_site_verify(
    legacy: dict[str, bytes | None], user: str, password: str
) -> None:
    assert verify_password(Secret(password), legacy[user])
    assert not verify_password(Secret(password + "x"), legacy[user])
    assert not verify_password(Secret(password[:-1]), legacy[user])


def test_user_without_password_is_refused(legacy: dict[str, bytes | None]) -> None:
    assert legacy["bob"] is None
    assert not verify_password(Secret("bob"), legacy["bob"])
    assert not verify_password(Secret(""), legacy["bob"])


@pytest.mark.parametrize(("password", "stored"), VECTORS)
def test_vectors_of_libxcrypt(password: bytes, stored: bytes) -> None:
    assert verify_password(Secret(password), stored)
    assert not verify_password(Secret(password + b"!"), stored)


def test_what_is_stored_has_the_form_that_1_2_verifies() -> None:
    stored = hash_password(Secret("secret"))
    assert re.fullmatch(rb"\$6\$[./0-9A-Za-z]{16}\$[./0-9A-Za-z]{86}", stored)
    assert verify_password(Secret("secret"), stored)


def test_salts_differ() -> None:
    assert hash_password(Secret("secret")) != hash_password(Secret("secret"))


@pytest.mark.parametrize(
    "password",
    [
        b" ",
        b"\xff\xfe not UTF-8",
        "pässwörd".encode(),
        b"line\n",
        bytes(range(1, 256)),
        b"x" * 255,
    ],
)
def test_any_bytes_make_a_password(password: bytes) -> None:
    stored = hash_password(Secret(password))
    assert verify_password(Secret(password), stored)
    assert not verify_password(Secret(password[:-1] + b"\x01\x01"), stored)


@pytest.mark.parametrize("password", [b"", b"a\0b", b"\0", b"x" * 256])
def test_password_that_cannot_be_stored(password: bytes) -> None:
    limits = "at least 1 and at most 255 bytes without a NUL byte"
    with pytest.raises(KeystoreError, match=limits) as caught:
        hash_password(Secret(password))
    assert "x" * 10 not in str(caught.value)
    # Cut at the NUL byte or at the limit, the first would be the empty password, or "a", or …
    for shorter in (b"", b"a", b"x" * 255):
        assert not verify_password(Secret(password), stored_by_1_2(shorter))


def test_an_empty_password_is_wrong_where_an_old_server_took_it() -> None:
    assert verify_password(Secret(b"a"), stored_by_1_2(b"a"))
    assert not verify_password(Secret(b""), stored_by_1_2(b""))


GOOD = VECTORS[0][1]


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"*",
        b"!" + GOOD,
        b"$6$",
        b"$6$saltstring",
        b"$6$saltstring$",
        GOOD[:-1],
        GOOD + b"x",
        GOOD + b"\n",
        GOOD.replace(b"$6$", b"$5$"),
        GOOD.replace(b"saltstring", b"salt:string"),
        GOOD.replace(b"saltstring", b"saltstringsaltstring"),
        GOOD.replace(b"saltstring", b"s\xc3\xa4lt"),
        GOOD.replace(b"$6$", b"$6$rounds=$"),
        GOOD.replace(b"$6$", b"$6$rounds=0$"),
        GOOD.replace(b"$6$", b"$6$rounds=05000$"),
        GOOD.replace(b"$6$", b"$6$rounds=-5000$"),
        GOOD.replace(b"$6$", b"$6$rounds=999$"),
        GOOD.replace(b"$6$", b"$6$rounds=5000$rounds=5000$"),
        GOOD.replace(b"$6$", b"$6$rounds=500001$"),
        GOOD.replace(b"$6$", b"$6$rounds=999999999$"),
        GOOD.replace(b"$6$", b"$6$rounds=99999999999999999999$"),
    ],
)
def test_malformed_hash_costs_one_dummy_and_is_refused(
    stored: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = rounds_run(monkeypatch)
    assert not verify_password(Secret("Hello world!"), stored)
    assert seen == [passwords.ROUNDS]


@pytest.mark.parametrize("password", [b"wrong", b"a\0b", b"x" * 300, b""])
@pytest.mark.parametrize("stored", [None, GOOD])
def test_every_refusal_costs_the_same(
    password: bytes, stored: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = rounds_run(monkeypatch)
    assert not verify_password(Secret(password), stored)
    assert seen == [passwords.ROUNDS]


def test_explicit_rounds_verify() -> None:
    stored = sha512_crypt.using(rounds=2000, salt="s").hash("pw").encode()
    assert b"rounds=2000" in stored
    assert verify_password(Secret("pw"), stored)


def test_the_most_rounds_allowed_verify() -> None:
    stored = sha512_crypt.using(rounds=passwords.MAX_ROUNDS, salt="s").hash("pw").encode()
    assert verify_password(Secret("pw"), stored)


@pytest.mark.parametrize(
    ("plain", "length"),
    [(b"abc", 3), ("üüü".encode(), 3), ("😀".encode(), 1), (b"\xff\xfe", 2), (b" \n", 2)],
)
def test_a_length_is_in_characters(plain: bytes, length: int) -> None:
    passwords.require_length(Secret(plain), length)
    with pytest.raises(KeystoreError) as refused:
        passwords.require_length(Secret(plain), length + 1)
    assert f"at least {length + 1} characters" in str(refused.value)
    assert f"this one has {length}" in str(refused.value)


def test_an_empty_secret_is_too_short_where_there_is_a_least_length() -> None:
    with pytest.raises(KeystoreError, match="this one has 0"):
        passwords.require_length(Secret(b""), 2)
    # Else it is refused by what would use it, as ever.
    passwords.require_length(Secret(b""), 1)
