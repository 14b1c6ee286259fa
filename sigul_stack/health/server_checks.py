"""Checks of what only a signing server has: its database, its key stores, and where they lie."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..checks import Check, failed, ok, warning
from ..config.identity import identity
from ..config.server import ServerSettings
from ..errors import quoted
from .rooms import disk_check, room
from .steps import DOCTOR, HEALTH, CheckContext, Layer, Mode, Step

#: Directories that hold more than a server's state, so that they are no answer to "what to save".
_SHARED: Final = frozenset(map(Path, ("/", "/var", "/var/lib", "/srv", "/opt", "/home", "/root")))

_DAY_SECONDS: Final = 86400.0
#: Longest wait for somebody's transaction, in seconds: those of a server are over much sooner.
_LOCK_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True)
class ServerChecks:
    """Checks of one server's stores."""

    context: CheckContext[ServerSettings]

    def steps(self) -> tuple[Step, ...]:
        """The layers, in order.

        They come before NSS: some start programs, and no process forks once it has opened NSS.
        """
        deep = HEALTH if self.context.options.deep else frozenset()
        return (
            Step(Layer.SERVER_DATABASE, self.database, (Layer.CONFIGURATION,), DOCTOR | deep),
            Step(Layer.SERVER_DATABASE, self.writable, (Layer.CONFIGURATION,)),
            Step(Layer.KEY_STORE, self.directories, (Layer.CONFIGURATION,), DOCTOR),
            Step(Layer.KEY_STORE, self.room, (Layer.CONFIGURATION,)),
            Step(Layer.DISK, self.disk, (Layer.CONFIGURATION,), HEALTH),
            Step(Layer.KEY_STORE, self.locks, (Layer.CONFIGURATION,)),
            Step(Layer.KEY_STORE, self.prospects, (Layer.SERVER_DATABASE,)),
            Step(Layer.KEY_STORE, self.slow_keys, (Layer.SERVER_DATABASE,)),
            Step(Layer.KEY_STORE, self.keys, (Layer.SERVER_DATABASE,), deep),
            Step(Layer.KEY_STORE, self.left_keys, (Layer.SERVER_DATABASE,), DOCTOR),
            Step(Layer.KEY_STORE, self.keys_for_rpm, (Layer.SERVER_DATABASE,), DOCTOR),
        )

    def database(self) -> Iterator[Check]:
        """Check that it is who it should be, opens, has a layout and an administrator."""
        from ..database import DATABASE_TLS_CURE, schema_report
        from ..server.services import database_url, unproven_database

        url = database_url(self.context.settings)
        if (problem := unproven_database(url)) is not None:
            yield warning(Layer.SERVER_DATABASE, problem, DATABASE_TLS_CURE)
        yield self._content(url)
        for finding in schema_report(url).findings:
            yield warning(Layer.SERVER_DATABASE, finding.problem, finding.cure)

    def _content(self, url: str) -> Check:
        from ..database import Database, SchemaState, schema_state

        state = schema_state(url)
        if state in (SchemaState.MISSING, SchemaState.EMPTY):
            return failed(
                Layer.SERVER_DATABASE,
                f"there is {state.value}",
                "make it with sigul_server_create_db, and an administrator with"
                " sigul_server_add_admin; or restore it from a backup, or correct database-path",
            )
        if state is SchemaState.NEWER:
            return failed(
                Layer.SERVER_DATABASE,
                "a newer version of sigul-stack has changed the database",
                "install that version, or restore the backup that it made beside the database",
            )
        if state is SchemaState.LEGACY_NO_KEYTYPE:
            return warning(
                Layer.SERVER_DATABASE,
                f"it was {state.value}, and is brought up to date when the server starts",
                "sigul-stack database migrate does it now, with a backup",
            )
        with contextlib.closing(Database(url)) as database, database.read() as reader:
            users, keys = reader.users(), reader.keys()
            limited, stray = reader.count_limits()
        if stray:
            return warning(
                Layer.SERVER_DATABASE,
                f"{stray} limits in it are of accesses that are gone, so something else than a"
                " server has changed it",
                "DELETE FROM key_access_limits WHERE key_access_id NOT IN"
                " (SELECT id FROM key_accesses)",
            )
        if not any(user.admin for user in users):
            return failed(
                Layer.SERVER_DATABASE,
                "there is no administrator in it",
                "make one with sigul_server_add_admin",
            )
        found = f"it opens (layout: {state.value}), {len(users)} users, {len(keys)} keys"
        if limited:
            found += f", {limited} accesses with limits"
        if state is SchemaState.LEGACY and self.context.mode is Mode.HEALTH:
            return warning(Layer.SERVER_DATABASE, found, "sigul-stack database migrate renews it")
        return ok(Layer.SERVER_DATABASE, found, users=len(users), keys=len(keys))

    def writable(self) -> Iterator[Check]:
        """Check that the database takes changes: it is not locked, read-only or on a full disk."""
        from ..database import Database
        from ..server.services import database_url

        settings = self.context.settings
        url = database_url(settings)
        if settings.database_url is None:
            if not settings.database_path.exists():
                if self.context.mode is Mode.HEALTH:  # else the look at the database has told
                    yield failed(
                        Layer.SERVER_DATABASE,
                        f"there is no database '{settings.database_path}'",
                        "make it, restore it from a backup, or correct database-path",
                    )
                return
            yield from room("database-path", settings.database_path, Layer.SERVER_DATABASE)
        with (
            contextlib.closing(Database(url, lock_wait=_LOCK_SECONDS)) as database,
            database.write(),
        ):
            pass  # locks it for a moment and changes nothing
        yield ok(Layer.SERVER_DATABASE, "it takes changes")

    def room(self) -> Iterator[Check]:
        """Check that there is room on the file systems of keys and payloads, and none read-only."""
        settings = self.context.settings
        for name, directory in (
            ("gnupg-home", settings.gnupg_home),
            ("keys-storage", settings.keys_storage),
            ("spool-directory", settings.spool_directory),
        ):
            if directory is None:
                continue
            if directory.exists():
                yield from room(name, directory, Layer.KEY_STORE)
            elif name == "spool-directory":
                yield failed(Layer.KEY_STORE, f"there is no {name} '{directory}'", "make it")

    def disk(self) -> Check:
        """Check how much is free where the server's state lies."""
        settings = self.context.settings
        volumes = {
            "key_store": [settings.gnupg_home, settings.keys_storage],
            "spool": [settings.spool_directory or Path(tempfile.gettempdir())],
            "signing_log": [settings.signing_log_directory],
        }
        if settings.database_url is None:
            volumes = {"database": [settings.database_path], **volumes}
        return disk_check(self.context, volumes)

    def locks(self) -> Iterator[Check]:
        """Check that no lock keeps keys from being changed, and that the agent has its memory."""
        from ..keystore.gnupg.directory import small_memory
        from ..keystore.gnupg.locks import foreign_locks

        home = self.context.settings.gnupg_home
        if not home.exists():
            return
        for lock in foreign_locks(home):
            yield failed(Layer.KEY_STORE, lock.finding, lock.cure)
        if self.context.mode is Mode.DOCTOR and (lack := small_memory(home)) is not None:
            yield warning(Layer.KEY_STORE, *lack)

    def prospects(self) -> Iterator[Check]:
        """Look ahead: which keys do not sign, or soon will not, or by another part than meant."""
        from ..database import SchemaState, schema_state
        from ..keystore.foresight import prospects
        from ..server.services import database_url, keys_in_database, make_keystore

        state = schema_state(database_url(self.context.settings))
        if state not in (SchemaState.CURRENT, SchemaState.LEGACY):
            return
        keys = keys_in_database(self.context.settings)
        store = make_keystore(self.context.settings, at_rest=True)
        days, fine, now = self.context.limits.warn_days, True, time.time()
        for seen in prospects(store, keys, now, days):
            if seen.ends is not None:
                left = (seen.ends - now) / _DAY_SECONDS
                self.context.measure("sigul_key_days_left", left, key=seen.key.name)
            for fault in seen.faults:
                fine = False
                yield warning(
                    Layer.KEY_STORE,
                    f"key {quoted(seen.key.name)}: {fault.problem}",
                    fault.cure.replace("KEY", seen.key.name),
                )
        if fine and keys:
            yield ok(Layer.KEY_STORE, f"no key or certificate expires within {days} days")

    def slow_keys(self) -> Iterator[Check]:
        """Warn of keys that take long to open at each signature."""
        from ..database import SchemaState, schema_state
        from ..server.services import database_url, keys_in_database, make_keystore

        state = schema_state(database_url(self.context.settings))
        if state in (SchemaState.CURRENT, SchemaState.LEGACY):
            keys = keys_in_database(self.context.settings)
            for found in make_keystore(self.context.settings, at_rest=True).slow_keys(keys):
                yield warning(Layer.KEY_STORE, found.problem, found.cure)

    def directories(self) -> Iterator[Check]:
        """Check that the directories are the daemon's own, and nobody else's to read."""
        settings = self.context.settings
        owner = identity(settings.unix_user, settings.unix_group)
        uid = os.geteuid() if owner is None else owner.uid
        clean = True
        for name, directory in (
            ("gnupg-home", settings.gnupg_home),
            ("keys-storage", settings.keys_storage),
            ("spool-directory", settings.spool_directory),
        ):
            if directory is None or not directory.exists():
                continue  # made when the first key is
            found = directory.stat()
            if found.st_uid != uid:
                clean = False
                yield warning(
                    Layer.KEY_STORE,
                    f"{name} '{directory}' belongs to UID {found.st_uid}, and the server runs as"
                    f" UID {uid}",
                    f"chown -R {uid} '{directory}', or run this as the server's user",
                )
            elif name != "spool-directory" and stat.S_IMODE(found.st_mode) & 0o077:
                clean = False
                yield warning(
                    Layer.KEY_STORE,
                    f"others may look into {name} '{directory}'",
                    f"chmod 0700 '{directory}'",
                )
        if clean:
            yield ok(Layer.KEY_STORE, "its directories are the server's own")
        yield self._places()

    def _places(self) -> Check:
        """A hint for backups: does what has to be saved lie in one place?"""
        paths = [self.context.settings.gnupg_home, self.context.settings.keys_storage]
        if self.context.settings.database_url is None:
            paths.append(self.context.settings.database_path)
        common = Path(os.path.commonpath(paths))
        if common in _SHARED:
            listed = ", ".join(f"'{path}'" for path in paths)
            return ok(Layer.KEY_STORE, f"state lies in several places, save all: {listed}")
        return ok(Layer.KEY_STORE, f"state lies under '{common}': save that")

    def keys_for_rpm(self) -> Iterator[Check]:
        """Warn of keys whose signatures not every rpm verifies."""
        from ..database import KeyType
        from ..server.services import keys_in_database, make_keystore
        from .key_checks import rpm_checks

        keys = keys_in_database(self.context.settings)
        store = make_keystore(self.context.settings).gnupg
        for key in keys:
            if key.keytype is not KeyType.GNUPG:
                continue
            if (public := store.exported_at_rest(key.fingerprint)) is not None:
                yield from rpm_checks(Layer.KEY_STORE, key.name, public)

    def keys(self) -> Iterator[Check]:
        """Check that the key stores and the database hold the same keys."""
        from ..server.services import keys_in_database, make_keystore

        keys = keys_in_database(self.context.settings)
        store = make_keystore(self.context.settings)
        mismatches = store.check_consistency(keys)
        for item in (*mismatches, *store.odd_rows(keys), *store.weak_keys(keys)):
            yield warning(Layer.KEY_STORE, item.problem, item.cure)
        if not mismatches:
            yield ok(Layer.KEY_STORE, f"the key stores hold the {len(keys)} keys of the database")

    def left_keys(self) -> Iterator[Check]:
        """Warn of keys that are in the stores alone: a `delete-key` of 1.2 may have left them."""
        from ..server.services import keys_in_database, make_keystore

        if not self.context.settings.gnupg_home.exists():
            return  # made at the first start
        keys = keys_in_database(self.context.settings)
        store = make_keystore(self.context.settings, at_rest=True)
        for item in store.check_consistency(keys):
            if item.name is None:
                yield warning(Layer.KEY_STORE, item.problem, item.cure)
        for item in store.odd_rows(keys):
            yield warning(Layer.KEY_STORE, item.problem, item.cure)
