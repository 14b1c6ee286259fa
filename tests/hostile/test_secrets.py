"""Guesses at secrets, secrets that are too short, and MD5 in the place of a digest."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sigul_stack.errors import Status
from sigul_stack.protocol.status import decode_status
from sigul_stack.transport.status_socket import read_status
from tests.faults.scripted import Peer
from tests.hostile.conftest import (
    HONEST,
    KEY,
    TRENTS_KEY,
    AttackerFactory,
    Ground,
    HonestFactory,
    copied,
    passphrase,
)
from tests.integration.rpm_support import build
from tests.integration.test_sign_rpm import sigmd5
from tests.site import Site, module

pytestmark = pytest.mark.once("the server's own rules")

GUESSES = 36
#: How a request is refused while a delay runs.
DELAYED = re.compile(
    r"wrong passwords or passphrases came before from this certificate for this user: no secret is"
    r" looked at for another \d+ s, then try again"
)
#: Most secrets that a guesser has looked at within the two minutes of a test: three, and then one
#: after each of 1, 2, 4, 8, 16, 32 and 60 seconds.
MOST_LOOKED_AT = 10
#: How many are looked at without a delay before.
FREE = 3
LEAST = 12


def guess(user: str = "trent", key: str = TRENTS_KEY, secret: str = "wrong") -> dict[str, Any]:
    """A request of somebody who does not know the passphrase."""
    return {
        "op": "get-public-key", "user": user, "fields": {"key": key.encode()},
        "secrets": {"passphrase": secret.encode()},
    }  # fmt: skip


def is_delayed(told: dict[str, Any]) -> bool:
    """Whether the server refused a request with the reason, without a look at its secret."""
    assert told["status"] == Status.AUTHENTICATION_FAILED, told
    if not told["fields"]:
        return False
    assert DELAYED.fullmatch(told["fields"]["message"].decode()), told
    return True


@pytest.fixture
def guarded(quiet: Site) -> Iterator[Ground]:
    """A test's own running site, whose server tells its status and lets `gateway` speak for all."""
    yield from proxying(quiet)


