"""Who may administer: not who gives no password; and somebody always may."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from passlib.hash import sha512_crypt

from sigul_stack.errors import Status
from tests.faults.scripted import Peer
from tests.site import Site

from .commands_support import ADMIN, change_database, database_content, done, failure, rows

pytestmark = pytest.mark.once("rights, and the database")

PASSWORD = {"password": ADMIN.encode()}


@pytest.fixture(scope="module")
def running(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A running site; any user may be named with the administrator's certificate."""
    site = Site.copy(template, tmp_path_factory.mktemp("administrators") / "site")
    site.extra = {"server": {"server": "proxy-usernames: admin\n"}}
    site.configure()
    with site.running():
        yield site


@pytest.fixture(autouse=True)
def as_before(running: Site) -> Iterator[None]:
    """The administrator is there again afterwards, and nobody else."""
    admin = rows(running, "SELECT sha512_password FROM users WHERE name = 'admin'")[0][0]
    yield
    change_database(running, "DELETE FROM users")
    add(running, "admin", admin)


@pytest.fixture
def client(running: Site) -> Iterator[Peer]:
    """A client that sends what it is told to."""
    with Peer(running, "client") as peer:
        yield peer


def add(site: Site, name: str, stored: object, admin: bool = True) -> None:
    """Put a user into the database."""
    change_database(
        site, "INSERT INTO users (name, sha512_password, admin) VALUES (?, ?, ?)",
        name, stored, admin,
    )  # fmt: skip


def hashed(password: str) -> bytes:
    """What a server of 1.2 stores."""
    return sha512_crypt.using(rounds=5000).hash(password).encode()


def administrators(site: Site) -> list[object]:
    return [name for (name,) in rows(site, "SELECT name FROM users WHERE admin ORDER BY name")]


# ------------------------------------------------------------------------------------- passwords


@pytest.mark.parametrize("secrets", [{}, {"password": b""}], ids=["missing", "empty"])
@pytest.mark.parametrize("password", ["", "some", None])
def test_no_password_opens_nothing(
    running: Site, client: Peer, secrets: Mapping[str, bytes], password: str | None
) -> None:
    add(running, "eve", None if password is None else hashed(password))
    told = client.run(op="list-users", user="eve", secrets=secrets)
    assert (told["status"], told["fields"], told["payload"]) == (
        Status.AUTHENTICATION_FAILED, {}, b""
    )  # fmt: skip


@pytest.mark.parametrize(
    ("op", "fields"),
    [
        ("new-user", {"name": b"dave"}),
        ("new-user", {"name": b"dave", "admin": b"\1"}),
        ("modify-user", {"name": b"admin"}),
        ("modify-user", {"name": b"eve", "new-name": b"other", "admin": b"\1"}),
    ],
)
def test_an_empty_password_is_not_set(
    running: Site, client: Peer, op: str, fields: dict[str, bytes]
) -> None:
    add(running, "eve", None, admin=False)
    before = database_content(running)
    told = client.run(op=op, fields=fields, secrets={**PASSWORD, "new-password": b""})
    assert told["status"] == Status.UNKNOWN_ERROR
    assert b"at least 1 and at most 255 bytes" in told["fields"]["message"]
    assert database_content(running) == before


def test_a_user_without_a_password_is_made_as_ever(running: Site, client: Peer) -> None:
    told = client.run(op="new-user", fields={"name": b"dave"}, secrets=PASSWORD)
    assert told["status"] == Status.OK
    assert rows(running, "SELECT sha512_password, admin FROM users WHERE name = 'dave'") == [
        (None, 0)
    ]
    told = client.run(op="modify-user", fields={"name": b"dave"}, secrets=PASSWORD)
    assert told["status"] == Status.OK


# -------------------------------------------------------------------------- the last administrator

DEEDS = [("modify-user", "--admin", "no", "admin"), ("delete-user", "admin")]


@pytest.mark.parametrize("deed", DEEDS, ids=lambda deed: deed[0])
def test_the_last_administrator_stays(running: Site, deed: tuple[str, ...]) -> None:
    add(running, "dave", hashed("some"), admin=False)
    add(running, "eve", None)  # has no password, so he can administer nothing
    before = database_content(running)
    told = failure(running, *deed, secrets=[ADMIN])
    assert told == (
        "Unknown error: 'admin' is the last administrator who has a password;"
        " make another one first"
    )
    assert database_content(running) == before
    assert done(running, "list-users", secrets=[ADMIN]) == b"admin\ndave\neve\n"


@pytest.mark.parametrize("deed", DEEDS, ids=lambda deed: deed[0])
def test_one_of_two_administrators_may_go(running: Site, deed: tuple[str, ...]) -> None:
    add(running, "eve", hashed("eve-pw"))
    done(running, *deed, secrets=[ADMIN])
    assert administrators(running) == ["eve"]


def test_of_two_at_once_one_stays(running: Site) -> None:
    """Both were let in as administrators before either was none."""
    add(running, "eve", hashed("eve-pw"))
    deeds: list[dict[str, Any]] = [
        {"op": "modify-user", "fields": {"name": b"admin", "admin": b"\0"}, "secrets": PASSWORD},
        {"op": "delete-user", "fields": {"name": b"eve"}, "user": "eve",
         "secrets": {"password": b"eve-pw"}},
    ]  # fmt: skip
    with Peer(running, "client") as first, Peer(running, "client") as second:
        for peer, deed in zip((first, second), deeds, strict=True):
            peer.start(**deed)
        outcomes = [peer.result()["status"] for peer in (first, second)]
    assert sorted(outcomes) == [Status.OK, Status.UNKNOWN_ERROR]
    assert len(administrators(running)) == 1
