"""What only a signing server has: its database, its key store, and where they lie."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..config.identity import identity
from ..config.server import ServerSettings
from .layers import Layer, Step, failed, ok, warning
from .report import Check

#: Directories that hold more than a server's state, so that they are no answer to "what to save".
_SHARED: Final = frozenset(map(Path, ("/", "/var", "/var/lib", "/srv", "/opt", "/home", "/root")))


@dataclass
class ServerOwnLook:
    """A server's own layers, besides those that lead to the bridge."""

    settings: ServerSettings

    def steps(self) -> tuple[Step, ...]:
        """The layers, in order."""
        return (
            Step(Layer.SERVER_DATABASE, self.database, (Layer.CONFIGURATION,)),
            Step(Layer.KEY_STORE, self.key_store, (Layer.CONFIGURATION,)),
        )

    def database(self) -> Iterator[Check]:
        """It opens, has a layout that a server takes, and an administrator."""
        from ..database import Database, SchemaState, schema_state, sqlite_url

        url = sqlite_url(self.settings.database_path)
        if self.settings.database_url is not None:
            url = self.settings.database_url.reveal().decode("utf-8")
        state = schema_state(url)
        if state in (SchemaState.MISSING, SchemaState.EMPTY):
            yield failed(
                Layer.SERVER_DATABASE,
                f"there is {state.value}",
                "make it with sigul_server_create_db, and an administrator with"
                " sigul_server_add_admin; or correct database-path",
            )
            return
        if state is SchemaState.NEWER:
            yield failed(
                Layer.SERVER_DATABASE,
                "a newer version of sigul-stack has changed the database",
                "install that version, or restore the backup that it made beside the database",
            )
            return
        if state is SchemaState.LEGACY_NO_KEYTYPE:
            yield warning(
                Layer.SERVER_DATABASE,
                f"it was {state.value}, and is brought up to date when the server starts",
                "sigul-stack database migrate does it now, with a backup",
            )
            return
        with contextlib.closing(Database(url)) as database, database.read() as reader:
            users, keys = reader.users(), reader.keys()
        if not any(user.admin for user in users):
            yield failed(
                Layer.SERVER_DATABASE,
                "there is no administrator in it",
                "make one with sigul_server_add_admin",
            )
            return
        yield ok(
            Layer.SERVER_DATABASE,
            f"it opens (layout: {state.value}), {len(users)} users, {len(keys)} keys",
            users=len(users),
            keys=len(keys),
        )

    def key_store(self) -> Iterator[Check]:
        """The directories are there, the daemon's own, and nobody else's to read."""
        owner = identity(self.settings.unix_user, self.settings.unix_group)
        uid = os.geteuid() if owner is None else owner.uid
        clean = True
        for name, directory, private in self._directories():
            try:
                found = directory.stat()
            except FileNotFoundError:
                continue  # made when the first key is
            if found.st_uid != uid:
                clean = False
                yield warning(
                    Layer.KEY_STORE,
                    f"{name} '{directory}' belongs to UID {found.st_uid}, and the server runs as"
                    f" UID {uid}",
                    f"chown -R {uid} '{directory}', or run this as the server's user",
                )
            elif private and stat.S_IMODE(found.st_mode) & 0o077:
                clean = False
                yield warning(
                    Layer.KEY_STORE,
                    f"others may look into {name} '{directory}'",
                    f"chmod 0700 '{directory}'",
                )
        if clean:
            yield ok(Layer.KEY_STORE, "its directories are the server's own")
        yield self._places()

    def _directories(self) -> Iterator[tuple[str, Path, bool]]:
        yield "gnupg-home", self.settings.gnupg_home, True
        yield "keys-storage", self.settings.keys_storage, True
        if self.settings.spool_directory is not None:
            yield "spool-directory", self.settings.spool_directory, False

    def _places(self) -> Check:
        """A hint for backups: what has to be saved lies in one place, or does not."""
        paths = [self.settings.gnupg_home, self.settings.keys_storage]
        if self.settings.database_url is None:
            paths.append(self.settings.database_path)
        common = Path(os.path.commonpath(paths))
        if common in _SHARED:
            listed = ", ".join(f"'{path}'" for path in paths)
            return ok(Layer.KEY_STORE, f"state lies in several places, save all: {listed}")
        return ok(Layer.KEY_STORE, f"state lies under '{common}': save that")
