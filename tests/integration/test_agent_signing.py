"""Signing with the real gpg-agent: one that keeps passphrases signs for nobody who has none."""

from __future__ import annotations

import hashlib
import io
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes

from sigul_stack.errors import WrongPassphrase
from sigul_stack.formats.openpgp_public_keys import verify
from sigul_stack.keystore.gnupg import GnuPGHome, UserId, program
from sigul_stack.secret import Secret
from sigul_stack.signing.signers.gnupg_agent import AgentSigner, open_in_home

from .gnupg_support import Outside, gnupg_home, openpgp_key, outside_home

PASSPHRASE = Secret.random(64)
WRONG = Secret.random(64)
#: More than the tests take: what such an agent was told once it knows for all of them.
REMEMBERING = (
    "allow-loopback-pinentry\ndefault-cache-ttl 600\nmax-cache-ttl 600\ndisable-scdaemon\n"
)
FIRST, SECOND = hashlib.sha512(b"first").digest(), hashlib.sha512(b"second").digest()
SHA512 = hashes.SHA512()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GnuPGHome, str, str]]:
    """A home as new ones are, and two keys in it that have the same passphrase."""
    with gnupg_home(tmp_path_factory.mktemp("agent") / "gnupg") as home:
        yield (
            home,
            home.generate(PASSPHRASE, UserId("one")),
            home.generate(PASSPHRASE, UserId("two")),
        )


@pytest.fixture
def remembering(site: tuple[GnuPGHome, str, str]) -> Iterator[tuple[GnuPGHome, str, str]]:
    """That home as a site's own, whose agent remembers passphrases; it knows none yet."""
    home = site[0]
    configuration = home.path / "gpg-agent.conf"
    ours = configuration.read_text()
    configuration.write_text(REMEMBERING)
    home.stop_agent()
    yield site
    configuration.write_text(ours)
    home.stop_agent()


def signer(home: GnuPGHome, key: str, passphrase: Secret = PASSPHRASE) -> AgentSigner:
    """The key, opened."""
    return open_in_home(home, key, passphrase)


def signs_unasked(home: GnuPGHome, key: str) -> bool:
    """Whether the agent signs for a connection that knows no passphrase; as any program might."""
    grip = signer(home, key).keygrip
    with socket.socket(socket.AF_UNIX) as agent:
        agent.settimeout(10)
        agent.connect(str(home.agent_socket()))
        lines = agent.makefile("rb")
        lines.readline()
        for command in (
            "OPTION pinentry-mode=loopback",
            f"SIGKEY {grip}",
            f"SETHASH 10 {FIRST.hex()}",
        ):
            agent.sendall(command.encode() + b"\n")
            assert lines.readline().startswith(b"OK")
        agent.sendall(b"PKSIGN\n")
        while not (line := lines.readline()).startswith(b"INQUIRE PASSPHRASE"):
            assert line.startswith((b"D ", b"OK", b"INQUIRE PINENTRY", b"S ")), line
            if line.startswith(b"OK"):
                return True
        return False


def test_the_agent_of_our_homes_signs_for_nobody_unasked(site: tuple[GnuPGHome, str, str]) -> None:
    home, one, two = site
    signer(home, one).sign_digest(FIRST, SHA512)
    assert not signs_unasked(home, one)
    assert not signs_unasked(home, two)
    for key in (one, two):
        with pytest.raises(WrongPassphrase):
            signer(home, key, WRONG).sign_digest(FIRST, SHA512)


def test_an_agent_that_remembers_gives_nothing_to_whoever_has_another_passphrase(
    remembering: tuple[GnuPGHome, str, str],
) -> None:
    home, one, two = remembering
    signer(home, one).sign_digest(FIRST, SHA512)
    # The trap: it signs unasked, with a key of the same passphrase as well.
    assert signs_unasked(home, one)
    assert signs_unasked(home, two)
    for key in (one, two):
        with pytest.raises(WrongPassphrase):
            signer(home, key, WRONG).sign_digest(FIRST, SHA512)
        with pytest.raises(WrongPassphrase):
            openpgp_key(home, key, WRONG).detached(hashlib.sha512(b"content"))
        # The right one still does, and the agent's memory is no obstacle.
        right = signer(home, key)
        verify(right.public_key, "sha512", FIRST, right.sign_digest(FIRST, SHA512))


