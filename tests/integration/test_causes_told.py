"""Who has proved his right is told why it fails and what helps; others learn nothing new."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.site import Process, Site, module

from .commands_support import (
    ADMIN,
    AUTHENTICATION,
    done,
    failure,
    fingerprint_of,
    person,
    refused,
)
from .gnupg_support import Outside, outside_home
from .test_causes import ENDED, NEXT_DAY, THEN
from .test_failures_in_flight import private_mount

BEFORE_RIGHTS = (
    "Unknown error: the server failed before it could look at rights and secrets; its log has the"
    " cause"
)


@pytest.fixture(scope="module")
def running(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A running site with a good key `k`, one whose subkey has expired, and one of two minds.

    Its server waits for a locked database for a second.
    """
    own = Site.copy(template, tmp_path_factory.mktemp("causes") / "site")
    own.extra = {"server": {"database": "database-lock-timeout: 1\n"}}
    own.configure()
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
    result = own.sigul("import-key", name, str(file), secrets=[ADMIN, "pw", f"{name}-pw"])
    assert b"has expired on 2024-06-01; change-key-expiration --subkey renews it" in result.stderr


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


def test_the_primary_key_does_not_sign_for_its_expired_subkey_without_a_word(
    running: Site, tmp_path: Path
) -> None:
    """The signature is made, as 1.2's; who asked for it sees which key made it, and why."""
    result = running.sigul("sign-data", "-a", "both", "/etc/hostname", secrets=["both-pw"])
    assert result.stdout.startswith(b"-----BEGIN PGP SIGNATURE-----")
    (line,) = result.stderr.decode().splitlines()
    assert "signing subkey 1 expired on 2024-06-01, so the primary key signs" in line
    assert "sigul change-key-expiration both --subkey 1" in line
    public = running.sigul("get-public-key", "both", secrets=["both-pw"]).stdout
    with person(tmp_path / "person", public) as gpg:
        (tmp_path / "signature").write_bytes(result.stdout)
        signer = gpg.signer(tmp_path / "signature", "/etc/hostname")
        assert signer == fingerprint_of(gpg, public)
    findings = [check["finding"] for check in doctor(running, "both")]
    assert any(signer[-16:] in text and "signs with" in text for text in findings), findings
    assert any("so the primary key signs" in text for text in findings)


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
    """The server waits for a second, twice, before it gives up, and health for 3 s."""
    with locked_database(running, "IMMEDIATE"):
        line = failure(running, "new-user", "carol", secrets=[ADMIN])
        assert line.startswith(
            "Unknown error: server.sqlite: another process kept it locked for more than 1 s; find"
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


def in_its_namespace(own: Site, server: Process, *command: str) -> tuple[int, str]:
    """Exit code and output of a program that sees the mounts that the server sees."""
    mapped = () if os.geteuid() == 0 else ("--user", "--preserve-credentials")
    result = own.run(
        *("nsenter", "--target", str(server.popen.pid), "--mount", "--root", *mapped, "--"),
        *command,
        code=None, stdin=b"",
    )  # fmt: skip
    return result.returncode, (result.stdout + result.stderr).decode()


def test_a_full_and_a_read_only_database(site: Site) -> None:
    """On a small file system of its own; the rest of the server has room."""
    directory = site.path("server/database")
    directory.mkdir(mode=0o700)
    # The signing log, which would lie beside the database, has room as well.
    site.extra = {"server": {"server": f"signing-log: {site.path('server/signing-log')}\n"}}
    site.configure()
    conf = site.path("server.conf")
    conf.write_text(
        conf.read_text().replace("/server/server.sqlite", "/server/database/server.sqlite")
    )
    prefix = private_mount(
        'mount -t tmpfs -o size=100m,mode=700 none "$1"; cp -p "$2" "$1"; shift 2',
        str(directory), str(site.path("server/server.sqlite")),
    )  # fmt: skip
    health = (*module("stack"), "health", "server", "-c", str(conf))
    site.start_bridge()
    server = site.start_server(prefix=prefix)
    inside = Path(f"/proc/{server.popen.pid}/root{directory}")
    assert "ok       database: it takes changes" in in_its_namespace(site, server, *health)[1]
    with (inside / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(65536))
    line = failure(site, "new-user", "carol", secrets=[ADMIN])
    assert line.startswith(
        "Unknown error: server.sqlite: the disk is full; free space on its file system"
    ), line
    refused(site, AUTHENTICATION, "new-user", "carol", secrets=["wrong"])
    assert done(site, "list-users", secrets=[ADMIN]) == b"admin\n"
    code, text = in_its_namespace(site, server, *health)
    assert code == 2, text
    assert f"the file system of database-path '{directory}/server.sqlite' is full" in text
    (inside / "filler").unlink()

    def remount(how: str) -> None:
        code, text = in_its_namespace(site, server, "mount", "-o", f"remount,{how}", str(directory))
        assert code == 0, text

    remount("ro")
    line = failure(site, "new-user", "carol", secrets=[ADMIN])
    assert line.startswith("Unknown error: server.sqlite: "), line
    assert "read-only" in line
    refused(site, AUTHENTICATION, "new-user", "carol", secrets=["wrong"])
    code, text = in_its_namespace(site, server, *health)
    assert code == 2, text
    assert "is mounted read-only" in text
    remount("rw")
    done(site, "new-user", "carol", secrets=[ADMIN])
    assert "ok       database: it takes changes" in in_its_namespace(site, server, *health)[1]


@contextmanager
def away(path: Path) -> Iterator[None]:
    """A time in which a file or directory of the server is not there."""
    aside = path.with_name(f"{path.name}.away")
    path.rename(aside)
    try:
        yield
    finally:
        if path.exists():  # somebody made an empty one
            path.unlink()
        aside.rename(path)


def test_what_the_server_has_lost_is_told(running: Site) -> None:
    """To who has the right to it, and by health."""
    ring = running.path("server/gnupg/pubring.kbx")
    (public,) = running.path("server/keys").glob("*.public.pem")
    for store, told in ((ring, "key 'old'"), (public, "key 'k'")):
        with away(store):
            code, text = health(running)
            assert code != 0
            assert f"{told}: the key is not in the key store; " in text
            if store.suffix == ".pem":
                line = failure(running, "get-public-key", "k", secrets=["k-pw"])
                assert line.startswith(f"Unknown error: '{store.name}' is not in the key store (")
            else:
                line = sign(running, "old", "old-pw")
                assert "signing failed: the key is not in the key store" in line
    for name, told in (("server.sqlite", "there is no database '"),
                       ("spool", "there is no spool-directory '")):  # fmt: skip
        with away(running.path(f"server/{name}")):
            code, text = health(running)
            assert (code, told in text) == (2, True), text


# -------------------------------------------------------------------------------------- clocks


#: Read by Python at its start: the program's clock is wrong, that of NSS and others is not.
WRONG_CLOCK = """
import time
_right = time.time
time.time = lambda: _right() + ({seconds})
"""


@pytest.mark.parametrize(
    ("daemon", "seconds", "told"),
    [("server", -7200, r"7\d{3} s behind ours"), ("bridge", 900, r"[89]\d\d s ahead of ours")],
)
def test_doctor_tells_whose_clock_is_wrong(
    site: Site, tmp_path: Path, daemon: str, seconds: int, told: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(WRONG_CLOCK.format(seconds=seconds))
    site.fresh = True
    for name in ("bridge", "server"):
        wrong = {"PYTHONPATH": str(tmp_path)} if name == daemon else {}
        started = site.start(name, environment=wrong)
        started.wait_for("Waiting for the server" if name == "bridge" else "Waiting for a request")
    done(site, "new-key", "k", "--key-type", "ECC", secrets=[ADMIN, "k-pw"])
    found = [check for check in doctor(site, "k") if check["layer"] == "clocks"]
    other = "bridge" if daemon == "server" else "server"
    assert [check["finding"] for check in found if check["state"] == "ok"] == [
        f"the {other}'s clock is as ours"
    ]
    (warned,) = (check for check in found if check["state"] != "ok")
    assert re.fullmatch(f"the {daemon}'s clock is {told}", warned["finding"])
    assert warned["state"] == "warning"
    assert "set the clock that is wrong" in warned["cure"]


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
