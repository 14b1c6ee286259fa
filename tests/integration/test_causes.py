"""Why a key does not sign, told to who has the right to it: with real keys, gpg and agent."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sigul_stack.errors import MAX_MESSAGE_BYTES, KeystoreError, RequestRefused
from sigul_stack.keystore.gnupg import GnuPGHome, KeySettings, UserId
from sigul_stack.keystore.gnupg.directory import AGENT_CONFIGURATION, small_memory
from sigul_stack.keystore.gnupg.outlook import outlook
from sigul_stack.secret import Secret
from sigul_stack.signing.openpgp import OpenPGPKey

from .gnupg_support import Outside, gnupg_home, openpgp_key, outside_home

PASSPHRASE = Secret("a passphrase of the tests' own keys")
THEN, ENDED, FUTURE = "20240101T000000", "2024-06-01", "20400101T000000"
#: When a subkey is added: a gpg that takes a second to make a key has made it a second after THEN.
NEXT_DAY = "20240102T000000"


class Workshop(Outside):
    """A home in which keys are made that no server would make."""

    def make(self, name: str, *, usage: str = "cert", at: str = "", until: str = "never") -> str:
        """A key of that usage, made at that time; its fingerprint."""
        before = self._all()
        self._at(at, "--quick-gen-key", name, "ed25519", usage, until)
        (new,) = self._all() - before
        return new

    def add(self, key: str, *, at: str = "", until: str = "never") -> None:
        """A signing subkey, made at that time."""
        self._at(at, "--quick-add-key", key, "ed25519", "sign", until)

    def _at(self, at: str, *arguments: str) -> None:
        clock = ["--faked-system-time", at] if at else []
        self.gpg(*clock, *arguments, passphrase=PASSPHRASE.reveal().decode())

    def _all(self) -> set[str]:
        return {key.fingerprint for key in self.list_keys()}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    with outside_home(tmp_path_factory.mktemp("workshop") / "gnupg") as outside:
        yield Workshop(outside.path, time_limit=30)


def opened(workshop: Workshop, key: str) -> OpenPGPKey:
    return openpgp_key(workshop, key, PASSPHRASE)


def cause(workshop: Workshop, key: str) -> str:
    """What is said of a signature that cannot be made, as a reply has it."""
    with pytest.raises(KeystoreError) as failure:
        opened(workshop, key).detached_signature(io.BytesIO(b"x"))
    told = RequestRefused.because(failure.value).message or ""
    assert len(told.encode()) <= MAX_MESSAGE_BYTES
    found = next(found for found in workshop.list_keys() if found.fingerprint == key)
    # Some of them name the minute, and another one may have begun since.
    faults = [outlook(found, time.time() - seconds, 30).fault for seconds in (0, 60)]
    assert any(fault is not None and fault.problem in told for fault in faults), faults
    return told


def test_an_expired_key(workshop: Workshop) -> None:
    key = workshop.make("expired", usage="sign", at=THEN, until=ENDED)
    told = cause(workshop, key)
    assert "signing failed: the primary key expired on 2024-06-01" in told
    assert "sigul change-key-expiration KEY --expire-date" in told


def test_an_expired_key_with_a_subkey_that_has_not_expired(workshop: Workshop) -> None:
    key = workshop.make("outlived", at=THEN, until=ENDED)
    workshop.add(key, at=NEXT_DAY)
    assert "the primary key expired on 2024-06-01" in cause(workshop, key)


def test_an_expired_subkey(workshop: Workshop) -> None:
    key = workshop.make("subexp", at=THEN)
    workshop.add(key, at=NEXT_DAY, until=ENDED)
    told = cause(workshop, key)
    assert "signing subkey 1 expired on 2024-06-01" in told
    assert "--subkey 1 --expire-date" in told


def test_a_revoked_only_subkey(workshop: Workshop) -> None:
    key = workshop.make("subrev")
    workshop.add(key)
    workshop.gpg(
        *("--command-fd", "0", "--edit-key", key),
        data=b"key 1\nrevkey\ny\n0\n\ny\nsave\n",
        passphrase=PASSPHRASE.reveal().decode(),
    )
    assert "signing subkey 1 has been revoked" in cause(workshop, key)


def test_a_revoked_key(workshop: Workshop) -> None:
    key = workshop.make("revoked", usage="sign")
    certificate = (workshop.path / "openpgp-revocs.d" / f"{key}.rev").read_text()
    workshop.gpg("--import", data=certificate.replace(":---", "---").encode())
    assert "the primary key has been revoked" in cause(workshop, key)


@pytest.mark.parametrize("part", ["the primary key", "signing subkey 1"])
def test_a_key_of_the_future(workshop: Workshop, part: str) -> None:
    """By the server's clock, that is: it may be the one that is wrong."""
    if part == "the primary key":
        key = workshop.make("future", usage="sign", at=FUTURE)
    else:
        key = workshop.make("futuresub")
        workshop.add(key, at=FUTURE)
    told = cause(workshop, key)
    assert f"{part} was made at 2040-01-01 00:00 UTC, and the server's clock says 20" in told
    assert "set the clock that is wrong" in told


