"""Keys that take long to open at each signature, as other programs make them, become quick ones."""

from __future__ import annotations

import io
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sigul_stack.errors import KeystoreError, WrongPassphrase
from sigul_stack.keystore.gnupg import GnuPGHome
from sigul_stack.keystore.gnupg.protection import BYTES_PER_SECOND, SLOW_BYTES, hashed_bytes
from sigul_stack.secret import Secret
from tests.site import module

from .commands_support import done
from .gnupg_support import (
    LEGACY_KEY,
    Outside,
    gnupg_home,
    legacy_home,
    legacy_passphrase,
    openpgp_key,
)
from .test_legacy_site import ALL_USERS, legacy_site

PASSPHRASE = Secret.random(64)
#: What an agent of today takes on a machine of today, about: a tenth of a second.
SLOW_COUNT = 60_000_000


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[tuple[GnuPGHome, str]]:
    """A home with a key, and its subkey, made by a gpg that was told of no count of ours."""
    with gnupg_home(tmp_path / "gnupg") as home:
        yield home, made_slow(home, PASSPHRASE)


def made_slow(home: GnuPGHome, passphrase: Secret) -> str:
    """A new key in a home, whose agent takes long to open it; its fingerprint."""
    configuration = home.path / "gpg-agent.conf"
    ours = configuration.read_text()
    configuration.write_text(f"{ours}s2k-count {SLOW_COUNT}\n")
    home.stop_agent()
    try:
        return Outside(home.path).make_key("slow", passphrase.reveal().decode())
    finally:
        configuration.write_text(ours)
        home.stop_agent()


def counts(home: GnuPGHome) -> list[int]:
    return [hashed_bytes(path.read_bytes()) for path in home.path.glob("private-keys-v1.d/*.key")]


def signs(home: GnuPGHome, key: str) -> None:
    """It signs by its passphrase, and by no other one; its subkey is as good."""
    assert openpgp_key(home, key, PASSPHRASE).detached_signature(io.BytesIO(b"x"))
    with pytest.raises(WrongPassphrase):
        openpgp_key(home, key, Secret.random(64)).detached_signature(io.BytesIO(b"x"))
    (found,) = home.listed([key])
    for part in found.parts:
        with home.agent() as agent:
            agent.verify(part.keygrip, PASSPHRASE)


def test_a_slow_key_becomes_a_quick_one(slow: tuple[GnuPGHome, str]) -> None:
    home, key = slow
    assert len(counts(home)) == 2
    assert min(counts(home)) >= SLOW_BYTES
    seconds = home.opening_seconds()
    assert seconds == {key: max(counts(home)) / BYTES_PER_SECOND}
    assert home.hasten(key, PASSPHRASE)
    assert 0 < max(counts(home)) < SLOW_BYTES
    assert home.opening_seconds() == {}
    signs(home, key)
    # There is nothing left to do, and nothing left behind.
    assert not home.hasten(key, PASSPHRASE)
    assert not list(home.path.glob(".new-*"))
    assert all(
        path.stat().st_mode & 0o777 == 0o600 for path in home.path.glob("private-keys-v1.d/*.key")
    )


@pytest.mark.parametrize(
    "content",
    [
        b"(21:protected-private-key(3:rsa(1:n1:x)(9:protected25:openpgp-s2k3-sha1-aes-cbc"
        b"((4:sha18:\n )\"#|(\\8:60000000)16:0123456789abcdef)4:more)))",
        *(
            b"Created: x\nKey: (protected-private-key (ecc (q\n  #40#)\n (protected openpgp-s2k3-"
            b"\n ocb-aes ((sha1 " + salt + b"\n  \"600000\n 00\")#A37F#)#63CB#)))\n"
            for salt in (
                b"#A1B2C3D4E5\n F60718#", b"|AAECAwQFBgc=|", b"saltsalt",
                b'"q\xd3B\xbe)\xae\xfb\xc9"', b'"n9\xb0\\"\xebJ\xd3\\""',
                b'"\\\'\\v\xbc\xda\xf9\xb1\xf5\xdb"', b'"#pK\xff\xac\xb3\xbbR"',
            )
        ),
    ],
)  # fmt: skip
def test_every_form_of_a_file_tells_how_much_work_it_is(content: bytes) -> None:
    assert hashed_bytes(content) == SLOW_COUNT
    assert hashed_bytes(content[: content.index(b"600000")]) == 0


