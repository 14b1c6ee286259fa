"""Logs of real daemons in JSON: in a file, at the sockets of journald and syslog; and `trace`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import sys
import threading
from pathlib import Path

import pytest

from tests.journal import fields_of
from tests.site import DAEMON_SECONDS, Site, module, ties, wait_until

from .commands_support import ADMIN

pytestmark = pytest.mark.once("what our own programs write, and where")

#: Runs a daemon with other sockets and more options: JOURNAL SYSLOG DIRECTORY PYTHON -m MODULE …
WITH_SOCKETS = """
import importlib, sys
from pathlib import Path
from sigul_stack.cli import log_sockets
log_sockets.JOURNAL_SOCKET, log_sockets.SYSLOG_SOCKET = map(Path, sys.argv[1:3])
name, options = sys.argv[6], sys.argv[7:]
sys.argv = [name, *options, "--internal-log-dir", sys.argv[3]]
importlib.import_module(name).program()
"""


class Taken:
    """What listens at a socket, and the datagrams that have come so far."""

    def __init__(self, path: Path) -> None:
        self.all: list[bytes] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(os.fspath(path))
        # All the time, as they do: the kernel keeps few.
        self._thread = threading.Thread(target=self._take)
        self._thread.start()

    def _take(self) -> None:
        while data := self._socket.recv(1 << 17):
            self.all.append(data)

    def have(self, text: bytes) -> bool:
        return any(text in data for data in self.all)

    def end(self) -> None:
        """Take what has come, and end."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()


def test_json_in_a_file_and_at_the_systems_logs(template: Site, tmp_path: Path) -> None:
    site = Site.copy(template, tmp_path / "site")
    site.extra["bridge"] = {"logging": "log-format: json\nlog-to: stderr, file, journald, syslog\n"}
    site.extra["server"] = {"logging": "log-format: text\nlog-to: stderr, syslog\n"}
    site.configure()
    files = tmp_path / "files"
    files.mkdir()
    prefix = (sys.executable, "-c", WITH_SOCKETS, str(tmp_path / "j"), str(tmp_path / "s"),
              str(files))  # fmt: skip
    journals, lines = Taken(tmp_path / "j"), Taken(tmp_path / "s")
    with contextlib.ExitStack() as ends:
        ends.callback(journals.end)
        ends.callback(lines.end)
        ends.callback(site.stop_all)
        bridge = site.start("bridge", prefix=prefix)
        bridge.wait_for("Waiting for the server to connect")
        site.start_server(prefix=prefix)
        told = site.sigul("list-users", secrets=[ADMIN], options=["-v", "--log-format", "json"])
        said = [json.loads(line) for line in told.said.splitlines()]
        [id_] = {line["request"] for line in said if line["event"] == "request-id"}
        end = b"loop completed normally"
        wait_until(lambda: journals.have(end), DAEMON_SECONDS, "the journal's last line")
        wait_until(lambda: lines.have(b"user 'admin' done"), DAEMON_SECONDS, "the server's line")
        wait_until(lambda: lines.have(end), DAEMON_SECONDS, "syslog's last line")
    assert not (files / "sigul_server.log").exists()  # an option names a place, log-to another

    log = (files / "sigul_bridge.log").read_text("ascii").splitlines()
    members = [json.loads(line) for line in log]
    assert {line["component"] for line in members} == {"bridge"}
    assert len({line["pid"] for line in members}) > 1  # the parent's, and the one that serves
    [tie] = [
        line for line in members if (line["event"], line.get("request")) == ("request-id", id_)
    ]
    assert tie["fields"] == {"request": id_, "connection": tie["connection"]}
    assert bridge.text.splitlines() == log

    sent = [fields_of(data) for data in journals.all]
    mine = [fields for fields in sent if fields.get("SIGUL_REQUEST") == id_.encode()]
    assert {fields["SIGUL_CONNECTION"] for fields in mine} == {tie["connection"].encode()}
    assert b"forward-completed" in {fields["SIGUL_EVENT"] for fields in mine}
    assert {fields["MESSAGE"].decode() for fields in mine} <= set(log)

    # Text of the server, JSON of the bridge, with a head before each.
    text = [data.decode() for data in lines.all]
    of_server = [line for line in text if "sigul_server[" in line]
    of_bridge = [line for line in text if "sigul_bridge[" in line]
    assert [found for found, _ in ties("\n".join(of_server))].count(id_) == 1
    assert any(json.loads(line.partition("]: ")[2]).get("request") == id_ for line in of_bridge)

    client, both = tmp_path / "client.json", tmp_path / "both"
    client.write_bytes(told.said)
    both.write_text("\n".join([*log, *of_server]) + "\n")
    assert of_trace(site, id_, files / "sigul_bridge.log", client) >= {"bridge", "client"}
    assert of_trace(site, id_, both) == {"bridge", "server"}


def of_trace(site: Site, id_: str, *logs: Path) -> set[str]:
    """The programs whose lines `sigul-stack trace` finds."""
    told = site.run(*module("stack"), "trace", id_, *map(str, logs))
    assert told.stderr == b""
    marks = {
        "bridge": r"\[BRIDGE_REQUEST\] Client connected",
        "server": "Request 'list-users' of user 'admin' done",
        "client": r"Request \w+ is on connection r\d",
    }
    return {name for name, mark in marks.items() if re.search(mark, told.stdout.decode())}


def test_what_cannot_be_logged_ends_the_start(template: Site, tmp_path: Path) -> None:
    """It is said where the daemon is started, in the foreground and in the background."""
    site = Site.copy(template, tmp_path / "site")
    site.extra["bridge"] = {"logging": "log-to: stderr\n"}
    site.configure()
    command = [*module("bridge"), "-c", str(site.path("bridge.conf"))]
    run = f"--internal-pid-dir={site.path('run')}"
    refused = site.run(*command, "-d", run, stdin=b"", code=1)
    assert b"Error: [logging] log-to has stderr, and a daemon in the background" in refused.stderr
    site.extra["bridge"] = {"logging": "log-to: syslog\n"}
    site.configure()
    prefix = [sys.executable, "-c", WITH_SOCKETS, str(tmp_path / "j"), str(tmp_path / "s"),
              str(tmp_path)]  # fmt: skip
    refused = site.run(*prefix, *command, stdin=b"", code=1)
    assert b"Error: [logging] log-to has syslog, and nothing takes lines" in refused.stderr


def test_an_error_of_the_start_is_told_where_the_log_is_elsewhere(
    template: Site, tmp_path: Path
) -> None:
    site = Site.copy(template, tmp_path / "site")
    site.extra["server"] = {
        "logging": "log-to: file\n",
        "server": f"signing-log: {tmp_path}/none/log\n",
    }
    site.configure()
    refused = site.run(
        *module("server"), "-c", str(site.path("server.conf")), f"--internal-log-dir={tmp_path}",
        stdin=b"", code=1,
    )  # fmt: skip
    [line] = [line for line in refused.stderr.decode().splitlines() if line.startswith("Error: ")]
    assert "none" in line
    log = (tmp_path / "sigul_server.log").read_text()
    assert line.removeprefix("Error: ") in log
