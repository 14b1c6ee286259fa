"""Who fills the server's spool is told which limit it was, and honest requests go on meanwhile.

Texts are kept until they are signed. Of what `sign-data` signs nothing is kept, so that no limit of
the spool is for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from sigul_stack.errors import Status
from sigul_stack.transport.status_socket import read_status
from tests.faults.observe import children
from tests.hostile.conftest import (
    KEY,
    TRENTS_KEY,
    AttackerFactory,
    HonestFactory,
    passphrase,
)
from tests.integration.commands_support import person
from tests.site import Process, Site, wait_until

MIB = 1024**2
#: Of all requests together, in these tests; half of it is for those before proof.
SPOOL = 64 * MIB
#: More than that, and three times what those before proof may have.
LARGE = 100 * MIB
#: Of texts: 16 bytes.
LINE = b"a line of a tex\n"

pytestmark = [
    pytest.mark.once("our own accounts"),
    # The requests of a site that is new, and hundreds of MiB that are sent to it.
    pytest.mark.timeout(300),
]


def started(site: Site, *lines: str) -> tuple[Process, Process]:
    """Start bridge and server, with these lines in the server's section."""
    site.extra["server"] = {
        "server": "".join(f"{line}\n" for line in lines),
        "daemon": f"status-socket: {site.path('run/server.sock')}\n",
    }
    site.configure()
    return site.start_bridge(), site.start_server(4)


def refusals(site: Site) -> int:
    """How often the server has refused room in its spool."""
    status = json.loads(read_status(site.path("run/server.sock"), 10))
    counted: int = status["totals"]["spool_refusals_total"]
    return counted


def large(who: str, key: str = KEY, **other: object) -> dict[str, Any]:
    """A request of somebody's with a large payload and a guessed passphrase."""
    return {
        "op": "sign-text", "user": who, "fields": {"key": key.encode()},
        "secrets": {"passphrase": b"a guess"}, "zeros": LARGE, "chunk": 65536, "stop": "error",
        **other,
    }  # fmt: skip


def sign(
    site: Site, user: str, size: int, code: int | None = 0, *, command: str = "sign-text"
) -> str:
    """Sign a text of so many bytes with `sigul`; what it says."""
    data, out = site.path(f"{user}-{size}.data"), site.path(f"{user}-{size}.sig")
    data.write_bytes(LINE * (size // len(LINE)))
    done = site.sigul(
        command, "-o", str(out), KEY, str(data),
        secrets=[passphrase(user)], config=f"{user}.conf", code=code,
    )  # fmt: skip
    return done.stderr.decode()


def test_a_certificate_that_is_no_user_does_not_fill_the_spool(
    quiet: Site, honest_at: HonestFactory, attacker: AttackerFactory
) -> None:
    _bridge, server = started(quiet, f"max-spool-size: {SPOOL}")
    crowd = attacker(quiet, "mallory", "crowd")
    with honest_at(quiet).during(f"3 x {LARGE // MIB} MiB of no user's"):
        crowd.start(scripts=[large("mallory")], each=3)
        server.wait_for("gets no more: ")
        # One that has to lie in the spool, too; and one that could not.
        sign(quiet, "bob", 2 * MIB)
        sign(quiet, "bob", SPOOL // 2 + MIB, command="sign-data")
        clients = crowd.result(200)
    for client in clients:
        assert client["error"] is None
        assert client["result"]["status"] == Status.UNKNOWN_ERROR
        reason = client["result"]["fields"]["message"].decode()
        assert "before its rights are proven" in reason
        assert "(max-spool-size)" in reason
    assert refusals(quiet) == 3


def test_a_floor_of_free_space_stays(
    quiet: Site, honest_at: HonestFactory, attacker: AttackerFactory
) -> None:
    """Nothing is free above the floor: what fits into memory goes on."""
    free = os.statvfs(quiet.directory)
    started(quiet, f"spool-min-free: {free.f_blocks * free.f_frsize}")
    mallory = attacker(quiet)
    with honest_at(quiet).during("a payload that finds no room"):
        told = mallory.run(**large("mallory", zeros=8 * MIB))
    assert told["status"] == Status.UNKNOWN_ERROR
    assert b"of its file system stay free (spool-min-free)" in told["fields"]["message"]


@pytest.mark.long("sigul_stack/server")
def test_one_users_requests_have_a_limit_of_their_own(
    quiet: Site, honest_at: HonestFactory
) -> None:
    started(quiet, f"max-spool-size-per-user: {4 * MIB}")
    with honest_at(quiet).during("a user with more than his part"):
        said = sign(quiet, "trent", 8 * MIB, code=1)
        assert f"max-spool-size-per-user of {4 * MIB} bytes" in said
        # It has the text and the signed text in the spool.
        sign(quiet, "bob", 2 * MIB)
        sign(quiet, "bob", 8 * MIB, command="sign-data")
    assert refusals(quiet) == 1


def test_a_message_that_becomes_large_is_stopped(
    quiet: Site, honest_at: HonestFactory, tmp_path: Path
) -> None:
    _bridge, server = started(quiet, f"max-spool-size: {SPOOL}")
    secrets = [passphrase("trent", TRENTS_KEY)]
    public = quiet.sigul("get-public-key", TRENTS_KEY, secrets=secrets, config="trent.conf").stdout
    message, zeros = tmp_path / "message", tmp_path / "zeros"
    with zeros.open("wb") as file:
        file.truncate(4 * SPOOL)
    with person(tmp_path / "person", public) as gpg:
        gpg("--encrypt", "--recipient", TRENTS_KEY, "-o", str(message), str(zeros))
    assert message.stat().st_size < MIB
    with honest_at(quiet).during("a decompression bomb"):
        done = quiet.sigul(
            "decrypt", TRENTS_KEY, str(message), "-o", str(tmp_path / "clear"),
            secrets=secrets, config="trent.conf", code=1,
        )  # fmt: skip
    assert "over its max-spool-size" in done.stderr.decode()
    assert not (tmp_path / "clear").exists()
    assert refusals(quiet) == 1
    # The bytes that it had by then: no more than all may have, but for what gpg writes in between.
    (line,) = (line for line in server.text.splitlines() if "gets no more: " in line)
    assert int(line.partition("A request with ")[2].split()[0]) <= SPOOL


def test_what_a_killed_worker_held_is_given_back(quiet: Site, attacker: AttackerFactory) -> None:
    _bridge, server = started(quiet, f"max-spool-size: {SPOOL}")
    mallory = attacker(quiet)
    # As much as a single request may have, and a byte that does not come.
    held = SPOOL // 4 - MIB
    mallory.start(**large("mallory", zeros=held, length=held + 1, stop="request"))
    mallory.wait_for("stalled", 60)
    wait_until(lambda: sign(quiet, "bob", 14 * MIB, code=None) != "", 60, "a full spool")
    for worker in children(server.popen.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
    wait_until(lambda: sign(quiet, "bob", 14 * MIB, code=None) == "", 60, "an empty spool")