@pytest.fixture(scope="module")
def proxied(hostile_template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """The same for a module's tests, of which each guesses at other names."""
    yield from proxying(copied(hostile_template, tmp_path_factory.mktemp("proxied") / "site"))


def proxying(site: Site) -> Iterator[Ground]:
    """Run a site for `guarded`."""
    site.extra["server"] = {
        "server": "proxy-usernames: gateway\n",
        "daemon": f"status-socket: {site.path('run/server.sock')}\n",
    }
    site.configure()
    with site.running() as (bridge, server):
        server.wait_for("Waiting for a request at the bridge", 4)
        yield Ground(site, bridge, server)


def totals(site: Site) -> dict[str, int]:
    """What the server has counted."""
    return dict(decode_status(read_status(site.path("run/server.sock"), 10)).totals)


def fetch(site: Site, user: str, key: str, certificate: str, secret: str = "") -> str:
    """Fetch a key's public half by a user's passphrase; the error that comes, empty if none."""
    done = site.sigul(
        "get-public-key", key, options=["-u", user], config=f"{certificate}.conf",
        secrets=[secret or passphrase(user, key)], code=None,
    )  # fmt: skip
    assert (done.returncode == 0) == (b"BEGIN PGP PUBLIC KEY" in done.stdout), done
    return done.stderr.decode()


# More than 5 s: 36 requests of one certificate, twelve at a time, each with its handshakes.
def test_guesses_are_delayed_and_others_work_on(
    guarded: Ground, honest_at: HonestFactory, attacker: AttackerFactory
) -> None:
    """Issue 10 (5): without delays all are looked at, and others wait six times as long."""
    site, server = guarded.site, guarded.server
    crowd = attacker(site, "trent", "crowd")
    with honest_at(site).during(f"{GUESSES} guesses at once"):
        told = [client["result"] for client in crowd.run(scripts=[guess()], each=GUESSES)]
    looked_at = [is_delayed(result) for result in told].count(False)
    assert 0 < looked_at <= MOST_LOOKED_AT
    assert server.text.count("did not open key") == looked_at
    # Counted, and named in the log.
    assert totals(site)["wrong_secrets_total"] == looked_at
    assert totals(site)["delayed_after_wrong_secrets_total"] == GUESSES - looked_at
    # The first, the second, the fourth and so on.
    told_of = (GUESSES - looked_at).bit_length()
    server.wait_for("Wrong secrets came before from 'trent' as user 'trent'", told_of)


def guess_until_refused(client: Peer, *requests: dict[str, Any]) -> int:
    """Guess by each of `requests` in turn until one is refused unseen: how many were not.

    No delay may be needed before the third one; on a slow machine the first ones run out.
    """
    for number in range(MOST_LOOKED_AT):
        if is_delayed(client.run(**requests[number % len(requests)])):
            return number
    raise AssertionError("no delay began")


# More than 5 s: six guesses, with delays of 1, 2 and 4 s between them.
def test_a_delay_is_of_one_certificate_and_one_user(
    guarded: Ground, attacker: AttackerFactory
) -> None:
    site = guarded.site
    client = attacker(site, "gateway")
    # A delay of 8 s, which is enough for what follows.
    while totals(site)["wrong_secrets_total"] < 6:
        is_delayed(client.run(**guess()))
    # The guesser is refused with a right secret as with a wrong one, and is told why.
    line = fetch(site, "trent", TRENTS_KEY, "gateway")
    assert DELAYED.fullmatch(line.strip().removeprefix("Error: Authentication failed: ")), line
    # The owner with the right certificate, and other users with the guesser's, are served.
    assert fetch(site, "trent", TRENTS_KEY, "trent") == ""
    for user in HONEST:
        assert fetch(site, user, KEY, "gateway") == ""


@pytest.mark.parametrize(
    ("user", "key"),
    [("trent", TRENTS_KEY), ("nobody", KEY), ("trent", "nokey"), ("alice", TRENTS_KEY)],
    ids=["right names", "no such user", "no such key", "no access"],
)
def test_it_is_the_same_whether_user_and_key_exist(
    proxied: Ground, attacker: AttackerFactory, user: str, key: str
) -> None:
    """A certificate that may speak for all finds out no more by how its guesses are refused."""
    client = attacker(proxied.site, {"nokey": "trent"}.get(key, "gateway"))
    assert guess_until_refused(client, guess(user, key)) >= FREE


def test_a_right_secret_does_not_end_what_counts_for_another(
    guarded: Ground, attacker: AttackerFactory
) -> None:
    """Who knows one key's passphrase guesses at another's, with a right one after each guess."""
    site = guarded.site
    secrets = [passphrase("admin"), passphrase("trent")]
    site.sigul("grant-key-access", KEY, "trent", secrets=secrets)
    client = attacker(site, "trent")
    right = guess(secret=passphrase("trent", TRENTS_KEY))
    guesses = 0
    while guesses < MOST_LOOKED_AT and not is_delayed(client.run(**guess(key=KEY))):
        guesses += 1
        # What counts for the user alone is ended each time.
        assert client.run(**right)["status"] == Status.OK
    assert FREE <= guesses < MOST_LOOKED_AT


def test_many_names_are_one_where_a_certificate_may_speak_for_none(
    proxied: Ground, attacker: AttackerFactory
) -> None:
    """They are no way to have many secrets computed; and who has such a name works on."""
    client = attacker(proxied.site, "mallory")
    names = [guess(f"name-{number}") for number in range(MOST_LOOKED_AT)]
    assert guess_until_refused(client, *names) >= FREE
    # Nor is another one: that would have three guesses of its own.
    assert guess_until_refused(client, guess("bob", KEY)) < FREE
    assert fetch(proxied.site, "bob", KEY, "bob") == ""


def test_a_new_configuration_forgets_nothing(guarded: Ground, attacker: AttackerFactory) -> None:
    """Workers of the new one know what those of the old one have counted."""
    server = guarded.server
    client = attacker(guarded.site, "trent")
    assert guess_until_refused(client, guess()) >= FREE
    workers = server.text.count("Waiting for a request at the bridge")
    server.popen.send_signal(signal.SIGHUP)
    server.wait_for("The configuration is taken")
    server.wait_for("Waiting for a request at the bridge", workers + 4)
    assert guess_until_refused(client, guess()) < FREE


def test_doctor_is_no_guesser(guarded: Ground) -> None:
    """It asks without a secret, as often as somebody likes, and that delays nobody's work."""
    site = guarded.site
    for _ in range(FREE + 1):
        said = site.run(
            *module("stack"), "doctor", "client", "-c", str(site.path("alice.conf")), code=None
        ).stdout.decode()
        assert "answered through both layers" in said
    assert fetch(site, "alice", KEY, "alice") == ""


# ------------------------------------------------------------------------------- short secrets


# More than 5 s: some thirty commands.
def test_short_secrets_are_refused_where_they_are_set(quiet: Site) -> None:
    """By each operation that sets one, with the reason; those that are there go on working."""
    site = quiet
    site.extra["server"] = {"server": f"min-secret-length: {LEAST}\n"}
    site.configure()
    password, good, reason = site.admin_password, "x" * LEAST, f"at least {LEAST} characters"
    assert len(password) < LEAST
    with site.running() as (_bridge, server):
        for words, secrets in (
            (["new-user", "carol", "--with-password"], [password]),
            (["modify-user", "bob", "--change-password"], [password]),
            (["new-key", "k2", "--key-type", "ECC"], [password]),
            (["grant-key-access", KEY, "trent"], [passphrase("admin")]),
            (["change-passphrase", KEY], [passphrase("admin")]),
        ):
            for new in ("x", "x" * (LEAST - 1), "ü" * (LEAST - 1)):
                done = site.sigul(*words, secrets=[*secrets, new], code=1)
                assert reason in done.stderr.decode(), words
            site.sigul(*words, secrets=[*secrets, good])
        # The file's own passphrase may be short: it is not kept.
        file = key_file(site.path("key.pem"), "s")
        words = ["import-key", "k3", "--key-type", "ECC", str(file)]
        assert reason in site.sigul(*words, secrets=[password, "s", "x"], code=1).stderr.decode()
        site.sigul(*words, secrets=[password, "s", good])
        assert "Traceback" not in server.text
    refused = add_admin(site, "x" * (LEAST - 1), code=1)
    assert reason in refused
    add_admin(site, good, code=0)


def key_file(path: Path, password: str) -> Path:
    """A new secret key in a file that the password opens."""
    path.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(password.encode()),
        )
    )
    return path


