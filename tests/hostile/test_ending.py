"""Requests under way whose rights are taken back: they end at once, with the reason.

Trent's request is held where it can last: in the middle of a tool, waiting for the next RPM, or
being sent. Meanwhile alice and bob sign.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from sigul_stack.cli.outcome import MAY_HAVE_HAPPENED
from sigul_stack.errors import Status
from sigul_stack.formats.keybox import find_key
from sigul_stack.formats.openpgp_certificate import read_certificate
from sigul_stack.pki import NSSDatabase, read_password
from sigul_stack.protocol.status import decode_status
from sigul_stack.transport.status_socket import read_status
from tests.faults.observe import children
from tests.hostile.conftest import (
    KEY,
    TRENTS_KEY,
    AttackerFactory,
    Ground,
    HonestFactory,
    passphrase,
)
from tests.integration.commands_support import rows
from tests.integration.rpm_support import build
from tests.integration.test_failures_in_flight import Gate
from tests.site import (
    PROGRAM_SECONDS,
    Site,
    has_ended,
    module,
    nul,
    popen,
    ties,
    wait_until,
    without_ids,
)

#: A limit against hanging: what ends does so within two or three seconds.
END_SECONDS = 15.0

#: What a client says whose server had its secrets.
UNKNOWN = "; the server may have done it: look there before you ask again\n"


class Held:
    """A command of trent's that is under way."""

    def __init__(self, site: Site, *words: str, secrets: Sequence[str] = ()) -> None:
        self.popen = popen(
            [*module("sigul"), "--batch", "-c", str(site.path("trent.conf")), *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=site.environment,
        )  # fmt: skip
        assert self.popen.stdin is not None
        self.popen.stdin.write(nul(*(secrets or [passphrase("trent", TRENTS_KEY)])))
        self.popen.stdin.close()
        self.popen.stdin = None

    def refused(self, otherwise: Callable[[], object]) -> str:
        """What it says at its end, which has to come by itself; else what came of it after all."""
        try:
            _, errors = self.popen.communicate(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            otherwise()
            _, errors = self.popen.communicate(timeout=PROGRAM_SECONDS)
            raise AssertionError(
                f"it went on, and ended with code {self.popen.returncode}: {errors.decode()!r}"
            ) from None
        assert self.popen.returncode in (1, MAY_HAVE_HAPPENED)
        return without_ids(errors).decode()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """Holds up gpg with trent's key, and nobody else's."""
    return Gate(tmp_path / "gate")


@pytest.fixture
def field(quiet: Site, gate: Gate) -> Iterator[Ground]:
    """A running site whose server has that gpg; status sockets."""
    for name in ("bridge", "server"):
        path = quiet.path(f"run/{name}.sock")
        quiet.extra[name] = {"daemon": f"status-socket: {path}\n"}
    quiet.configure()
    bridge = quiet.start_bridge()
    yield Ground(quiet, bridge, quiet.start_server(2, environment=gate.environment))
    quiet.stop_all()


def trents_keygrip(site: Site) -> str:
    """The name that gpg-agent has for the key with which trent signs."""
    ((fingerprint,),) = rows(site, "SELECT fingerprint FROM keys WHERE name = ?", TRENTS_KEY)
    box = site.path("server/gnupg/pubring.kbx").read_bytes()
    key = find_key(box, bytes.fromhex(fingerprint))
    assert key is not None
    part = read_certificate(key).signing_part(time.time(), lambda _part: True)
    return part.keygrip.hex().upper()


def in_a_tool(ground: Ground, gate: Gate) -> tuple[Held, int]:
    """A signature of trent's that the agent is to make; and the process that waits for it."""
    gate.close(f"SIGKEY {trents_keygrip(ground.site)}")
    data = ground.site.path("data")
    data.write_bytes(b"data")
    held = Held(
        ground.site, "sign-data", TRENTS_KEY, str(data), "-o", str(ground.site.path("stolen"))
    )
    gate.wait()
    return held, gate._numbers()[1]


def between_two_rpms(ground: Ground, tmp_path: Path) -> tuple[Held, Path]:
    """A request of trent's for two RPMs, of which the second is yet to come: through a FIFO."""
    first, second, out = build(tmp_path), tmp_path / "second.rpm", ground.site.path("out")
    os.mkfifo(second)
    held = Held(ground.site, "sign-rpms", "-o", str(out), TRENTS_KEY, str(first), str(second))
    wait_until((out / first.name).exists, PROGRAM_SECONDS, "the first RPM's signing")
    return held, second


def revoke(site: Site) -> None:
    """Take trent's access away."""
    site.sigul(
        "revoke-key-access", "--password", TRENTS_KEY, "trent", secrets=[site.admin_password]
    )


def delete_user(site: Site) -> None:
    """Delete trent."""
    revoke(site)
    site.sigul("delete-user", "trent", secrets=[site.admin_password])


def delete_key(site: Site) -> None:
    """Delete the key."""
    site.sigul("delete-key", TRENTS_KEY, secrets=[site.admin_password])


def certutil(database: Path, *words: str) -> None:
    """Run certutil on a database."""
    subprocess.run(
        ["certutil", *words, "-d", f"sql:{database}", "-f", str(database / "nss-password")],
        check=True, timeout=PROGRAM_SECONDS, stdin=subprocess.DEVNULL, capture_output=True,
    )  # fmt: skip


def distrust(site: Site, *databases: str, user: str = "trent") -> None:
    """Have these components' databases distrust a certificate, as an administrator does.

    It is a user's, or the server's.
    """
    directory = site.path("pki/clients") / user
    leaf = NSSDatabase(directory, read_password(directory / "nss-password"))
    nickname = "sigul-server-cert" if user == "../server" else "sigul-client-cert"
    certificate = leaf.find(nickname).certificate
    file = site.path("distrusted.pem")
    file.write_bytes(certificate.public_bytes(Encoding.PEM))
    for name in databases:
        database = site.path("pki") / name
        subprocess.run(
            ["certutil", "-A", "-d", f"sql:{database}", "-f", str(database / "nss-password"),
             "-n", f"distrusted-{Path(user).name}", "-t", "p,p,p", "-a", "-i", str(file)],
            check=True, timeout=PROGRAM_SECONDS,
        )  # fmt: skip


TAKEN_BACK = [revoke, delete_user, delete_key]


def ask_stack(site: Site, *words: str) -> str:
    """The output of a command of `sigul-stack`."""
    return site.run(*module("stack"), *words).stdout.decode()


def end(site: Site, where: str, name: str = "trent") -> str:
    """Have somebody at the bridge or server end what is under way of `name`."""
    return ask_stack(site, "requests", "end", name, "-c", str(site.path(f"{where}.conf")))


def listed(site: Site, where: str) -> str:
    """What is under way there."""
    return ask_stack(site, "requests", "list", "-c", str(site.path(f"{where}.conf")))


def ended(site: Site, where: str) -> int:
    """How many requests that daemon counts as ended."""
    status = decode_status(read_status(site.path(f"run/{where}.sock"), PROGRAM_SECONDS))
    return status.totals["requests_ended_total"]


# Each more than 5 s: a site of its own, and honest users beside it.
@pytest.mark.parametrize(
    "take_back",
    [
        revoke,
        *(
            pytest.param(way, marks=pytest.mark.once("gpg ends as after a revocation"))
            for way in TAKEN_BACK
            if way is not revoke
        ),
    ],
)
def test_a_signature_in_the_making_ends_with_the_right_to_it(
    field: Ground, gate: Gate, honest_at: HonestFactory, take_back: Callable[[Site], None]
) -> None:
    held, gpg = in_a_tool(field, gate)
    with honest_at(field.site).during(f"{take_back.__name__} while gpg signs"):
        take_back(field.site)
        told = held.refused(gate.open)
    assert told == "Error: Authentication failed\n"
    assert has_ended(gpg)
    assert not field.site.path("stolen").exists()
    wait_until(lambda: ended(field.site, "server") == 1, PROGRAM_SECONDS, "the count")


def rename(site: Site) -> None:
    """Give trent another name."""
    site.sigul("modify-user", "--new-name", "other", "trent", secrets=[site.admin_password])


def demote(site: Site) -> None:
    """Make trent an ordinary user."""
    site.sigul("modify-user", "--admin", "no", "trent", secrets=[site.admin_password])


@pytest.mark.once("when rights are looked at; gpg and NSS are in the tests above")
@pytest.mark.parametrize("take_back", [rename, demote])
def test_who_is_no_administrator_any_more_makes_no_key(
    field: Ground, gate: Gate, honest_at: HonestFactory, take_back: Callable[[Site], None]
) -> None:
    site = field.site
    site.sigul(
        "modify-user", "--admin", "yes", "--change-password", "trent",
        secrets=[site.admin_password, "trents password"],
    )  # fmt: skip
    gate.close("--full-generate-key")
    held = Held(site, "new-key", "another", secrets=["trents password", "trents passphrase"])
    gate.wait()
    gpg = gate._numbers()[1]
    with honest_at(site).during(f"{take_back.__name__} while a key is made"):
        take_back(site)
        told = held.refused(gate.open)
    assert told == "Error: Authentication failed\n"
    assert has_ended(gpg)
    gate.open()
    assert rows(site, "SELECT name FROM keys ORDER BY name") == [(KEY,), (TRENTS_KEY,)]


# Each more than 5 s, as above.
@pytest.mark.once("when rights are looked at; gpg and NSS are in the tests above")
@pytest.mark.parametrize("take_back", TAKEN_BACK)
def test_rpms_that_are_yet_to_come_are_not_waited_for(
    field: Ground, honest_at: HonestFactory, take_back: Callable[[Site], None], tmp_path: Path
) -> None:
    held, _second = between_two_rpms(field, tmp_path)
    with honest_at(field.site).during(f"{take_back.__name__} between two RPMs"):
        take_back(field.site)
        wait_until(lambda: ended(field.site, "server") == 1, END_SECONDS, "the request's end")
    field.server.wait_for("Request 'sign-rpms' of user 'trent': the rights that it was let in with")
    held.popen.kill()
    held.popen.communicate()


@pytest.mark.once("when rights are looked at; gpg and NSS are in the tests above")
def test_an_rpm_in_the_making_is_refused_before_its_request_is_cut_off(
    field: Ground, gate: Gate, honest_at: HonestFactory, tmp_path: Path
) -> None:
    gate.close(f"SIGKEY {trents_keygrip(field.site)}")
    out = field.site.path("out")
    held = Held(field.site, "sign-rpms", "-o", str(out), TRENTS_KEY, str(build(tmp_path)))
    gate.wait()
    with honest_at(field.site).during("revoke while an RPM is signed"):
        revoke(field.site)
        told = held.refused(gate.open)
    assert told.endswith(": Authentication failed\n")
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("where", ["bridge", "server"])
def test_a_distrusted_certificate_ends_a_signature_in_the_making(
    field: Ground, gate: Gate, honest_at: HonestFactory, where: str
) -> None:
    held, gpg = in_a_tool(field, gate)
    with honest_at(field.site).during(f"distrusted at the {where} while gpg signs"):
        distrust(field.site, where)
        getattr(field, where).popen.send_signal(signal.SIGHUP)
        told = held.refused(gate.open)
    assert told == {
        "bridge": "Error: the bridge says: your certificate is no longer good here" + UNKNOWN,
        "server": "Error: Authentication failed\n",
    }[where]  # fmt: skip
    if where == "server":
        assert has_ended(gpg)
    else:
        gate.open()
    assert not field.site.path("stolen").exists()


@pytest.mark.parametrize("distrusted", ["trent", "the CA", "mallory"])
def test_who_had_connected_before_is_served_only_with_a_good_certificate(
    field: Ground, attacker: AttackerFactory, distrusted: str
) -> None:
    """The worker that has trent's request has opened NSS before; some changes NSS sees then."""
    client = attacker(field.site, "trent")
    client.start(
        op="sign-data", user="trent", fields={"key": TRENTS_KEY.encode()}, payload=b"data",
        secrets={"passphrase": passphrase("trent", TRENTS_KEY).encode()}, hold_secrets=True,
    )  # fmt: skip
    client.wait_for("sent")
    field.bridge.wait_for("Paired with server")
    if distrusted == "the CA":
        certutil(field.site.path("pki/server"), "-M", "-n", "sigul-ca", "-t", "p,p,p")
    else:
        distrust(field.site, "server", user=distrusted)
    field.server.popen.send_signal(signal.SIGHUP)
    field.server.wait_for("The configuration is taken")
    client.go()
    if distrusted == "trent":
        told = client.outcome()
        refused_there = "SSL_ERROR_ACCESS_DENIED_ALERT" in str(told["error"])
        assert refused_there or told["result"]["status"] == Status.AUTHENTICATION_FAILED
    elif distrusted == "the CA":
        assert client.result()["status"] == Status.AUTHENTICATION_FAILED
        field.server.wait_for("its client's certificate is no longer good; it does not begin")
        assert ended(field.site, "server") == 1
    else:
        told = client.result()
        assert (told["status"], told["ended"]) == (Status.OK, True)
        assert ended(field.site, "server") == 0


def test_a_server_that_is_distrusted_gets_no_further(field: Ground, gate: Gate) -> None:
    """Its client is told that the server was it; the server's own connections end."""
    held, _gpg = in_a_tool(field, gate)
    distrust(field.site, "bridge", user="../server")
    field.bridge.popen.send_signal(signal.SIGHUP)
    told = held.refused(gate.open)
    assert told == (
        "Error: the bridge says: the certificate of the signing server that served it is no longer"
        " good; try again" + UNKNOWN
    )
    gate.open()


@pytest.mark.once("our own sockets and signals")
def test_a_database_that_cannot_be_read_for_a_moment_ends_nothing(
    field: Ground, gate: Gate
) -> None:
    held, _gpg = in_a_tool(field, gate)
    file = field.site.path("server/server.sqlite")
    away = file.rename(file.with_name("away"))
    field.server.wait_for("Whether the request's rights last cannot be told just now")
    away.rename(file)
    gate.open()
    _, errors = held.popen.communicate(timeout=PROGRAM_SECONDS)
    assert (held.popen.returncode, errors) == (0, b"")
    assert ended(field.site, "server") == 0


LOOK = """
import sys
from sigul_stack.config.shared import NSSSettings
from sigul_stack.secret import Secret
from sigul_stack.transport import nss
from sigul_stack.transport.nss_certificates import Look
directory, *certificates = sys.argv[1:]
password = open(f"{directory}/nss-password", "rb").read().strip()
nss.open_database(NSSSettings(directory=f"sql:{directory}", password=Secret(password)))
look = Look.at(open(name, "rb").read() for name in certificates)
look.run(look.good.add)
print(len(look.good))
"""


def test_what_a_fresh_process_takes_for_a_good_certificate(quiet: Site, tmp_path: Path) -> None:
    """With real certutil: each state of the database, for the same certificates."""
    bridge, ca = quiet.path("pki/bridge"), quiet.path("pki/ca")
    certutil(ca, "-S", "-n", "old", "-s", "CN=old", "-c", "sigul-ca", "-t", ",,", "-w", "-24",
             "-v", "1", "-z", "/dev/null", "-m", "4711")  # fmt: skip
    files = {}
    for name, database, nickname in (
        ("trent", quiet.path("pki/clients/trent"), "sigul-client-cert"),
        ("mallory", quiet.path("pki/clients/mallory"), "sigul-client-cert"),
        ("server", quiet.path("pki/server"), "sigul-server-cert"),
        ("old", ca, "old"),
    ):
        files[name] = tmp_path / name
        certutil(database, "-L", "-n", nickname, "-r", "-o", str(files[name]))
    files["none"] = tmp_path / "none"
    files["none"].write_bytes(b"\x30\x82")

    def good(*names: str) -> int:
        done = quiet.run(
            sys.executable, "-c", LOOK, str(bridge), *(str(files[name]) for name in names)
        )
        return int(done.stdout)

    assert good("trent", "mallory", "server") == 3
    assert good("old", "none") == 0
    distrust(quiet, "bridge")
    assert (good("trent"), good("mallory")) == (0, 1)
    certutil(bridge, "-M", "-n", "sigul-ca", "-t", "p,p,p")
    assert good("mallory", "server") == 0
    certutil(bridge, "-M", "-n", "sigul-ca", "-t", "CT,,")
    assert good("mallory", "server") == 2
    certutil(bridge, "-D", "-n", "sigul-ca")
    assert good("mallory", "server") == 0


@pytest.mark.once("our own sockets and signals")
def test_the_command_ends_a_name_s_requests_wherever_they_are(
    field: Ground, gate: Gate, honest_at: HonestFactory
) -> None:
    site = field.site
    assert end(site, "bridge") == end(site, "server") == "0 requests of 'trent' were ended\n"
    held, gpg = in_a_tool(field, gate)
    line = "s: sign-data of 'trent' with the certificate of 'trent', request "
    told = {listed(site, where).partition(line)[2] for where in ("bridge", "server")}
    # Both have the id by which the request is in both their logs.
    [id_] = told
    assert id_.rstrip("\n") in {found for found, _ in ties(field.bridge.text)}
    with honest_at(site).during("a request is ended at the server"):
        assert end(site, "server") == "1 requests of 'trent' were ended\n"
        told = held.refused(gate.open)
    assert "the request was ended by whoever runs the server" in told
    assert has_ended(gpg)
    wait_until(lambda: ended(site, "server") == 1, PROGRAM_SECONDS, "the count")


@pytest.mark.once("our own sockets and signals")
def test_the_command_reaches_an_old_child_that_finishes_its_last_requests(
    field: Ground, gate: Gate, honest_at: HonestFactory
) -> None:
    site = field.site
    held, _gpg = in_a_tool(field, gate)
    old = field.bridge.serving
    for _ in range(2):
        serving = field.bridge.serving
        field.bridge.popen.send_signal(signal.SIGHUP)
        wait_until(lambda was=serving: field.bridge.serving != was, PROGRAM_SECONDS, "a new child")
        site.sigul("list-users", secrets=[site.admin_password])
    assert not has_ended(old)
    assert "sign-data of 'trent'" in listed(site, "bridge")
    with honest_at(site).during("a request is ended at an old child"):
        assert end(site, "bridge") == "1 requests of 'trent' were ended\n"
        told = held.refused(gate.open)
    assert told == (
        "Error: the bridge says: it was ended by whoever runs the bridge; ask them why" + UNKNOWN
    )
    wait_until(lambda: has_ended(old), PROGRAM_SECONDS, "the old child's end")
    gate.open()


@pytest.mark.once("our own sockets and signals")
def test_a_client_that_sends_is_told_why_it_may_not_go_on(
    field: Ground, attacker: AttackerFactory, honest_at: HonestFactory
) -> None:
    """At the bridge, in the middle of its payload."""
    client = attacker(field.site, "trent")
    with honest_at(field.site).during("a request is ended in the middle of its payload"):
        client.start(
            op="sign-data", user="trent", fields={"key": TRENTS_KEY.encode()},
            zeros=10**6, cut=100_000, how="stall",
        )  # fmt: skip
        client.wait_for("stalled")
        field.bridge.wait_for("Paired with server")
        assert end(field.site, "bridge") == "1 requests of 'trent' were ended\n"
        field.bridge.wait_for("The request is ended: it was ended by whoever runs the bridge")
        client.go()
        client.outcome()
    assert ended(field.site, "bridge") == 1


def test_the_honest_stay_when_certificates_are_looked_at_again(
    field: Ground, gate: Gate, honest_at: HonestFactory
) -> None:
    """Another's certificate is distrusted: who has a good one goes on, at old children too."""
    site = field.site
    held, _gpg = in_a_tool(field, gate)
    with honest_at(site).during("mallory is distrusted"):
        distrust(site, "bridge", "server", user="mallory")
        old, before = field.bridge.serving, children(field.server.popen.pid)
        for daemon in (field.bridge, field.server):
            daemon.popen.send_signal(signal.SIGHUP)
        wait_until(lambda: field.bridge.serving != old, PROGRAM_SECONDS, "a new child")
        field.server.wait_for("The configuration is taken")
        assert before
        # A second one, of trent's own, that is distrusted as well, is none of this request's.
        site.sigul("list-users", secrets=[site.admin_password])
    gate.open()
    _, errors = held.popen.communicate(timeout=PROGRAM_SECONDS)
    assert (held.popen.returncode, errors) == (0, b"")
    assert site.path("stolen").stat().st_size > 0
    assert (ended(site, "bridge"), ended(site, "server")) == (0, 0)


@pytest.mark.once("our own sockets and signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_works_for_a_client_that_has_left(
    field: Ground, gate: Gate, number: signal.Signals
) -> None:
    """Neither at the bridge nor at the server; and the next one has the place."""
    held, process = in_a_tool(field, gate)
    held.popen.send_signal(number)
    held.popen.communicate(timeout=PROGRAM_SECONDS)
    wait_until(lambda: has_ended(process), END_SECONDS, "the end of gpg")
    field.bridge.wait_for("the client left before its reply was complete")
    field.server.wait_for("its client has left, or the bridge has; the request is ended")
    for name in ("bridge", "server"):
        path = field.site.path(f"run/{name}.sock")
        wait_until(
            lambda path=path: not decode_status(read_status(path, PROGRAM_SECONDS)).requests,
            END_SECONDS,
            f"the end of the request at the {name}",
        )
    gate.open()
