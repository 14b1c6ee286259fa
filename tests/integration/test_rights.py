"""Every right on every thing, by the table of operations: nothing is told without, nor done after.

No daemons: what a worker does with a request that has arrived, on a real database and key store.
"""

from __future__ import annotations

import contextlib
import datetime
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from sigul_stack.config.server import ServerSettings
from sigul_stack.config.shared import NSSSettings
from sigul_stack.database import AccessLimits, Database, Key, KeyType, create, sqlite_url
from sigul_stack.errors import RequestRefused, Status
from sigul_stack.keystore import envelope
from sigul_stack.keystore.passwords import hash_password
from sigul_stack.keystore.store import new_access
from sigul_stack.protocol.codec import Fields
from sigul_stack.protocol.messages import ReplyKeys
from sigul_stack.protocol.operations import OPERATIONS, Form, Operation
from sigul_stack.protocol.rights import Object, Rights, Thing
from sigul_stack.protocol.versions import LATEST
from sigul_stack.secret import Secret
from sigul_stack.server.ending import Watch
from sigul_stack.server.handlers import HANDLERS
from sigul_stack.server.request import Request
from sigul_stack.server.rights import Granted, KeyGranted, authorise, require_still
from sigul_stack.server.services import RequestContext, Services, make_services
from sigul_stack.signing import x509
from sigul_stack.signing.signers.pem import PemSigner
from sigul_stack.system.pipes import ParentPipes
from sigul_stack.transport import memory
from sigul_stack.transport.chunked import ChunkedStream
from tests.fork_server import FEW_BYTES
from tests.wire import payload_of

pytestmark = pytest.mark.once("rights and the database")

#: What a field that names nothing may hold.
VALUES = {
    Form.TEXT: "text", Form.UNICODE: "CN=Text", Form.IDENTIFIER: "free", Form.FILENAME: "a0",
    Form.YEARS: "1y", Form.CERTIFICATE_TYPE: "ca",
}  # fmt: skip
#: Things of others, and things that are not there, by what they are.
THEIRS = {Thing.USER: "somebody", Thing.KEY: "theirs", Thing.CERTIFICATE: "taken"}
NOWHERE = {Thing.USER: "nobody", Thing.KEY: "nowhere", Thing.CERTIFICATE: "free"}


@pytest.fixture(scope="module", autouse=True)
def little_hashing() -> Iterator[None]:
    """Envelopes that take little time to make and to open; they say so themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envelope, "_CODED_COUNT", FEW_BYTES)
        yield


@contextlib.contextmanager
def services_in(directory: Path) -> Iterator[Services]:
    """A server's, with whatever database and keys are in its directory."""
    settings = ServerSettings(
        bridge_hostname="bridge.example.org",
        database_path=directory / "server.sqlite",
        gnupg_home=directory / "gnupg",
        keys_storage=directory / "keys",
        spool_directory=directory,
        nss=NSSSettings(directory="sql:/nowhere"),
    )
    with contextlib.closing(Database(sqlite_url(settings.database_path))) as database:
        made = make_services(settings, database)
        made.keystore.prepare()
        try:
            yield made
        finally:
            # Hundreds of them would hold all that the machine has for watching files.
            made.keystore.gnupg.stop_agent()


