"""The server's queries of its database, and the changes that it makes there.

`Database.read()` and `Database.write()` give a `Reader` or a `Writer` for one transaction. Keep
the block short: no passphrase is tried and nothing is signed inside one, for others wait.

What is missing, or there already, is said with the reply's status by the statement that met
it, inside the transaction: a check in an earlier transaction would be out of date when another
worker is quicker.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError

from sigul_stack.database.engine import LOCK_WAIT_SECONDS, Engine, Purpose
from sigul_stack.database.failures import INSUFFICIENT_PRIVILEGE, is_unique_violation
from sigul_stack.database.records import UNLIMITED, AccessLimits, Key, KeyAccess, KeyType, User
from sigul_stack.database.schema import (
    access_limits,
    has_limits,
    key_accesses,
    keys,
    make_limits,
    users,
)
from sigul_stack.database.target import parse
from sigul_stack.errors import RequestRefused, Status, quoted

_USER = (users.c.name, users.c.sha512_password, users.c.admin)
_KEY = (keys.c.name, keys.c.keytype, keys.c.fingerprint)


class Reader:
    """Questions to the database, all answered from the same state of it.

    Names are compared byte for byte, and lists sorted so.
    """

    def __init__(self, connection: sa.Connection, label: str) -> None:
        self._connection = connection
        self._label = label

    def user(self, name: str) -> User | None:
        """The user `name`, or None."""
        row = self._connection.execute(sa.select(*_USER).where(users.c.name == name)).first()
        return None if row is None else _user(*row)

    def users(self) -> list[User]:
        """All users, sorted by name."""
        rows = self._connection.execute(sa.select(*_USER))
        # Sorted here because PostgreSQL would sort by its locale.
        return sorted((_user(*row) for row in rows), key=lambda user: user.name)

    def key(self, name: str) -> Key | None:
        """The key `name`, or None."""
        row = self._connection.execute(sa.select(*_KEY).where(keys.c.name == name)).first()
        return None if row is None else _key(*row)

    def keys(self) -> list[Key]:
        """All keys, sorted by name."""
        rows = self._connection.execute(sa.select(*_KEY))
        return sorted((_key(*row) for row in rows), key=lambda key: key.name)

    def access(self, user: str, key: str) -> KeyAccess | None:
        """The access of `user` to `key`; None where user, key or access are missing."""
        row = self._connection.execute(
            sa.select(
                *_KEY,
                key_accesses.c.encrypted_passphrase,
                key_accesses.c.key_admin,
                key_accesses.c.id,
            )
            .select_from(_ACCESSES)
            .where(users.c.name == user, keys.c.name == key)
        ).first()
        if row is None:
            return None
        sealed, key_admin, access_id = row[3:]
        return KeyAccess(user, _key(*row[:3]), sealed, key_admin, self._limits(access_id))

    def _limits(self, access_id: int) -> AccessLimits:
        if not has_limits(self._connection):
            return UNLIMITED
        row = self._connection.execute(
            sa.select(access_limits.c.operations, access_limits.c.rpm_names).where(
                access_limits.c.key_access_id == access_id
            )
        ).first()
        if row is None:
            return UNLIMITED
        operations, rpm_names = (None if text is None else text.split(",") for text in row)
        return AccessLimits(
            None if operations is None else frozenset(operations),
            None if rpm_names is None else tuple(rpm_names),
        )

    def count_limits(self) -> tuple[int, int]:
        """The number of accesses that are limited, and of limits whose access is not there."""
        if not has_limits(self._connection):
            return 0, 0
        there = access_limits.c.key_access_id.in_(sa.select(key_accesses.c.id))
        return self._count(access_limits, there), self._count(access_limits, ~there)

    def key_users(self, key: str) -> list[str]:
        """The names of all users with access to `key`, sorted; none where there is no such key."""
        return sorted(
            self._connection.scalars(
                sa.select(users.c.name).select_from(_ACCESSES).where(keys.c.name == key)
            )
        )

    def count_accesses(self, user: str) -> int:
        """The number of keys that `user` has access to."""
        return self._count(_ACCESSES, users.c.name == user)

    def _count(self, rows: sa.FromClause, *which: sa.ColumnElement[bool]) -> int:
        count = sa.select(sa.func.count()).select_from(rows).where(*which)
        return self._connection.execute(count).scalar_one()


def _key(name: object, keytype: object, fingerprint: object) -> Key:
    """The record of a row, whatever is in it: an odd one must not spoil the others."""
    word = _text(keytype)
    kind = KeyType(word) if word in _KNOWN_KINDS else word
    return Key(_text(name), kind, _text(fingerprint))


_KNOWN_KINDS = frozenset(kind.value for kind in KeyType)


def _text(value: object) -> str:
    """A value as text: SQLite keeps whatever it was given, in columns of any type."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _user(name: str, password_hash: bytes | str | None, admin: bool) -> User:
    if isinstance(password_hash, str):
        # SQLite keeps what it is given: somebody set a password by hand, as text.
        password_hash = password_hash.encode()
    return User(name, password_hash, admin)


