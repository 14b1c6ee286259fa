"""Making keys aside: a new key is made in a scratch home, and moves in when it is complete.

Scratch homes are directories `.new-…` in the home itself, so on its file system. Moving in is:
first the secret parts, as further hard links of the scratch home's files, then the public key.
A key counts as being there once its public part is, so what a kill in between leaves is an
incomplete scratch home and perhaps links to its files that no public key names; `remove_leftovers`
takes both away. Whoever uses a scratch home keeps it locked meanwhile.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ...errors import KeystoreError, RequestRefused, SigulError, Status
from ...logevents import tell
from ...system.files import opened, sync, try_lock, write_whole
from ...system.programs import memory_file
from ..log_events import KeystoreLog
from ..storage import locked_keys
from .directory import (
    AGENT_CONFIGURATION_NAME,
    SCRATCH_AGENT_CONFIGURATION,
    forget_short_path,
)
from .locks import locked_home
from .output import ListedKey
from .program import GnuPG

_log = logging.getLogger(__name__)

_PREFIX = ".new-"
_SECRETS = "private-keys-v1.d"
_REVOCATIONS = "openpgp-revocs.d"
#: How long a scratch home may take to vanish, in seconds: its agent is removing its files, too.
_REMOVAL_LIMIT = 10.0


@contextmanager
def scratch_home(home: GnuPG) -> Iterator[GnuPG]:
    """A new, empty GnuPG home to make a key of `home` in; it is gone afterwards."""
    with ExitStack() as cleanup:
        with locked_home(home.path, home.time_limit):  # or remove_leftovers might take it for one
            path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=home.path))
            try_lock(cleanup.enter_context(opened(path)))
        scratch = GnuPG(path, time_limit=home.time_limit)
        cleanup.callback(_remove, scratch)
        write_whole(
            path / AGENT_CONFIGURATION_NAME, SCRATCH_AGENT_CONFIGURATION.encode(), replace=False
        )
        yield scratch


def _remove(scratch: GnuPG) -> None:
    try:
        scratch.stop_agent()
    except SigulError as error:
        tell(_log, KeystoreLog.SCRATCH_AGENT_LEFT, path=str(scratch.path), why=str(error))
    deadline = time.monotonic() + _REMOVAL_LIMIT
    while scratch.path.exists():
        shutil.rmtree(scratch.path, ignore_errors=True)
        if time.monotonic() > deadline:
            tell(_log, KeystoreLog.SCRATCH_HOME_LEFT, path=str(scratch.path))
            return
    forget_short_path(scratch.path)


def move_in(home: GnuPG, scratch: GnuPG, key: ListedKey, *, replace: bool = False) -> None:
    """Put the complete `key` of `scratch` into `home`.

    With `replace` it may take the place of the same key, whose public part stays; what that has of
    secret subkeys and `key` has not, goes: no access opens it. Raises `RequestRefused`
    (already exists) if it, or a part of it, is there; `KeystoreError`
    where anything fails, and then nothing of it is left in `home`.
    """
    public = scratch.export(key.fingerprint, armor=False)
    grips = [part.keygrip for part in key.parts if part.secret]
    with locked_home(home.path, home.time_limit):
        there = home.list_keys()
        same = [other for other in there if other.fingerprint == key.fingerprint and other.secret]
        if replace and same and (key.parts[0].secret or not same[0].parts[0].secret):
            tell(_log, KeystoreLog.GNUPG_KEY_TAKEN_OVER, fingerprint=key.fingerprint)
            public = home.export(key.fingerprint, armor=False) + public
            remove_key(home, key.fingerprint)
            there, same = [other for other in there if other not in same], []
        taken = {part.keygrip for other in there for part in other.parts if part.secret}
        if same or taken.intersection(grips):
            raise RequestRefused(Status.ALREADY_EXISTS, f"key {key.fingerprint} is in the store")
        try:
            _link_secrets(home, scratch, grips)
            _import_public(home, public)
            arrived = home.key(key.fingerprint)
            if arrived is None or not _has_all_of(arrived, key):
                raise KeystoreError(
                    f"key {key.fingerprint} did not arrive complete in {home.path}", "see the log"
                )
            _keep_revocation(home, scratch, key.fingerprint)
            sync_keys(home.path)
        except BaseException:
            try:
                remove_key(home, key.fingerprint)
            finally:
                _unlink_secrets(home, grips)
            raise


def _has_all_of(key: ListedKey, other: ListedKey) -> bool:
    """Whether the secret of each part that `other` has is in `key` as well."""
    return {(part.fingerprint, part.keygrip) for part in other.parts if part.secret} <= {
        (part.fingerprint, part.keygrip) for part in key.parts if part.secret
    }


def _link_secrets(home: GnuPG, scratch: GnuPG, grips: list[str]) -> None:
    directory = home.path / _SECRETS
    directory.mkdir(mode=0o700, exist_ok=True)
    for grip in grips:
        source = secret_file(scratch, grip)
        sync(source)
        # No key there has this part: such a file is what an attempt left that was killed.
        secret_file(home, grip).unlink(missing_ok=True)
        os.link(source, secret_file(home, grip))
    sync(directory)


def _unlink_secrets(home: GnuPG, grips: Iterable[str]) -> None:
    for grip in grips:
        secret_file(home, grip).unlink(missing_ok=True)


def secret_file(home: GnuPG, grip: str) -> Path:
    """Path of the secret part with that keygrip in `home`."""
    return home.path / _SECRETS / f"{grip}.key"


def _import_public(home: GnuPG, public: bytes) -> None:
    with memory_file(public) as descriptor:
        outcome = home.run(["--import"], stdin=descriptor)
    if outcome.returncode:
        raise outcome.failure(f"importing into {home.path}", "check the GnuPG home and its disk")


def _keep_revocation(home: GnuPG, scratch: GnuPG, fingerprint: str) -> None:
    """GnuPG makes a revocation certificate for each new key; keep it where GnuPG would."""
    made = scratch.path / _REVOCATIONS / f"{fingerprint}.rev"
    if made.exists():
        directory = home.path / _REVOCATIONS
        directory.mkdir(mode=0o700, exist_ok=True)
        made.replace(directory / made.name)


def remove_key(home: GnuPG, fingerprint: str) -> None:
    """Delete all of a key, as far as it is there, and make sure that it is gone.

    For a caller who holds the lock. Raises `KeystoreError` if any of it is left.
    """
    key = home.key(fingerprint)
    if key is None:
        return
    if key.secret:
        home.run(["--yes", "--delete-secret-keys", "--", fingerprint])
    # gpg leaves the subkeys' secrets where the primary key has none. They go before the public key,
    # for without that nobody would know whose they are.
    needed = {
        part.keygrip
        for other in home.list_keys()
        if other.fingerprint != fingerprint
        for part in other.parts
    }
    _unlink_secrets(home, {part.keygrip for part in key.parts} - needed)
    outcome = home.run(["--yes", "--delete-keys", "--", fingerprint])
    if home.key(fingerprint) is not None:
        raise outcome.failure(
            f"deleting key {fingerprint} from {home.path}", "delete it by hand, with gpg"
        )
    sync_keys(home.path)


def sync_keys(path: Path) -> None:
    """Have changes to the keys in the home `path` reach the disk."""
    for name in ("pubring.kbx", "pubring.gpg", _SECRETS, "."):
        with suppress(FileNotFoundError):
            sync(path / name)


def remove_leftovers(home: GnuPG) -> None:
    """Remove what was left by processes that were killed while they made keys."""
    with locked_keys(home.path, home.time_limit):
        paths = [path for path in home.path.glob(f"{_PREFIX}*") if path.is_dir()]
        for path in paths:
            with opened(path) as descriptor:
                if try_lock(descriptor):
                    tell(_log, KeystoreLog.SCRATCH_HOME_REMOVED, path=str(path))
                    _remove_links(home, path)
                    _remove(GnuPG(path, time_limit=home.time_limit))


def _remove_links(home: GnuPG, scratch: Path) -> None:
    """Remove the scratch home's secret parts from `home`, where no key has them."""
    known = {part.keygrip for key in home.list_keys() for part in key.parts}
    for left in (scratch / _SECRETS).glob("*.key"):
        linked = secret_file(home, left.stem)
        if left.stem not in known and linked.exists() and linked.samefile(left):
            linked.unlink()