@pytest.fixture(scope="module")
def filled(little_hashing: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a server that has what `services` says; each test has a copy."""
    directory = tmp_path_factory.mktemp("filled") / "server"
    (directory / "gnupg").mkdir(mode=0o700, parents=True)
    create(sqlite_url(directory / "server.sqlite"))
    with services_in(directory) as made:
        secret = Secret("a key's own passphrase")
        keys = {
            "gnupg": (KeyType.GNUPG, "0" * 40, "trent"),
            "ECC": (KeyType.ECC, made.keystore.pem.generate(KeyType.ECC, secret), "trent"),
            "theirs": (KeyType.ECC, made.keystore.pem.generate(KeyType.ECC, secret), "root"),
        }
        sealed = new_access(secret, Secret("passphrase"), (), made.registry)
        with made.database.write() as writer:
            for name, admin in (("trent", False), ("root", True), ("somebody", False)):
                writer.add_user(name, hash_password(Secret("password")), admin)
            for name, (keytype, fingerprint, owner) in keys.items():
                writer.add_key(name, keytype, fingerprint)
                writer.add_access(owner, name, sealed, key_admin=True)
            writer.add_access("root", "ECC", sealed, key_admin=True)
        for name, certificate in (("theirs", "taken"), ("ECC", "own")):
            issue(made, keys[name][1], secret, certificate)
    return directory


@pytest.fixture
def services(filled: Path, tmp_path: Path) -> Iterator[Services]:
    """A server's: users trent (`password`; has the keys `gnupg` and `ECC`), root and somebody.

    root's key `theirs` has a certificate `taken`. Keys' passphrases are `passphrase`.
    """
    directory = tmp_path / "server"
    shutil.copytree(filled, directory, ignore=shutil.ignore_patterns("S.*"))
    with services_in(directory) as made:
        yield made


def issue(services: Services, fingerprint: str, secret: Secret, name: str) -> None:
    store = services.keystore.pem
    certificate = x509.issue(
        store.public(fingerprint),
        PemSigner(store.load(fingerprint, secret)),
        None,
        subject="CN=Test",
        kind=x509.CertificateType.CA,
        years=1,
        now=datetime.datetime.now(datetime.UTC),
    )
    store.add_certificate(fingerprint, name, certificate)


def own_key(operation: Operation) -> str:
    """The key of trent's that the operation is for."""
    return "gnupg" if operation.key_types == {"gnupg"} else "ECC"


def ask(
    operation: Operation, services: Services, named: Mapping[str, str], **secrets: str
) -> Request:
    """trent's request, where `named` are the fields that matter."""
    fields = {
        item.name: THEIRS[item.thing] if item.thing else VALUES[item.form]
        for item in operation.fields
        if item.required
    }
    values = {"op": operation.name, "user": "trent", **fields, **named}
    needed = dict.fromkeys(operation.secrets, "another passphrase")
    return Request(
        version=LATEST,
        operation=operation,
        fields=Fields({name: LATEST.encode_value(value) for name, value in values.items()}),
        secrets=Fields({name: text.encode() for name, text in {**needed, **secrets}.items()}),
        keys=ReplyKeys(bytes(64), bytes(64)),
        payload=payload_of(b"a payload"),
        client_name="trent",
    )


def granted(services: Services, request: Request) -> Granted:
    return authorise(request, services.database, services.registry, services.name_check)


def let_in(services: Services, request: Request) -> RequestContext:
    """The request as a handler gets it; nobody watches its rights meanwhile."""
    near, _far = memory.pair()
    watch = Watch(ChunkedStream(near, 1), ParentPipes(control=-1, events=-1), services.database)
    return RequestContext(request, granted(services, request), services, watch)


# ------------------------------------------------------------------------- nothing is told


def lacking(operation: Operation, item: Object) -> list[dict[str, str]]:
    """The ways in which trent may ask without the right on a thing: named fields and secrets."""
    if item.key_field != operation.key_field:
        # He has the right to the operation itself.
        fields = {operation.key_field: own_key(operation), "passphrase": "passphrase"}
        return [{**fields, **({item.opened_by: "passphrase"} if item.opened_by else {})}]
    ways = []
    if operation.rights.by_passphrase:
        ways.append({operation.key_field: "theirs", "passphrase": "passphrase"})
    if operation.rights.by_password:
        ways.append({"password": "password"})
    return ways


@pytest.mark.parametrize(
    ("operation", "item"),
    [
        pytest.param(operation, item, id=f"{operation.name}-{item.field}")
        for operation in OPERATIONS.values()
        for item in operation.objects
    ],
)
def test_without_the_right_on_a_thing_nobody_learns_whether_it_is_there(
    services: Services, operation: Operation, item: Object, monkeypatch: pytest.MonkeyPatch
) -> None:
    work: list[bool] = []
    derive = envelope._StringToKey.derive

    def counted(self: envelope._StringToKey, passphrase: Secret, key_bytes: int) -> bytes:
        work.append(True)
        return derive(self, passphrase, key_bytes)

    monkeypatch.setattr(envelope._StringToKey, "derive", counted)
    names = {field.name for field in operation.fields}
    for way in lacking(operation, item):
        costs = []
        for value in (THEIRS[item.thing], NOWHERE[item.thing]):
            named = {name: text for name, text in way.items() if name in names}
            secrets = {name: text for name, text in way.items() if name not in names}
            work.clear()
            with pytest.raises(RequestRefused) as refused:
                granted(
                    services,
                    ask(operation, services, {**named, item.field: value}, **secrets),
                )
            assert refused.value.status == Status.AUTHENTICATION_FAILED
            assert refused.value.message is None
            costs.append(len(work))
        assert costs[0] == costs[1]


def test_where_the_option_is_not_set_no_access_is_asked_for(services: Services) -> None:
    operation = OPERATIONS["sign-certificate"]
    fields = {"issuer-key": "ECC", "subject-key": "theirs"}
    request = ask(operation, services, fields, passphrase="passphrase")
    found = authorise(
        request, services.database, services.registry, services.name_check, with_accesses=False
    )
    assert not found.further
    # One's own key needs no second right either way.
    fields["subject-key"] = "ECC"
    assert not granted(services, ask(operation, services, fields, passphrase="passphrase")).further


# --------------------------------------------------------------------- nothing outlasts its end


def demoted(services: Services, _key: str) -> None:
    with services.database.write() as writer:
        writer.modify_user("trent", admin=False)


def other_password(services: Services, _key: str) -> None:
    with services.database.write() as writer:
        writer.modify_user("trent", password_hash=hash_password(Secret("another")))


def renamed(services: Services, _key: str) -> None:
    with services.database.write() as writer:
        writer.modify_user("trent", new_name="tristan")


def revoked(services: Services, key: str) -> None:
    with services.database.write() as writer:
        writer.delete_access("trent", key, keep_last=False)


def other_passphrase(services: Services, key: str) -> None:
    with services.database.write() as writer:
        writer.modify_access("trent", key, encrypted_passphrase=b"another")


def no_key_admin(services: Services, key: str) -> None:
    with services.database.write() as writer:
        writer.modify_access("trent", key, key_admin=False)


def limited(services: Services, key: str) -> None:
    with services.database.write() as writer:
        writer.modify_access("trent", key, limits=AccessLimits(frozenset({"decrypt"})))


def replaced(services: Services, key: str) -> None:
    """The key is another one, with the same name, the same access and, in SQLite, the number."""
    with services.database.write() as writer:
        access = writer.access("trent", key)
        assert access is not None
        writer.delete_key(key)
        writer.add_key(key, access.key.keytype, "f" * 40)
        writer.add_access("trent", key, access.encrypted_passphrase, key_admin=True)


#: What ends an administrator's right, what a key user's, and what a key administrator's only.
ENDS: dict[str, tuple[Callable[[Services, str], None], ...]] = {
    "password": (demoted, other_password, renamed),
    "passphrase": (revoked, other_passphrase, limited, replaced, renamed),
    "key admin": (no_key_admin,),
}
#: Those whose payload or key a test of rights does not have; the gate of
#: tests/hostile/test_rights.py stands before what they all sign with.
NOT_HERE = {
    "decrypt", "sign-git-tag", "sign-container", "sign-ostree", "sign-rpm", "sign-rpms", "sign-pe"
}  # fmt: skip


def withdrawals() -> Iterator[tuple[Operation, str, Callable[[Services, str], None]]]:
    for operation in OPERATIONS.values():
        if operation.name in NOT_HERE:
            continue
        if operation.rights.by_password:
            yield from ((operation, "password", end) for end in ENDS["password"])
        if operation.rights.by_passphrase:
            ends = ENDS["passphrase"]
            if operation.rights.needs_key_admin:
                ends += ENDS["key admin"]
            for end in ends:
                # No limit takes these two.
                if not (
                    end is limited and operation.name in ("change-passphrase", "get-public-key")
                ):
                    yield operation, "passphrase", end


def state(services: Services) -> object:
    """What the server has: accesses, keys, certificates."""
    with services.database.read() as reader:
        users = reader.users()
        keys = reader.keys()
        accesses = [reader.access(user.name, key.name) for user in users for key in keys]
    files = sorted(path.name for path in services.settings.keys_storage.iterdir())
    return users, keys, accesses, files


@pytest.mark.parametrize(
    ("operation", "by", "end"),
    [
        pytest.param(*case, id=f"{case[0].name}-{case[1]}-{case[2].__name__}")
        for case in withdrawals()
    ],
)
def test_what_was_let_in_is_not_done_once_the_right_is_gone(
    services: Services, operation: Operation, by: str, end: Callable[[Services, str], None]
) -> None:
    if by == "password":
        with services.database.write() as writer:
            writer.modify_user("trent", admin=True)
    key = own_key(operation)
    named = {
        item.field: {
            Thing.KEY: "new" if operation.name in ("new-key", "import-key") else key,
            Thing.USER: "new" if operation.name == "new-user" else "somebody",
            Thing.CERTIFICATE: "own" if item.field == "cert-name" else "free",
        }[item.thing]
        for item in operation.objects
        if item.field in {field.name for field in operation.fields if field.required}
    }
    if operation.name in ("key-user-info", "modify-key-user", "revoke-key-access"):
        named["name"] = "root"
        named["key"] = "ECC"
        key = "ECC"
    if operation.name in ("new-key", "import-key"):
        named |= {"keytype": "ECC", "initial-key-admin": "root"}
    request = ask(operation, services, named, **{by: by})
    context = let_in(services, request)
    end(services, key)
    before = state(services)
    with pytest.raises(RequestRefused) as refused:
        HANDLERS[operation.name](context)
        # As the worker does before it answers.
        assert not context.changed
        context.require_still()
    if operation.name != "import-key":
        assert refused.value.status == Status.AUTHENTICATION_FAILED
        assert refused.value.message is None
    assert state(services) == before


def test_a_right_on_a_further_key_ends_as_well(services: Services) -> None:
    with services.database.write() as writer:
        writer.add_access("trent", "theirs", b"sealed", key_admin=False)
    fields = {"issuer-key": "ECC", "subject-key": "theirs"}
    request = ask(OPERATIONS["sign-certificate"], services, fields, passphrase="passphrase")
    found = granted(services, request)
    require_still(found, services.database)
    with services.database.write() as writer:
        writer.delete_access("trent", "theirs")
    with pytest.raises(RequestRefused) as refused:
        require_still(found, services.database)
    assert refused.value.status == Status.AUTHENTICATION_FAILED


def test_what_a_request_ended_itself_is_answered(services: Services) -> None:
    request = ask(
        OPERATIONS["change-passphrase"], services, {"key": "ECC"}, passphrase="passphrase"
    )
    context = let_in(services, request)
    HANDLERS["change-passphrase"](context)
    assert context.changed
    assert isinstance(context.granted, KeyGranted)
    assert isinstance(context.granted.key, Key)
    assert Rights.ACCESS not in {operation.rights for operation in OPERATIONS.values()}


def test_no_handler_writes_without_a_look_at_the_right() -> None:
    handlers = Path(__file__).parents[2] / "sigul_stack/server/handlers"
    for path in handlers.glob("*.py"):
        assert "database.write(" not in path.read_text(), path