def test_a_remembered_passphrase_is_not_taken_for_the_one_that_was_given(
    remembering: tuple[GnuPGHome, str, str],
) -> None:
    """Trying the passphrase must not ask the agent's memory; an empty one is none either."""
    home, one, _ = remembering
    signer(home, one).sign_digest(FIRST, SHA512)
    grip = signer(home, one).keygrip
    for wrong in (WRONG, Secret(""), Secret(PASSPHRASE.reveal()[:-1])):
        with home.agent() as agent, pytest.raises(WrongPassphrase):
            agent.sign(grip, wrong, FIRST, 10)
    with home.agent() as agent:
        assert agent.sign(grip, PASSPHRASE, FIRST, 10)


@pytest.mark.parametrize("where", ["site", "remembering"])
def test_each_signature_of_a_connection_is_over_its_own_digest(
    where: str, request: pytest.FixtureRequest
) -> None:
    """The agent keeps the digest of before: a second PKSIGN alone would sign that once more."""
    home, one, two = request.getfixturevalue(where)
    signers = {key: signer(home, key) for key in (one, two)}
    with home.agent() as agent:
        made = [
            (key, digest, agent.sign(signers[key].keygrip, PASSPHRASE, digest, 10))
            for key in (one, two, one)
            for digest in (FIRST, SECOND)
        ]
    for key, digest, answer in made:
        plain = signers[key]._plain(numbers(answer))
        verify(signers[key].public_key, "sha512", digest, plain)
        other = SECOND if digest == FIRST else FIRST
        with pytest.raises(InvalidSignature):
            verify(signers[key].public_key, "sha512", other, plain)


def numbers(answer: bytes) -> dict[str, int]:
    """The numbers of a signature, found without the parser under test."""
    found = {}
    for match in re.finditer(rb"\(1:([rs])(\d+):", answer):
        end = match.end() + int(match[2])
        found[match[1].decode()] = int.from_bytes(answer[match.end() : end], "big")
    return found


def test_a_key_without_a_passphrase_signs_with_any_as_with_gpg(tmp_path: Path) -> None:
    with gnupg_home(tmp_path / "home") as home, outside_home(tmp_path / "person") as person:
        key = person.make_key("open")
        Outside(home.path, time_limit=30).gpg("--import", data=person.export_secret(key))
        opened = signer(home, key, WRONG)
        verify(opened.public_key, "sha512", FIRST, opened.sign_digest(FIRST, SHA512))


# --- Options of a site's gpg.conf, as gpg shows them ----------------------------------------------


def test_options_of_the_site_are_in_its_signatures(
    site: tuple[GnuPGHome, str, str], tmp_path: Path
) -> None:
    home, one, _ = site
    (home.path / "gpg.conf").write_text(
        "digest-algo SHA256\n"
        "sig-notation build@example.org=one of 50%%\n"
        "set-policy-url https://example.org/policy\n"
        "default-sig-expire 2w\n"
        "comment From the release team\n"
    )
    target = io.BytesIO()
    try:
        openpgp_key(home, one, PASSPHRASE).detach_sign(io.BytesIO(b"content"), target, armor=True)
    finally:
        (home.path / "gpg.conf").unlink()
    assert b"\nComment: From the release team\n" in target.getvalue()
    (tmp_path / "data").write_bytes(b"content")
    (tmp_path / "data.asc").write_bytes(target.getvalue())
    with outside_home(tmp_path / "person", home.public(one)) as person:
        said = person.gpg_output(
            *("--status-fd", "2", "--verify"), str(tmp_path / "data.asc"), str(tmp_path / "data")
        ).stderr.decode()
    valid = re.search(r"VALIDSIG \w+ \S+ (\d+) (\d+) \d+ \d+ \d+ (\d+)", said)
    assert valid is not None, said
    made, expires, hash_number = map(int, valid.groups())
    assert (expires - made, hash_number) == (14 * 86400, 8)
    assert "NOTATION_NAME build@example.org" in said
    assert "NOTATION_DATA one%20of%2050%25" in said
    assert "POLICY_URL https://example.org/policy" in said


@pytest.mark.parametrize("weak", ["SHA1", "MD5", "RIPEMD160"])
def test_a_broken_digest_of_the_site_is_not_used(
    site: tuple[GnuPGHome, str, str], weak: str
) -> None:
    home, one, _ = site
    (home.path / "gpg.conf").write_text(f"digest-algo {weak}\n")
    try:
        assert openpgp_key(home, one, PASSPHRASE).options.hash_name == "sha512"
    finally:
        (home.path / "gpg.conf").unlink()


def test_a_signature_runs_no_program_while_the_agent_listens(
    site: tuple[GnuPGHome, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started, one, _ = site
    signer(started, one).sign_digest(FIRST, SHA512)
    home = GnuPGHome(started.path)
    runs: list[str] = []
    monkeypatch.setattr(program, "run", lambda arguments, **_: runs.append(arguments[0]))
    signer(home, one).sign_digest(FIRST, SHA512)
    assert not runs
