"""Databases whose keys take long to use: named, and written anew."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sigul_stack.errors import NSSError
from sigul_stack.pki import KeyKind, NSSDatabase, make_site
from sigul_stack.pki.key_cost import key_cost
from sigul_stack.secret import Secret
from tests.site import BRIDGE_NAME, SERVER_NAME, Site, module

LIMIT = "NSS_MAX_MP_PBE_ITERATION_COUNT"
RANDOM, WEAK = Secret.random(43), Secret(b"correct horse battery staple")


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A client's database as plain certutil protects it; the password is RANDOM."""
    directory = tmp_path_factory.mktemp("slow")
    with pytest.MonkeyPatch.context() as patch:
        # Without the limit that holds for all other tests' databases.
        patch.delenv(LIMIT)
        made = make_site(directory / "pki", bridge=BRIDGE_NAME, server=SERVER_NAME, users=["admin"])
        of_site = made.clients[0].directory
        old, new = of_site / "nss-password", directory / "password"
        new.write_bytes(RANDOM.reveal())
        subprocess.run(
            ["certutil", "-W", "-d", f"sql:{of_site}", "-f", old, "-@", new],
            check=True, timeout=60, capture_output=True,
        )  # fmt: skip
    assert key_cost(of_site).is_slow
    yield of_site


@pytest.fixture
def copy(slow: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    return shutil.copytree(slow, tmp_path / "database")


def certified(directory: Path, password: Secret = RANDOM) -> list[str]:
    """What a database holds with its private key, each good for a TLS client by NSS's judgement."""
    database = NSSDatabase(directory, password)
    found = [item.nickname for item in database.certificates() if item.has_private_key]
    with database.changing() as store:
        assert [store.verify(name, server=False) for name in found] == [None] * len(found)
    return found


def test_new_databases_cost_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LIMIT)
    site = make_site(tmp_path / "site", bridge=BRIDGE_NAME, server=SERVER_NAME, users=[])
    for directory in (site.bridge.directory, site.server.directory, site.authority_directory):
        assert key_cost(directory).rounds == 1
    with NSSDatabase(tmp_path / "weak", WEAK).making() as store:
        assert store._iterations is None


def test_a_slow_one_is_written_anew(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LIMIT)
    (copy / "key4.db").chmod(0o640)
    before = (copy / "key4.db").read_bytes()
    done = NSSDatabase(copy, RANDOM).tune()
    assert done.before.rounds >= 10_000
    assert (done.after.rounds, key_cost(copy).rounds) == (1, 1)
    assert done.kept == copy / "key4.db.before-tune"
    assert done.kept.read_bytes()[:16] == before[:16]
    assert (copy / "key4.db").stat().st_mode & 0o777 == 0o640
    assert done.kept.stat().st_mode & 0o777 == 0o640
    assert certified(copy) == ["sigul-client-cert"]
    again = NSSDatabase(copy, RANDOM).tune()
    assert (again.kept, again.before) == (None, again.after)
    # What is kept is a whole database of keys: put back, all is as it was.
    shutil.copy2(done.kept, copy / "key4.db")
    assert key_cost(copy).is_slow
    assert certified(copy) == ["sigul-client-cert"]


def test_a_password_that_may_be_guessed_keeps_its_rounds(copy: Path, tmp_path: Path) -> None:
    for name, password in (("old", RANDOM), ("new", WEAK)):
        (tmp_path / name).write_bytes(password.reveal())
    subprocess.run(
        ["certutil", "-W", "-d", f"sql:{copy}", "-f", tmp_path / "old", "-@", tmp_path / "new"],
        check=True, timeout=60, capture_output=True,
        env={key: value for key, value in os.environ.items() if key != LIMIT},
    )  # fmt: skip
    before = (copy / "key4.db").read_bytes()
    with pytest.raises(NSSError, match="may be one that can be guessed") as caught:
        NSSDatabase(copy, WEAK).tune()
    assert "random password" in caught.value.cure
    assert (copy / "key4.db").read_bytes() == before
    with pytest.raises(NSSError, match="incorrect"):
        NSSDatabase(copy, Secret.random(43)).tune()


@pytest.mark.long("sigul_stack/pki")
def test_killed_at_any_moment_it_is_old_or_new(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "password").write_bytes(RANDOM.reveal())
    command = [
        sys.executable, "-m", "sigul_stack.cli.stack", "pki", "tune", "--password-file",
        str(tmp_path / "password"), str(copy),
    ]  # fmt: skip
    began = time.monotonic()
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    longest = time.monotonic() - began
    source = random.Random(16)  # noqa: S311 - when to kill
    results = set()
    for _ in range(8):
        shutil.copy2(copy / "key4.db.before-tune", copy / "key4.db")
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        ) as program:
            time.sleep(source.uniform(0.3, 1.0) * longest)
            os.killpg(program.pid, signal.SIGKILL)
        results.add(key_cost(copy).rounds == 1)
        assert certified(copy) == ["sigul-client-cert"]
    assert results <= {True, False}


@pytest.mark.parametrize("program", ["doctor", "health"])
def test_it_is_named_with_its_cost_and_the_cure(
    running_site: Site, slow: Path, tmp_path: Path, program: str
) -> None:
    site = running_site
    config = tmp_path / "client.conf"
    text = site.path("client.conf").read_text()
    own = site.path("pki/clients/admin")
    (tmp_path / "password").write_bytes(RANDOM.reveal())
    (tmp_path / "password").chmod(0o600)
    config.write_text(
        text.replace(str(own / "nss-password"), str(tmp_path / "password")).replace(
            str(own), str(slow)
        )
    )
    done = site.run(*module("stack"), program, "client", "-c", str(config), code=None, seconds=60)
    said = done.stdout.decode() + done.stderr.decode()
    assert "rounds of key derivation" in said
    assert f"sigul-stack pki tune {slow}" in said


@pytest.mark.parametrize("kind", list(KeyKind))
def test_keys_of_each_kind(tmp_path: Path, kind: KeyKind) -> None:
    site = make_site(
        tmp_path / "site", bridge=BRIDGE_NAME, server=SERVER_NAME, users=["ann"], key_kind=kind
    )
    database = NSSDatabase(
        site.clients[0].directory,
        Secret((site.clients[0].directory / "nss-password").read_bytes()),
    )
    key = database.find("sigul-client-cert").certificate.public_key()
    assert type(key).__name__ == {"rsa": "RSAPublicKey", "p256": "ECPublicKey"}[kind.value]