#: Has a key of the home that it is given made quick, and is killed where that comes to `moment`:
#: a slow file is copied aside, or was written anew there; a file is about to move into its place
#: and `number` did, or so many have.
KILLED = """
import os, signal, sys
from pathlib import Path
from sigul_stack.keystore.gnupg import GnuPGHome
from sigul_stack.keystore.gnupg.agent import AgentConnection
from sigul_stack.secret import Secret
home, key, moment, number = sys.argv[1:]
replace, places = Path.replace, []
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
def moving(source, target):
    if target.suffix == ".key":
        if moment == "moving" and len(places) == int(number):
            die()
        places.append(target)
    found = replace(source, target)
    if moment == "moved" and len(places) == int(number):
        die()
    return found
Path.replace = moving
if moment == "copied":
    AgentConnection.change_passphrase = die
elif moment == "written":
    AgentConnection.verify = die
GnuPGHome(Path(home), time_limit=30).hasten(key, Secret(sys.stdin.buffer.read()))
"""


@pytest.mark.parametrize(
    ("moment", "number"),
    [("copied", 0), ("written", 0), ("moving", 0), ("moved", 1), ("moving", 1), ("moved", 2)],
)
def test_killed_in_between_each_part_is_whole(
    slow: tuple[GnuPGHome, str], moment: str, number: int
) -> None:
    home, key = slow
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, home.path, key, moment, str(number)],
        input=PASSPHRASE.reveal(), timeout=60,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL
    assert sum(count < SLOW_BYTES for count in counts(home)) == number
    # It signs at once, and when the server has started anew, which takes away what is left.
    signs(home, key)
    assert list(home.path.glob(".new-*"))
    home.prepare()
    assert not list(home.path.glob(".new-*"))
    assert home.hasten(key, PASSPHRASE) is (number < 2)
    assert 0 < max(counts(home)) < SLOW_BYTES
    signs(home, key)


def test_a_passphrase_that_may_be_guessed_stays_slow(tmp_path: Path) -> None:
    weak = Secret("correct horse battery staple")
    with gnupg_home(tmp_path / "gnupg") as home:
        key = made_slow(home, weak)
        before = counts(home)
        with pytest.raises(KeystoreError, match="stays slow to open"):
            home.hasten(key, weak)
        assert counts(home) == before


def test_a_wrong_passphrase_changes_nothing(slow: tuple[GnuPGHome, str]) -> None:
    home, key = slow
    before = counts(home)
    with pytest.raises(WrongPassphrase):
        home.hasten(key, Secret.random(64))
    assert counts(home) == before
    signs(home, key)


def test_the_key_of_an_existing_site(tmp_path: Path) -> None:
    with legacy_home(tmp_path / "gnupg") as home:
        (path,) = (
            home.path / f"private-keys-v1.d/{part.keygrip}.key"
            for part in home.listed([LEGACY_KEY])[0].parts[:1]
        )
        assert hashed_bytes(path.read_bytes()) >= SLOW_BYTES
        assert LEGACY_KEY in home.opening_seconds()
        assert home.hasten(LEGACY_KEY, legacy_passphrase())
        assert home.opening_seconds() == {}


def test_a_site_of_1_2_is_told_of_it_and_of_the_cure(tmp_path: Path) -> None:
    site = legacy_site(tmp_path, ALL_USERS)

    def health() -> str:
        return site.run(
            *module("stack"), "health", "server", "-c", str(site.path("server.conf")),
            code=None, stdin=b"",
        ).stdout.decode()  # fmt: skip

    told = re.compile(
        r"key release takes about \d{3} ms to open at each signature .*change-passphrase release"
    )
    with site.running():
        assert told.search(" ".join(health().split()))
        done(site, "change-passphrase", "release", secrets=["release-pw", "new-pw"])
        assert not told.search(" ".join(health().split()))
        for user, passphrase in (("root", "new-pw"), ("alice", "alice-release-pw")):
            done(
                site, "sign-data", "-a", "release", "/etc/hostname", secrets=[passphrase],
                options=["-u", user],
            )  # fmt: skip
        assert "is written anew under its passphrase" in site.processes[-1].text
