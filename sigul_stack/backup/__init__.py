"""Backups of a signing server: its database and all keys in one tar file, and back.

    manifest.json            what is in it: a SHA-256 of each file, counts, the keys' names
    database/server.sqlite   users, keys, accesses
    gnupg/…, keys/…          the key stores
    configuration/…, nss/…   where asked for

Invariant: a backup is one state of the server, and whoever gets one without an error has
everything that it takes to sign: a backup that lacks the secret part of a key is an error. Nothing
in here opens a key, so no passphrase is needed to make or to check a backup.
"""

from __future__ import annotations

from .archive import read_manifest
from .create import BackupOptions, MadeBackup, create_backup
from .manifest import Manifest
from .restore import RestoreOptions, restore_backup
from .signatures import BackupSigner, BackupVerifier
from .unpack import verify_backup

__all__ = [
    "BackupOptions",
    "BackupSigner",
    "BackupVerifier",
    "MadeBackup",
    "Manifest",
    "RestoreOptions",
    "create_backup",
    "read_manifest",
    "restore_backup",
    "verify_backup",
]
