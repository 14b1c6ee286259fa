"""The note of a key change outlives a crash of the machine, and so does its end."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from sigul_stack.database import Database, sqlite_url
from sigul_stack.database.maintenance import create
from sigul_stack.keystore.gnupg import GnuPGHome
from sigul_stack.keystore.pem import PemStore
from sigul_stack.keystore.store import KeyStore
from sigul_stack.server.keychanges import key_change


@pytest.mark.system
def test_a_note_reaches_the_disk_and_so_does_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "gnupg"
    home.mkdir(mode=0o700)
    store = KeyStore(GnuPGHome(home), PemStore(tmp_path / "pem"))
    store.pem.prepare()
    url = sqlite_url(tmp_path / "server.sqlite")
    create(url)
    synced: list[tuple[str, bool]] = []
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        fsync(descriptor)
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        synced.append((path, (home / "sigul-stack-change.json").exists()))

    monkeypatch.setattr(os, "fsync", recorded)
    with closing(Database(url)) as database:
        with key_change(home, store, database):
            assert (str(home), True) in synced
            synced.clear()
        assert (str(home), False) in synced