def add_admin(site: Site, password: str, code: int) -> str:
    """Run `sigul_server_add_admin`; what it says."""
    return site.run(
        *module("server_add_admin"), "-c", str(site.path("server.conf")), "--batch",
        "-n", "second", secrets=[password], code=code,
    ).stderr.decode()  # fmt: skip


# ----------------------------------------------------------------------------------------- MD5


# More than 5 s: two starts of the site, and rpmbuild.
def test_an_rpm_for_which_md5_alone_speaks(
    quiet: Site, attacker: AttackerFactory, honest_at: HonestFactory, tmp_path: Path
) -> None:
    """Whoever sits in the bridge's place puts another RPM of the same MD5 there."""
    package = build(tmp_path)
    script = {
        "op": "sign-rpm", "user": "trent", "payload": package.read_bytes(),
        "fields": {"key": TRENTS_KEY.encode(), "rpm-sigmd5": sigmd5(package)},
        "secrets": {"passphrase": passphrase("trent", TRENTS_KEY).encode()},
        "inner": {"payload-auth-sha512": None}, "patience": 60.0,
    }  # fmt: skip
    # As before, where the option is absent.
    with quiet.running():
        assert attacker(quiet, "trent").run(**script)["status"] == Status.OK
    quiet.extra["server"] = {"server": "accept-sigmd5-alone: no\n"}
    quiet.configure()
    with quiet.running() as (_bridge, server):
        client = attacker(quiet, "trent")
        with honest_at(quiet).during("RPMs by MD5 alone"):
            told = client.run(**script)
        assert told["status"] == Status.UNAUTHENTICATED_RPM
        assert b"accept-sigmd5-alone" in told["fields"]["message"]
        assert "accept-sigmd5-alone" in server.text
        # The digest beside the MD5 makes it good; and a file is sent with one.
        assert client.run(**{**script, "inner": {}})["status"] == Status.OK
        out = tmp_path / "signed.rpm"
        quiet.sigul(
            "sign-rpm", "-o", str(out), TRENTS_KEY, str(package),
            secrets=[passphrase("trent", TRENTS_KEY)], config="trent.conf",
        )  # fmt: skip
        assert out.read_bytes() != package.read_bytes()
