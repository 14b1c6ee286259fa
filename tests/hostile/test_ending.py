"""Requests under way whose rights are taken back: they end at once, with the reason.

Trent's request is held where it can last: in the middle of a tool, waiting for the next RPM, waiting
for a server, being sent. Meanwhile alice and bob sign.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sigul_stack.pki import NSSDatabase, read_password
from tests.hostile.conftest import TRENTS_KEY, Ground, HonestFactory, passphrase
from tests.integration.commands_support import rows
from tests.integration.rpm_support import build
from tests.integration.test_failures_in_flight import Gate
from tests.site import PROGRAM_SECONDS, Site, module, nul, popen, wait_until

#: A limit against hanging: what ends does so within two or three seconds.
END_SECONDS = 15.0


class Held:
    """A command of trent's that is under way."""

    def __init__(self, site: Site, *words: str) -> None:
        self.popen = popen(
            [*module("sigul"), "--batch", "-c", str(site.path("trent.conf")), *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=site.environment,
        )  # fmt: skip
        assert self.popen.stdin is not None
        self.popen.stdin.write(nul(passphrase("trent", TRENTS_KEY)))
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
        assert self.popen.returncode == 1
        return errors.decode()


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


def in_a_tool(ground: Ground, gate: Gate) -> tuple[Held, int]:
    """A signature of trent's that gpg is making; and the number of gpg's process."""
    ((fingerprint,),) = rows(ground.site, "SELECT fingerprint FROM keys WHERE name = ?", TRENTS_KEY)
    gate.close(str(fingerprint))
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


def distrust(site: Site, *databases: str, user: str = "trent") -> None:
    """Have these components' databases distrust a user's certificate, as an administrator does."""
    directory = site.path("pki/clients") / user
    leaf = NSSDatabase(directory, read_password(directory / "nss-password"))
    certificate = leaf.find("sigul-client-cert").certificate
    from cryptography.hazmat.primitives.serialization import Encoding

    file = site.path("distrusted.pem")
    file.write_bytes(certificate.public_bytes(Encoding.PEM))
    for name in databases:
        database = site.path("pki") / name
        subprocess.run(
            ["certutil", "-A", "-d", f"sql:{database}", "-f", str(database / "nss-password"),
             "-n", f"distrusted-{user}", "-t", "p,p,p", "-a", "-i", str(file)],
            check=True, timeout=PROGRAM_SECONDS,
        )  # fmt: skip


TAKEN_BACK = [revoke, delete_user, delete_key]


# Each more than 5 s: a site of its own, and honest users beside it.
@pytest.mark.parametrize("take_back", TAKEN_BACK)
def test_a_signature_in_the_making_ends_with_the_right_to_it(
    field: Ground, gate: Gate, honest_at: HonestFactory, take_back: Callable[[Site], None]
) -> None:
    held, _gpg = in_a_tool(field, gate)
    with honest_at(field.site).during(f"{take_back.__name__} while gpg signs"):
        take_back(field.site)
        told = held.refused(gate.open)
    assert told == "Error: Authentication failed\n"
    assert not field.site.path("stolen").exists()


@pytest.mark.parametrize("take_back", TAKEN_BACK)
def test_rpms_that_are_yet_to_come_are_not_waited_for(
    field: Ground,
    honest_at: HonestFactory,
    take_back: Callable[[Site], None],
    tmp_path: Path,
) -> None:
    held, _second = between_two_rpms(field, tmp_path)
    with honest_at(field.site).during(f"{take_back.__name__} between two RPMs"):
        take_back(field.site)
        field.server.wait_for("the request is ended", seconds=END_SECONDS)
    held.popen.kill()
    held.popen.communicate()


@pytest.mark.parametrize("where", ["bridge", "server"])
def test_a_distrusted_certificate_ends_a_signature_in_the_making(
    field: Ground, gate: Gate, honest_at: HonestFactory, where: str
) -> None:
    held, _gpg = in_a_tool(field, gate)
    with honest_at(field.site).during(f"distrusted at the {where} while gpg signs"):
        distrust(field.site, where)
        getattr(field, where).popen.send_signal(signal.SIGHUP)
        told = held.refused(gate.open)
    print(told)
    assert not field.site.path("stolen").exists()