_ACCESSES = key_accesses.join(users, key_accesses.c.user_id == users.c.id).join(
    keys, key_accesses.c.key_id == keys.c.id
)


class Writer(Reader):
    """Changes to the database, made all together when the block ends, or not at all.

    Every method raises `RequestRefused` with the status that a request gets as its answer:
    USER_NOT_FOUND, KEY_NOT_FOUND or KEY_USER_NOT_FOUND (looked for in this order) where what it
    is to work on is missing, ALREADY_EXISTS where what it is to make is there, UNKNOWN_ERROR with
    a message where no other status says it. A block may catch that and go on; any other error must
    leave the block, for nothing of it can be kept.
    """

    def add_user(self, name: str, password_hash: bytes | None, admin: bool) -> None:
        """Add a user; `password_hash` as in `User`."""
        self._store(users.insert().values(name=name, sha512_password=password_hash, admin=admin))

    def modify_user(
        self,
        name: str,
        *,
        new_name: str | None = None,
        password_hash: bytes | None = None,
        admin: bool | None = None,
    ) -> None:
        """Change what is given of the user `name`; None leaves a thing as it is.

        Refuses to make the last administrator an ordinary user.
        """
        values = _given(name=new_name, sha512_password=password_hash, admin=admin)
        row = self._user_id(name)
        if admin is False:
            self._require_another_administrator(name)
        if values:
            self._store(users.update().where(users.c.id == row).values(values))

    def delete_user(self, name: str) -> None:
        """Delete a user who has access to no key; else raises USER_HAS_KEY_ACCESSES.

        Refuses to delete the last administrator.
        """
        row = self._user_id(name)
        if self.count_accesses(name):
            raise RequestRefused(Status.USER_HAS_KEY_ACCESSES)
        self._require_another_administrator(name)
        self._connection.execute(users.delete().where(users.c.id == row))

    def add_key(self, name: str, keytype: KeyType, fingerprint: str) -> None:
        """Add a key; neither its name nor its fingerprint may be another key's."""
        self._store(keys.insert().values(name=name, keytype=keytype.value, fingerprint=fingerprint))

    def rename_key(self, name: str, new_name: str) -> None:
        """Give the key `name` another name."""
        row = self._key_id(name)
        self._store(keys.update().where(keys.c.id == row).values(name=new_name))

    def delete_key(self, name: str) -> None:
        """Delete a key and every access to it."""
        row = self._key_id(name)
        self._connection.execute(key_accesses.delete().where(key_accesses.c.key_id == row))
        self._connection.execute(keys.delete().where(keys.c.id == row))

    def add_access(
        self,
        user: str,
        key: str,
        encrypted_passphrase: bytes,
        key_admin: bool,
        limits: AccessLimits = UNLIMITED,
    ) -> None:
        """Give `user` access to `key`, within `limits`."""
        self._store(
            key_accesses.insert().values(
                user_id=self._user_id(user),
                key_id=self._key_id(key),
                encrypted_passphrase=encrypted_passphrase,
                key_admin=key_admin,
            )
        )
        if limits:
            self._limit(self._access_id(user, key)[0], limits)

    def modify_access(
        self,
        user: str,
        key: str,
        *,
        encrypted_passphrase: bytes | None = None,
        key_admin: bool | None = None,
        limits: AccessLimits | None = None,
    ) -> None:
        """Change what is given of an access; None leaves a thing as it is."""
        values = _given(encrypted_passphrase=encrypted_passphrase, key_admin=key_admin)
        row, _ = self._access_id(user, key)
        if limits is not None:
            self._limit(row, limits)
        if values:
            self._store(key_accesses.update().where(key_accesses.c.id == row).values(values))

    def delete_access(self, user: str, key: str, *, keep_last: bool = True) -> None:
        """Take `user`'s access to `key` away.

        With `keep_last`, raises ONLY_ONE_KEY_USER where nobody would be left who can use the
        key: its passphrase would be lost for good.
        """
        row, key_id = self._access_id(user, key)
        if keep_last and self._count(key_accesses, key_accesses.c.key_id == key_id) == 1:
            raise RequestRefused(Status.ONLY_ONE_KEY_USER)
        self._connection.execute(key_accesses.delete().where(key_accesses.c.id == row))

    def _limit(self, access_id: int, limits: AccessLimits) -> None:
        """Have the access limited so, and no further; makes the table for that where needed."""
        if not limits and not has_limits(self._connection):
            return
        try:
            make_limits(self._connection)
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != INSUFFICIENT_PRIVILEGE:
                raise
            raise RequestRefused(
                Status.UNKNOWN_ERROR,
                "the server's database user may not make the table 'key_access_limits', which"
                " limits of accesses need; have it own the other tables, and GRANT CREATE ON SCHEMA"
                " public to it",
            ) from error
        self._connection.execute(
            access_limits.delete().where(access_limits.c.key_access_id == access_id)
        )
        if limits:
            self._connection.execute(
                access_limits.insert().values(
                    key_access_id=access_id,
                    operations=_listed(limits.operations),
                    rpm_names=_listed(limits.rpm_names),
                )
            )

    def _require_another_administrator(self, name: str) -> None:
        """Raise UNKNOWN_ERROR where nobody could administer any more without the user `name`."""
        user = self.user(name)
        # Who has no password is an administrator by name alone.
        others = (users.c.name != name, users.c.admin, users.c.sha512_password.is_not(None))
        if user is not None and user.admin and not self._count(users, *others):
            raise RequestRefused(
                Status.UNKNOWN_ERROR,
                f"{quoted(name, 60)} is the last administrator who has a password; make"
                " another one first",
            )

    def _user_id(self, name: str) -> int:
        return self._id(users, users.c.name == name, Status.USER_NOT_FOUND)

    def _key_id(self, name: str) -> int:
        return self._id(keys, keys.c.name == name, Status.KEY_NOT_FOUND)

    def _access_id(self, user: str, key: str) -> tuple[int, int]:
        """The ids of an access and of its key."""
        user_id, key_id = self._user_id(user), self._key_id(key)
        held = sa.and_(key_accesses.c.user_id == user_id, key_accesses.c.key_id == key_id)
        return self._id(key_accesses, held, Status.KEY_USER_NOT_FOUND), key_id

    def _id(self, table: sa.Table, which: sa.ColumnElement[bool], missing: Status) -> int:
        """The id of the row of `table` that is `which`. Raises `RequestRefused` without one."""
        row: int | None = self._connection.scalar(sa.select(table.c.id).where(which))
        if row is None:
            raise RequestRefused(missing)
        return row

    def _store(self, statement: sa.Insert | sa.Update) -> None:
        """Run `statement`, which may meet a row that is there already."""
        # Without a savepoint PostgreSQL would refuse all that follows in the transaction. After
        # any other error it is left alone: the whole transaction ends, and a full disk has
        # ended it already.
        savepoint = self._connection.begin_nested()
        try:
            self._connection.execute(statement)
        except IntegrityError as error:
            savepoint.rollback()
            if is_unique_violation(error):
                raise RequestRefused(Status.ALREADY_EXISTS) from error
            raise
        savepoint.commit()


