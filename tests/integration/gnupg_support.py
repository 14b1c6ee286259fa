"""What the tests of GnuPG keys share: homes, ready-made keys, and a gpg outside of the store.

Keys are of small curves wherever that does not matter, so that making them takes no time.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from sigul_stack.keystore.envelope import open_envelope
from sigul_stack.keystore.gnupg import GnuPG, GnuPGHome, KeySettings
from sigul_stack.keystore.gnupg.directory import forget_short_path, short_path
from sigul_stack.keystore.gnupg.signature_options import read_options
from sigul_stack.secret import Secret
from sigul_stack.signing.openpgp import OpenPGPKey
from sigul_stack.signing.signers.gnupg_agent import open_in_home
from tests.held_data import held

CURVES = KeySettings("ed25519", 0, "cv25519", 0)

#: The key of the existing site, and a user who has access to it.
LEGACY_KEY = "590E47224B3E643159772BDF3B6BFAAF4F1C07C7"


@contextmanager
def gnupg_home(path: Path, settings: KeySettings = CURVES) -> Iterator[GnuPGHome]:
    """A home that is ready for use; its agent is ended afterwards."""
    home = GnuPGHome(path, settings=settings, time_limit=30)
    home.prepare()
    try:
        yield home
    finally:
        home.stop_agent()
        forget_short_path(path)


def openpgp_key(
    home: GnuPG,
    fingerprint: str,
    passphrase: Secret,
    after_use: Callable[[str], None] = lambda _signer: None,
) -> OpenPGPKey:
    """A key of a home, as a server makes one for a request."""
    return OpenPGPKey(
        partial(open_in_home, home, fingerprint, passphrase),
        read_options(home.path),
        after_use=after_use,
    )


@contextmanager
def legacy_home(path: Path) -> Iterator[GnuPGHome]:
    """A copy of the existing site's home."""
    shutil.copytree(held("legacy-site", "gnupg"), path)
    for directory, _, files in os.walk(path):
        Path(directory).chmod(0o700)
        for file in files:
            (Path(directory) / file).chmod(0o600)
    with gnupg_home(path) as home:
        yield home


def legacy_passphrase(key: str = "release", opened_with: str = "release-pw") -> Secret:
    """The passphrase of a key of the existing site."""
    database = sqlite3.connect(f"file:{held('legacy-site', 'server.sqlite')}?mode=ro", uri=True)
    try:
        ((blob,),) = database.execute(
            "SELECT encrypted_passphrase FROM key_accesses a JOIN keys k ON k.id = a.key_id"
            " WHERE k.name = ? ORDER BY a.id LIMIT 1",
            (key,),
        ).fetchall()
    finally:
        database.close()
    return open_envelope(blob, Secret(opened_with))


class Outside(GnuPG):
    """A person's own gpg, with a home that knows what it is given, and no passphrases."""

    def gpg(self, *arguments: str, data: bytes = b"", passphrase: str = "") -> bytes:
        """Run gpg as people do; it has to succeed."""
        return self.gpg_output(*arguments, data=data, passphrase=passphrase).stdout

    def gpg_output(
        self, *arguments: str, data: bytes = b"", passphrase: str = ""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run gpg as people do; it has to succeed. What it says is in `stderr`."""
        return subprocess.run(
            ["gpg", "--homedir", short_path(self.path), "--batch", "--no-tty",
             "--pinentry-mode", "loopback", f"--passphrase={passphrase}",
             "--trust-model", "always", *arguments],
            input=data, capture_output=True, timeout=60, check=True,
            env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip

    def make_key(self, name: str, passphrase: str = "") -> str:
        """A new key of this person's, with a subkey for encryption; its fingerprint."""
        outcome = self.run(
            [
                "--quick-gen-key",
                f"{name} <{name}@example.org>",
                "future-default",
                "default",
                "never",
            ],
            passphrase=Secret(passphrase),
        )
        (created,) = outcome.status.of("KEY_CREATED")
        return created.arguments[1]

    def export_secret(self, *fingerprints: str, passphrase: str = "", armor: bool = True) -> bytes:
        """Secret keys as a file."""
        return self.gpg(
            *(["--armor"] if armor else []), "--export-secret-keys", *fingerprints,
            passphrase=passphrase,
        )  # fmt: skip


@contextmanager
def outside_home(path: Path, *public: bytes) -> Iterator[Outside]:
    """A person's GnuPG home that has the keys `public`."""
    path.mkdir(mode=0o700)
    # A low count, so that tests spend no time on other people's passphrases.
    (path / "gpg-agent.conf").write_text("s2k-count 65536\n")
    outside = Outside(path, time_limit=30)
    try:
        for key in public:
            outside.gpg("--import", data=key)
        yield outside
    finally:
        outside.stop_agent()
        forget_short_path(path)


def agents(path: Path) -> list[int]:
    """The process numbers of all agents that were started for the home `path`, or one in it."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            command = (process / "cmdline").read_bytes() if process.name.isdigit() else b""
        except OSError:
            continue
        if command.startswith(b"gpg-agent\0") and os.fsencode(path) in command:
            found.append(int(process.name))
    return found