@pytest.mark.parametrize("part", ["the primary key", "signing subkey 1"])
def test_a_secret_that_is_not_there(workshop: Workshop, part: str) -> None:
    key = workshop.make(f"no secret of {part}", usage="sign" if "primary" in part else "cert")
    if "primary" not in part:
        workshop.add(key)
    found = next(found for found in workshop.list_keys() if found.fingerprint == key)
    (workshop.path / "private-keys-v1.d" / f"{found.parts[-1].keygrip}.key").unlink()
    told = cause(workshop, key)
    assert f"the secret of {part} is not in the key store" in told
    assert "restore it from a backup" in told


def test_a_key_that_the_store_has_lost(workshop: Workshop) -> None:
    with pytest.raises(KeystoreError) as failure:
        opened(workshop, "0" * 40).detached_signature(io.BytesIO(b"x"))
    assert "signing failed: the key is not in the key store" in failure.value.problem
    assert "restore it from a backup" in failure.value.cure


def test_a_key_that_is_not_meant_for_signing(workshop: Workshop) -> None:
    assert "the key is not meant for signing" in cause(workshop, workshop.make("certifier"))


def test_the_primary_key_signs_where_its_signing_subkey_has_expired(workshop: Workshop) -> None:
    key = workshop.make("both", usage="sign", at=THEN)
    workshop.add(key, at=NEXT_DAY, until=ENDED)
    signers: list[str] = []
    openpgp_key(workshop, key, PASSPHRASE, after_use=signers.append).detached_signature(
        io.BytesIO(b"x")
    )
    assert signers == [key]
    found = next(found for found in workshop.list_keys() if found.fingerprint == key)
    seen = outlook(found, time.time(), 30)
    assert seen.signer == found.parts[0]
    (note,) = seen.notes
    assert note.problem == ("signing subkey 1 expired on 2024-06-01, so the primary key signs")
    assert note.replaced
    assert "--subkey 1" in note.cure


def test_what_is_foreseen_of_a_good_key(workshop: Workshop) -> None:
    key = workshop.make("good", usage="sign", at=THEN)
    workshop.add(key, at=NEXT_DAY)
    workshop.add(key, until="10d")
    (found,) = (found for found in workshop.list_keys() if found.fingerprint == key)
    signers: list[str] = []
    openpgp_key(workshop, key, PASSPHRASE, after_use=signers.append).detached_signature(
        io.BytesIO(b"x")
    )
    seen = outlook(found, time.time(), 30)
    assert seen.signer is not None
    assert signers == [seen.signer.fingerprint] != [key]
    (note,) = seen.notes
    assert re.match(r"signing subkey 2 expires on \d{4}-\d\d-\d\d, in (9|10) days$", note.problem)
    assert outlook(found, time.time(), 5).notes == ()


def test_a_damaged_key_file(workshop: Workshop) -> None:
    key = workshop.make("damaged", usage="sign")
    (found,) = (found for found in workshop.list_keys() if found.fingerprint == key)
    file = workshop.path / "private-keys-v1.d" / f"{found.parts[0].keygrip}.key"
    file.write_bytes(b"(21:protected-private-key(3:ecc)))")
    with pytest.raises(KeystoreError) as failure:
        opened(workshop, key).detached_signature(io.BytesIO(b"x"))
    assert "signing failed" in failure.value.problem
    assert failure.value.cure


# ----------------------------------------------------------------------------- secure memory


def _sign_at_once(home: GnuPGHome, key: str, count: int) -> list[KeystoreError]:
    """The errors of so many signatures at the same time."""

    def sign(_number: int) -> KeystoreError | None:
        try:
            openpgp_key(home, key, PASSPHRASE).detached_signature(io.BytesIO(b"x"))
        except KeystoreError as error:
            return error
        return None

    with ThreadPoolExecutor(count) as pool:
        return [error for error in pool.map(sign, range(count)) if error is not None]


def test_many_signatures_at_once_and_the_agents_secure_memory(tmp_path: Path) -> None:
    """Needs about 10 s: 64 signatures of a long RSA key, half of them to fail."""
    with gnupg_home(tmp_path / "gnupg", KeySettings("RSA", 4096, "", 0)) as home:
        assert (home.path / "gpg-agent.conf").read_text() == AGENT_CONFIGURATION
        assert small_memory(home.path) is None
        key = home.generate(PASSPHRASE, UserId("long"))
        assert _sign_at_once(home, key, 32) == []
        # As existing sites have it.
        home.stop_agent()
        (home.path / "gpg-agent.conf").write_text(
            AGENT_CONFIGURATION.replace("auto-expand-secmem\n", "")
        )
        lack = small_memory(home.path)
        assert lack is not None
        assert "secure memory" in lack[0]
        errors = _sign_at_once(home, key, 32)
        assert errors, "the agent has more memory than this test asks for"
        for error in errors:
            told = RequestRefused.because(error).message or ""
            assert "gpg-agent is out of (secure) memory" in told
            assert "auto-expand-secmem" in told