def _listed(names: Iterable[str] | None) -> str | None:
    return None if names is None else ",".join(sorted(names))


def _given(**values: object) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}


class Database:
    """The database at `url` (see `sqlite_url` for files); opened anew for each transaction.

    Waits at most `lock_wait` seconds for other processes that write. Raises `DatabaseError`
    where the URL is of no use; whether the database can be used is for `ensure_usable` to say.
    """

    def __init__(self, url: str, *, lock_wait: float = LOCK_WAIT_SECONDS) -> None:
        self._engine = Engine(parse(url), lock_wait=lock_wait)

    @contextmanager
    def read(self) -> Iterator[Reader]:
        """A transaction that only reads. Raises `DatabaseError`."""
        with self._engine.transaction(Purpose.READ) as connection:
            yield Reader(connection, self._engine.target.label)

    @contextmanager
    def write(self) -> Iterator[Writer]:
        """A transaction that may write: committed at the end, rolled back on any exception.

        Raises `DatabaseError`; then nothing was changed.
        """
        with self._engine.transaction(Purpose.WRITE) as connection:
            yield Writer(connection, self._engine.target.label)

    def compile_for_requests(self) -> None:
        """Have what each request asks compiled before it comes, and before processes are forked."""

        def ask(connection: sa.Connection) -> None:
            reader = Reader(connection, self._engine.target.label)
            reader.user("")
            reader.users()
            reader.key("")
            reader.keys()
            reader.access("", "")
            reader._limits(0)

        self._engine.compile(ask)

    def close(self) -> None:
        """Let go of what the database object holds."""
        self._engine.close()
