"""One request's id in all three programs, in the signing log, and behind each error of `sigul`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sigul_stack.cli.outcome import BUSY
from tests.site import Process, Site, module, ties

from .commands_support import ADMIN, done
from .test_sign_job import do, job_of

AUTHENTICATION = b"Error: Authentication failed\n"


@dataclass
class Running:
    """A running site with the gnupg key `k`, and its daemons."""

    site: Site
    bridge: Process
    server: Process

    def trace(self, id_: str, *logs: Path) -> list[str]:
        """The lines about a request in the daemons' logs and further ones, without their files."""
        files = (self.bridge.log, self.server.log, *logs)
        told = self.site.run(*module("stack"), "trace", id_, *map(str, files))
        assert told.stderr == b""
        return told.stdout.decode().splitlines()


@pytest.fixture(scope="module")
def running(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    site = Site.copy(template, tmp_path_factory.mktemp("ids") / "site")
    with site.running() as (bridge, server):
        done(site, "new-key", "k", secrets=[ADMIN, "k-pw"])
        yield Running(site, bridge, server)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_text("data\n")
    return path


def test_all_three_logs_and_the_leaf_have_one_id(
    running: Running, data: Path, tmp_path: Path
) -> None:
    site = running.site
    told = site.sigul("sign-data", "k", str(data), "-o", str(tmp_path / "sig"), secrets=["k-pw"],
                      options=["-v"])  # fmt: skip
    [(id_, connection)] = ties(told.said.decode())
    assert re.fullmatch(r"r\d+", connection)
    for process, letter in ((running.bridge, "c"), (running.server, "w")):
        assert [name[0] for found, name in ties(process.text) if found == id_] == [letter]
    client = tmp_path / "client.log"
    client.write_bytes(told.said)
    running.bridge.wait_for(f"{{{id_}}} [FORWARD] forward_two_way loop completed normally")
    lines = running.trace(id_, client)
    said = [line.partition(".log: ")[2] for line in lines]
    # Each file's lines from the first about the connection to the last about the request.
    begins = ("INFO: {r", "[BRIDGE_REQUEST] Client connected", "[DOUBLE_TLS] Starting TLS")
    assert all(any(start in line for line in said) for start in begins)
    assert any(f"{{{id_}}} Request 'sign-data' of user 'admin' done" in line for line in said)
    assert not any("Server TCP connection" in line or "list-users" in line for line in said)
    times = [found[0] for line in said if (found := re.match(r"\S+Z(?= )", line))]
    assert times == sorted(times)
    listed = site.run(
        *module("stack"), "audit", "list", "--log", str(site.path("server/signing-log")), "--json"
    )
    leaves = [json.loads(line)["leaf"] for line in listed.stdout.splitlines()]
    assert [leaf["op"] for leaf in leaves if leaf.get("request") == id_] == ["sign-data"]
    assert all(re.fullmatch("[0-9a-f]{16}", leaf["request"]) for leaf in leaves if "user" in leaf)


def test_the_bridges_own_question_has_an_id(running: Running) -> None:
    running.server.wait_for("Request 'log-checkpoint' of user 'bridge' done")
    own = [id_ for id_, connection in ties(running.bridge.text) if connection.startswith("l")]
    served = dict(ties(running.server.text))
    assert own
    assert all(served[id_].startswith("w") for id_ in own)


def test_an_error_tells_the_id_on_a_line_of_its_own(running: Running) -> None:
    """The line that scripts compare is as it was."""
    words = ["--batch", "-c", str(running.site.path("client.conf"))]
    told = running.site.run(*module("sigul"), *words, "list-users", secrets=["wrong"], code=1)
    first, second, rest = told.stderr.split(b"\n")
    assert (first + b"\n", rest) == (AUTHENTICATION, b"")
    found = re.fullmatch(rb"Request ID: ([0-9a-f]{16})", second)
    assert found is not None
    assert any("refused: Authentication failed" in x for x in running.trace(found[1].decode()))
    # Without a request there is none.
    told = running.site.run(
        *module("sigul"), *words, "-f", "/dev/null", "list-keys-of-nobody", code=2
    )
    assert b"Request ID" not in told.stderr
    told = running.site.run(*module("sigul"), *words, "sign-data", "k", "/nowhere", code=1)
    assert b"Request ID" not in told.stderr


def test_an_error_behind_the_request_tells_its_id(running: Running, data: Path) -> None:
    """As where the output's place is gone by then: the server has signed."""
    told = running.site.sigul(
        "sign-data", "k", str(data), "-o", "/dev/full", secrets=["k-pw"], code=1
    )
    [id_] = told.requests
    assert any("'sign-data' of user 'admin' done" in line for line in running.trace(id_))


def test_each_of_many_files_has_its_own(running: Running, tmp_path: Path) -> None:
    files = []
    for number in range(3):
        files.append(tmp_path / f"file{number}")
        files[-1].write_text(f"{number}")
    out = tmp_path / "out"
    out.mkdir()
    for number in range(2):
        (out / f"file{number}.sig").symlink_to("/dev/full")
    told = running.site.sigul("sign-data", "--output-dir", str(out), "k", *map(str, files),
                              secrets=["k-pw"], code=1)  # fmt: skip
    assert len(told.stderr.splitlines()) == 2
    assert len({*told.requests}) == 2
    served = dict(ties(running.server.text))
    assert all(id_ in served for id_ in told.requests)
    told = running.site.sigul("sign-data", "--output-dir", str(out), "k", str(files[2]),
                              secrets=["wrong"], code=1)  # fmt: skip
    assert (told.stderr, len(told.requests)) == (AUTHENTICATION, 1)


def test_lines_that_are_kept_until_an_error_have_the_ids_of_their_requests(
    running: Running, tmp_path: Path
) -> None:
    """At `-v -v`, where they are told much later, and by another thread."""
    (tmp_path / "file.sig").symlink_to("/dev/full")
    (tmp_path / "file").write_text("data")
    told = running.site.sigul(
        "sign-data", "--output-dir", str(tmp_path), "k", str(tmp_path / "file"),
        secrets=["k-pw"], code=1, options=["-v", "-v"],
    )  # fmt: skip
    [id_] = told.requests
    lines = [line for line in told.said.decode().splitlines() if line.startswith("INFO: ")]
    assert lines
    assert all(line.startswith(f"INFO: {{{id_}}} ") for line in lines)


def test_a_request_that_no_server_gets_has_one_too(site: Site, data: Path) -> None:
    """The bridge finds it in what it reads, and forgets, of a client that it refuses."""
    site.extra = {"bridge": {"bridge": "server-wait-timeout: 0.5\n"}}
    site.configure()
    bridge = site.start_bridge()
    told = site.sigul("sign-data", "k", str(data), secrets=["k-pw"], code=BUSY)
    assert b"no signing server became free in time" in told.stderr
    [id_] = told.requests
    bridge.wait_for(f"{{{id_}}} no signing server became free in time")
    lines = site.run(*module("stack"), "trace", id_, str(bridge.log)).stdout.decode()
    assert "[BRIDGE_REQUEST] Client connected" in lines


def test_a_job_of_a_ci_tells_ids(running: Running, data: Path) -> None:
    [_, signed] = do(running.site, job_of(running.site, data))
    assert signed["event"] == "signed"
    assert signed["request"] in dict(ties(running.server.text))
    events = do(running.site, job_of(running.site, data, key="none"), 1)
    for event in events[1:]:
        assert event["event"] in ("attempt", "ended")
        assert event["reason"].endswith(f" (request ID {event['request']})")
        assert event["request"] in dict(ties(running.server.text))
