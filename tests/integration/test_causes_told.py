"""Who has proved his right is told why it fails and what helps; others learn nothing new."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.site import Site, module

from .commands_support import ADMIN, AUTHENTICATION, done, failure, refused
from .gnupg_support import Outside, outside_home
from .test_causes import ENDED, NEXT_DAY, THEN

BEFORE_RIGHTS = (
    "Unknown error: the server failed before it could look at rights and secrets; its log has the"
    " cause"
)


@pytest.fixture(scope="module")
def running(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A running site with a good key `k`, one whose subkey has expired, and one of two minds."""
    own = Site.copy(template, tmp_path_factory.mktemp("causes") / "site")
    with own.running():
        done(own, "new-key", "k", "--key-type", "ECC", secrets=[ADMIN, "k-pw"])
        with outside_home(tmp_path_factory.mktemp("person") / "gnupg") as outside:
            for name, usage in (("old", "cert"), ("both", "sign")):
                _import(own, outside, name, usage)
        yield own


def _import(own: Site, outside: Outside, name: str, usage: str) -> None:
    """Import a key made long ago, whose signing subkey has expired."""
    clock = "--faked-system-time"
    outside.gpg(clock, THEN, "--quick-gen-key", name, "ed25519", usage, "never", passphrase="pw")
    (key,) = (
        line.split(":")[9]
        for line in outside.gpg("--with-colons", "--list-keys", f"={name}").decode().split("\n")
        if line.startswith("fpr")
    )
    outside.gpg(clock, NEXT_DAY, "--quick-add-key", key, "ed25519", "sign", ENDED, passphrase="pw")
    file = outside.path / f"{name}.key"
    file.write_bytes(outside.export_secret(key, passphrase="pw"))
    done(own, "import-key", name, str(file), secrets=[ADMIN, "pw", f"{name}-pw"])


def sign(own: Site, key: str, secret: str) -> str:
    """What a client says that could not sign."""
    return failure(own, "sign-data", "-a", key, "/etc/hostname", secrets=[secret])


def test_an_expired_subkey_is_told_to_who_may_sign(running: Site) -> None:
    line = sign(running, "old", "old-pw")
    assert line.startswith("Unknown error: signing failed: signing subkey 1 expired on 2024-06-01")
    assert line.endswith(
        "set a new date: sigul change-key-expiration KEY --subkey 1 --expire-date YYYY-MM-DD"
    )
    # Nobody else learns anything of the key.
    for key in ("old", "both", "nosuch"):
        refused(running, AUTHENTICATION, "sign-data", "-a", key, "/etc/hostname", secrets=["no"])


def test_the_cure_cures(running: Site) -> None:
    done(
        running, "change-key-expiration", "both", "--subkey", "1", "--expire-date", "2039-01-01",
        secrets=["both-pw"],
    )  # fmt: skip
    result = running.sigul("sign-data", "-a", "both", "/etc/hostname", secrets=["both-pw"])
    assert b"warn" not in result.stderr.lower()
    done(
        running, "change-key-expiration", "both", "--subkey", "1", "--expire-date",
        time.strftime("%Y-%m-%d", time.gmtime(time.time() + 2 * 86400)), secrets=["both-pw"],
    )  # fmt: skip
    assert "expires on" in json.dumps(doctor(running, "both"))


def doctor(own: Site, key: str) -> list[dict[str, str]]:
    """The checks of `doctor --key`, of the layers of which a key has something."""
    result = own.run(
        *module("stack"), "doctor", "client", "-c", str(own.path("client.conf")),
        "--key", key, "--batch", "--json", stdin=f"{key}-pw\0".encode(), code=None,
    )  # fmt: skip
    checks = json.loads(result.stdout)["checks"]
    return [check for check in checks if check["layer"] in ("rights", "clocks")]


def test_doctor_says_which_key_signs_and_whose_clock_is_wrong(running: Site) -> None:
    checks = doctor(running, "old")
    findings = [check["finding"] for check in checks]
    assert any("signing subkey 1 expired on 2024-06-01" in text for text in findings)
    assert "the server's clock is as ours" in findings
    assert "the bridge's clock is as ours" in findings


# ---------------------------------------------------------------------------------- the database


@contextmanager
def locked_database(own: Site, how: str) -> Iterator[None]:
    connection = sqlite3.connect(own.path("server/server.sqlite"), isolation_level=None)
    connection.execute(f"BEGIN {how}")
    try:
        yield
    finally:
        connection.rollback()
        connection.close()


def health(own: Site) -> tuple[int, str]:
    result = own.run(
        *module("stack"), "health", "server", "-c", str(own.path("server.conf")),
        code=None, stdin=b"",
    )  # fmt: skip
    return result.returncode, result.stdout.decode()


def test_a_locked_database_is_told_to_who_has_the_right(running: Site) -> None:
    """Needs 30 s: the server waits for 10 s, twice, before it gives up, and health for 3 s."""
    with locked_database(running, "IMMEDIATE"):
        line = failure(running, "new-user", "carol", secrets=[ADMIN])
        assert line.startswith(
            "Unknown error: server.sqlite: another process kept it locked for more than 10 s; find"
        )
        assert "fuser" in line
        code, text = health(running)
        assert code == 2
        assert "another process kept it locked" in text
        refused(running, AUTHENTICATION, "new-user", "carol", secrets=["wrong"])
    # Where not even rights can be looked at, nobody is told more than anybody.
    with locked_database(running, "EXCLUSIVE"):
        assert failure(running, "new-user", "carol", secrets=[ADMIN]) == BEFORE_RIGHTS
    done(running, "new-user", "carol", secrets=[ADMIN])
    done(running, "delete-user", "carol", secrets=[ADMIN])


# ------------------------------------------------------------------------------ a foreign lock


LOCK = b"    999999\notherhost\n"


def test_a_lock_of_another_host(site: Site) -> None:
    home = site.path("server/gnupg")
    home.mkdir(mode=0o700, exist_ok=True)
    lock = home / "pubring.kbx.lock"
    lock.write_bytes(LOCK)
    with site.running() as (_bridge, server):
        # Found at start, and left alone: who made it a moment ago may be at work.
        server.wait_for("is a lock of process 999999 of host 'otherhost'")
        line = failure(site, "new-key", "k", secrets=[ADMIN, "k-pw"])
        assert line.startswith(
            "Unknown error: the GnuPG home is locked by process 999999 of host 'otherhost'; when"
        )
        assert "rm pubring.kbx.lock" in line
        code, text = health(site)
        assert code == 2
        assert f"rm '{lock}'" in text
        # Two minutes later it is known to be nobody's.
        past = time.time() - 121
        os.utime(lock, (past, past))
        done(site, "new-key", "k", secrets=[ADMIN, "k-pw"])
        assert "removing the lock" in server.text
        assert not lock.exists()


@pytest.mark.parametrize("name", ["pubring.kbx.lock", "gnupg_spawn_agent_sentinel.lock"])
def test_a_lock_of_a_number_that_another_process_has_by_now(site: Site, name: str) -> None:
    """So it is in a container that was killed and started anew: GnuPG waits for process 1."""
    home = site.path("server/gnupg")
    home.mkdir(mode=0o700, exist_ok=True)
    host = os.uname().nodename
    (home / name).write_bytes(f"{1:10d}\n{host}\n".encode())
    with site.running() as (_bridge, server):
        assert "removing the lock" in server.text
        assert not (home / name).exists()
