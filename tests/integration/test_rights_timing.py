"""Every refusal costs the same: exactly one password hash, or one string-to-key of each form.

Counted, not timed: what is expensive is watched where it is done, and really done.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from passlib.hash import sha512_crypt

from sigul_stack.database import Database, KeyType, create, sqlite_url
from sigul_stack.errors import RequestRefused, Status
from sigul_stack.keystore import envelope, passwords
from sigul_stack.keystore.bindings import enabled_methods, parse_layer
from sigul_stack.keystore.store import new_access
from sigul_stack.protocol.codec import Fields
from sigul_stack.protocol.messages import ReplyKeys
from sigul_stack.protocol.operations import OPERATIONS, Operation, Rights
from sigul_stack.protocol.versions import LATEST
from sigul_stack.secret import Secret
from sigul_stack.server.guesses import Guard, unguarded
from sigul_stack.server.request import Request
from sigul_stack.server.rights import Granted, KeyGranted, NameCheck, authorise
from tests.wire import payload_of

pytestmark = pytest.mark.once("counts calls of hashes in Python")

#: The size of every string-to-key here, in bytes hashed, and of every hash, in rounds.
S2K_BYTES = 65_011_712
ROUNDS = 5000
#: What is derived by a passphrase that opens, and by one that is refused.
OPENING = [("sha256", S2K_BYTES, 32)]
REFUSAL = [*OPENING, ("sha1", S2K_BYTES, 32)]

BY_PASSPHRASE = [op for op in OPERATIONS.values() if op.rights.by_passphrase]
BY_PASSWORD = [op for op in OPERATIONS.values() if op.rights.by_password]
FOR_KEY_ADMINS = [op for op in BY_PASSPHRASE if op.rights.needs_key_admin]


@dataclass
class Costs:
    """What was expensive: rounds of each password hash, bytes of each string-to-key."""

    hashes: list[int] = field(default_factory=list)
    string_to_keys: list[tuple[str, int, int]] = field(default_factory=list)


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> Costs:
    """Counts what is expensive from now on; it is done all the same."""
    found = Costs()
    hashing = sha512_crypt
    derive = envelope._StringToKey.derive

    class Counted:
        """Stands before the real hash."""

        @staticmethod
        def verify(plain: bytes, stored: str) -> bool:
            found.hashes.append(hashing.from_string(stored).rounds)
            return bool(hashing.verify(plain, stored))

    def counted(self: envelope._StringToKey, passphrase: Secret, key_bytes: int) -> bytes:
        found.string_to_keys.append((self.hash_name, self.count, key_bytes))
        return derive(self, passphrase, key_bytes)

    monkeypatch.setattr(passwords, "sha512_crypt", Counted)
    monkeypatch.setattr(envelope._StringToKey, "derive", counted)
    return found


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """Users admin, plain (no administrator), bare (no password), odd (a damaged hash); key `k`."""
    url = sqlite_url(Path(tmp_path_factory.mktemp("rights")) / "server.sqlite")
    create(url)
    database = Database(url)
    registry = enabled_methods(["test"])
    secret = Secret("the key's own passphrase")
    with database.write() as writer:
        writer.add_key("k", KeyType.GNUPG, "0" * 40)
        for name, stored, admin in (
            ("admin", passwords.hash_password(Secret("admin-pw")), True),
            ("plain", passwords.hash_password(Secret("plain-pw")), False),
            ("bare", None, True),
            ("odd", b"$6$damaged", True),
            ("none", None, False),
        ):
            writer.add_user(name, stored, admin)
        for name, layers, key_admin in (
            ("admin", (), True),
            ("plain", (), False),
            ("bare", (parse_layer("test,may_unbind=0"),), True),
        ):
            sealed = new_access(secret, Secret(f"{name}-k-pw"), layers, registry)
            writer.add_access(name, "k", sealed, key_admin=key_admin)
        writer.add_access("odd", "k", b"damaged", key_admin=True)
    yield database
    database.close()


def ask(
    database: Database,
    operation: Operation,
    user: str,
    *,
    key: str = "k",
    certificate: str | None = None,
    guard: Guard = unguarded,
    **secrets: str,
) -> Granted:
    """Have `user` ask for `operation`."""
    fields = {"op": operation.name, "user": user, operation.key_field: key}
    request = Request(
        version=LATEST,
        operation=operation,
        fields=Fields({name: LATEST.encode_value(value) for name, value in fields.items()}),
        secrets=Fields({name: value.encode() for name, value in secrets.items()}),
        keys=ReplyKeys(bytes(64), bytes(64)),
        payload=payload_of(b""),
        client_name=user if certificate is None else certificate,
    )
    check = NameCheck(False, frozenset())
    return authorise(request, database, enabled_methods(["test"]), check, guard)


def refuse(database: Database, operation: Operation, user: str, **how: str) -> None:
    """Have `user` ask, who must be refused without a word of why."""
    with pytest.raises(RequestRefused) as refused:
        ask(database, operation, user, **how)
    assert (refused.value.status, refused.value.message) == (Status.AUTHENTICATION_FAILED, None)


def ids(operation: object) -> str:
    return operation.name if isinstance(operation, Operation) else ""


#: Who asks, and how, with a password.
WRONG_PASSWORDS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "unknown user": ("nobody", {"password": "admin-pw"}),
    "wrong password": ("admin", {"password": "wrong"}),
    "empty password": ("admin", {"password": ""}),
    "longest password": ("admin", {"password": "x" * 255}),
    "a NUL in the password": ("admin", {"password": "admin-pw\0"}),
    "no administrator": ("plain", {"password": "plain-pw"}),
    "no administrator, wrong password": ("plain", {"password": "wrong"}),
    "no password set": ("bare", {"password": ""}),
    "damaged hash": ("odd", {"password": "admin-pw"}),
    "another's certificate": ("admin", {"password": "admin-pw", "certificate": "plain"}),
    "another's certificate, wrong": ("admin", {"password": "wrong", "certificate": "plain"}),
    "no secret": ("admin", {}),
}


@pytest.mark.parametrize("how", WRONG_PASSWORDS.values(), ids=WRONG_PASSWORDS.keys())
def test_a_refusal_by_password_costs_one_hash(
    database: Database, costs: Costs, how: tuple[str, Mapping[str, str]]
) -> None:
    user, secrets = how
    for operation in BY_PASSWORD:
        refuse(database, operation, user, **secrets)
    assert costs.hashes == [ROUNDS] * len(BY_PASSWORD)
    assert costs.string_to_keys == []


@pytest.mark.parametrize("operation", BY_PASSWORD, ids=ids)
def test_success_by_password_costs_as_much(
    database: Database, costs: Costs, operation: Operation
) -> None:
    granted = ask(database, operation, "admin", password="admin-pw")
    assert granted.user.name == "admin"
    assert costs == Costs(hashes=[ROUNDS])
    # It is no passphrase, and opens no key.
    assert not isinstance(granted, KeyGranted)


#: Who asks, and how, with a passphrase.
WRONG_PASSPHRASES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "unknown user": ("nobody", {"passphrase": "admin-k-pw"}),
    "unknown key": ("admin", {"passphrase": "admin-k-pw", "key": "nokey"}),
    "no access": ("none", {"passphrase": "admin-k-pw"}),
    "wrong passphrase": ("admin", {"passphrase": "wrong"}),
    "another's passphrase": ("admin", {"passphrase": "plain-k-pw"}),
    "empty passphrase": ("admin", {"passphrase": ""}),
    "longest passphrase": ("admin", {"passphrase": "x" * 255}),
    "bound, and does not open": ("bare", {"passphrase": "bare-k-pw"}),
    "another's certificate": ("admin", {"passphrase": "admin-k-pw", "certificate": "plain"}),
    "another's certificate, wrong": ("admin", {"passphrase": "wrong", "certificate": "plain"}),
    "damaged access": ("odd", {"passphrase": "odd-k-pw"}),
    "a password beside it": ("none", {"passphrase": "wrong", "password": "admin-pw"}),
}


@pytest.mark.parametrize("how", WRONG_PASSPHRASES.values(), ids=WRONG_PASSPHRASES.keys())
def test_a_refusal_by_passphrase_costs_one_string_to_key_of_each_form(
    database: Database, costs: Costs, how: tuple[str, Mapping[str, str]]
) -> None:
    user, secrets = how
    # Which operation it is makes no difference to what runs; one of each kind of rights.
    operations = {operation.rights: operation for operation in BY_PASSPHRASE}.values()
    for operation in operations:
        refuse(database, operation, user, **secrets)
    assert sorted(costs.string_to_keys) == sorted(REFUSAL * len(operations))
    assert costs.hashes == []


def test_a_key_user_who_is_no_administrator_of_it_costs_as_much(
    database: Database, costs: Costs
) -> None:
    for operation in FOR_KEY_ADMINS:
        for passphrase in ("plain-k-pw", "wrong"):
            costs.string_to_keys.clear()
            refuse(database, operation, "plain", passphrase=passphrase)
            assert sorted(costs.string_to_keys) == sorted(REFUSAL)


def test_success_by_passphrase_costs_one_string_to_key(database: Database, costs: Costs) -> None:
    for operation in BY_PASSPHRASE:
        granted = ask(database, operation, "admin", passphrase="admin-k-pw")
        assert isinstance(granted, KeyGranted)
        assert granted.passphrase == Secret("the key's own passphrase")
    assert costs == Costs(string_to_keys=OPENING * len(BY_PASSPHRASE))


def test_a_request_without_a_secret_costs_one_or_the_other(
    database: Database, costs: Costs
) -> None:
    for operation in OPERATIONS.values():
        refuse(database, operation, "admin")
    by_password = sum(operation.rights.by_password for operation in OPERATIONS.values())
    assert len(costs.hashes) == by_password
    assert sorted(costs.string_to_keys) == sorted(REFUSAL * (len(OPERATIONS) - by_password))


def test_what_gives_a_right_to_nothing(database: Database, costs: Costs) -> None:
    """A key's passphrase is no password, nor is an administrator's password a passphrase."""
    for operation in {operation.rights: operation for operation in OPERATIONS.values()}.values():
        if operation.rights is Rights.ADMIN:
            refuse(database, operation, "admin", passphrase="admin-k-pw")
        if not operation.rights.by_password:
            refuse(database, operation, "admin", password="admin-pw")
        if operation.rights.by_passphrase:
            refuse(database, operation, "admin", passphrase="admin-pw")
    assert costs.hashes
    assert costs.string_to_keys


# ------------------------------------------------------------------------------- what is watched


@dataclass
class Watched:
    """What was watched: by whom, as whom, for which secret; and whether it was refused."""

    seen: list[tuple[str, str, str, bool]] = field(default_factory=list)

    @contextlib.contextmanager
    def watch(self, client_name: str, user: str, secret: str) -> Iterator[None]:
        """A `Guard`."""
        try:
            yield
        except RequestRefused:
            self.seen.append((client_name, user, secret, True))
            raise
        self.seen.append((client_name, user, secret, False))


def watched(database: Database, op: str, user: str, **how: Any) -> tuple[str, str, str, bool]:
    """What is watched while `user` asks."""
    found = Watched()
    with contextlib.suppress(RequestRefused):
        ask(database, OPERATIONS[op], user, guard=found.watch, **how)
    (one,) = found.seen
    return one


def test_a_wrong_secret_counts_against_certificate_user_and_secret(database: Database) -> None:
    for user in ("admin", "plain", "bare", "odd", "none", "nobody"):
        assert watched(database, "list-users", user, password="wrong") == (user, user, "", True)
        for key in ("k", "nokey"):
            seen = watched(database, "sign-data", user, key=key, passphrase="wrong")
            assert seen == (user, user, key, True)
    # A right password of somebody who is no administrator, too, or it would tell that it is right.
    assert watched(database, "list-users", "plain", password="plain-pw") == (
        "plain", "plain", "", True,
    )  # fmt: skip
    assert watched(database, "list-users", "admin", password="admin-pw") == (
        "admin", "admin", "", False,
    )  # fmt: skip


def test_what_cannot_be_right_counts_against_the_certificate_alone(database: Database) -> None:
    for how in (
        {"certificate": "plain", "password": "admin-pw"},
        {"certificate": "plain", "password": "wrong"},
    ):
        assert watched(database, "list-users", "admin", **how) == ("plain", "", "", True)
    for op in ("list-users", "sign-data"):
        assert watched(database, op, "admin") == ("admin", "", "", True)
        assert watched(database, op, "admin", password="", passphrase="") == (
            "admin", "", "", True,
        )  # fmt: skip


def test_while_a_delay_runs_nothing_is_computed(database: Database, costs: Costs) -> None:
    @contextlib.contextmanager
    def delayed(_client_name: str, _user: str, _secret: str) -> Iterator[None]:
        raise RequestRefused(Status.AUTHENTICATION_FAILED, "wait")
        yield

    for operation in OPERATIONS.values():
        for user in ("admin", "nobody"):
            with pytest.raises(RequestRefused, match="wait"):
                ask(database, operation, user, guard=delayed, password="x", passphrase="x")
    assert costs == Costs()
