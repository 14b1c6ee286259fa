"""Standard streams, descriptors, limits, inputs and configurations as callers may leave them.

Each runs the program that it is about, with what a shell does: `>&-`, `/dev/full`, `| true`.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.conftest import KEY, KEY_PASSPHRASE
from tests.faults.observe import works
from tests.site import Process, Site, module, wait_until

_TOP = Path(__file__).parent.parent.parent
_SCRIPTS: dict[str, str] = tomllib.loads((_TOP / "pyproject.toml").read_text())["project"][
    "scripts"
]
#: Every console script's module, by its last name.
PROGRAMS = sorted(target.partition(":")[0].rpartition(".")[2] for target in _SCRIPTS.values())
SECONDS = 60.0
#: `sigul-stack`, but that it gives who may write to a FIFO half a second, not 10.
IMPATIENT = (
    sys.executable,
    "-c",
    "import sys; from sigul_stack.cli import stack; from sigul_stack.config import reading;"
    " reading.FIFO_SECONDS = 0.5; sys.exit(stack.main())",
)
#: Ways to lose standard output.
LOST = (">/dev/full", ">&-", "| true")


def shell(command: Sequence[str], rest: str, site: Site) -> subprocess.CompletedProcess[str]:
    """What `command` does with `rest` behind it, in a shell that gives the command's own code."""
    line = f"set -o pipefail; {shlex.join(command)} {rest}"
    return subprocess.run(
        ["bash", "-c", line], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=SECONDS, env=site.environment, check=False,
    )  # fmt: skip


# --------------------------------------------------------------------------- standard streams


def test_output_that_is_lost_is_told_by_every_program(site: Site) -> None:
    """One line and exit code 1 for help, which each has. 10 starts of programs, 0.5 s each."""
    assert len(PROGRAMS) == 8
    ways = [(program, LOST[number % 3]) for number, program in enumerate(PROGRAMS)]
    for program, way in [*ways, ("stack", LOST[0]), ("stack", LOST[2])]:
        command = [sys.executable, "-m", f"sigul_stack.cli.{program}"]
        done = shell(command, f"--help {way}", site)
        assert (program, way, done.returncode) == (program, way, 1), done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith("Error: standard output "), line
        assert "; " in line


@pytest.mark.parametrize("way", LOST)
def test_the_report_of_a_check_that_is_lost_is_no_success(site: Site, way: str) -> None:
    client = str(site.path("client.conf"))
    for arguments in (
        ["check-config", "client", client],
        ["pki", "list", str(site.path("pki/bridge"))],
    ):
        done = shell([*module("stack"), *arguments], way, site)
        assert done.returncode == 1, (arguments, done.stderr)
        assert "Traceback" not in done.stderr
        assert "Error: standard output" in done.stderr


@pytest.mark.parametrize("way", ["2>/dev/full", "<&- 2>&-"])
def test_other_streams_that_are_closed_change_nothing(site: Site, way: str) -> None:
    done = shell([*module("stack"), "check-config", "client", str(site.path("client.conf"))],
                 way, site)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("good\n")
    refused = shell([*module("stack"), "check-config", "client", "/nowhere"], way, site)
    assert (refused.returncode, refused.stdout) == (1, "")
    misused = shell([*module("server"), "--nonsense"], way, site)
    assert (misused.returncode, misused.stdout) == (2, "")


def descriptors(pid: int) -> set[int]:
    return {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}


@pytest.mark.parametrize("way", [">&- 2>&- <&-", "2>&1 | true"])
def test_daemons_start_without_streams_and_close_what_they_inherit(site: Site, way: str) -> None:
    """In the foreground with a log file; a request goes through, and descriptor 9 is nobody's."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        for name in ("bridge", "server"):
            command = [
                *module(name), "-c", str(site.path(f"{name}.conf")), "-v",
                f"--internal-log-dir={site.path('log')}", f"--internal-pid-dir={site.path('run')}",
            ]  # fmt: skip
            line = f"exec 9>{shlex.quote(str(site.path('held')))}; {shlex.join(command)} {way}"
            started.append(
                subprocess.Popen(["bash", "-c", line], env=site.environment,
                                 stdin=subprocess.DEVNULL)
            )  # fmt: skip
            log = site.path(f"log/sigul_{name}.log")
            mark = "Waiting for the server" if name == "bridge" else "Waiting for a request"
            wait_until(
                lambda log=log, mark=mark: log.exists() and mark in log.read_text(), SECONDS, mark
            )
            pid = int(site.path(f"run/sigul_{name}.pid").read_text())
            held = str(site.path("held"))
            links = {str(Path(f"/proc/{pid}/fd/{n}").readlink()) for n in descriptors(pid)}
            assert held not in links
            assert {0, 1, 2} <= descriptors(pid)
            assert "Traceback" not in log.read_text()
        works(site)
    finally:
        for path in site.path("run").glob("*.pid"):
            subprocess.run(["kill", path.read_text().strip()], check=False)
        for program in started:
            program.wait(SECONDS)


@pytest.mark.parametrize("way", [">&- 2>&- <&-", "| true"])
def test_a_daemon_goes_into_the_background_without_streams(site: Site, way: str) -> None:
    command = [
        *module("bridge"), "-d", "-c", str(site.path("bridge.conf")),
        f"--internal-log-dir={site.path('log')}", f"--internal-pid-dir={site.path('run')}",
    ]  # fmt: skip
    done = shell(command, way, site)
    assert (done.returncode, done.stderr) == (0, ""), done
    path = site.path("run/sigul_bridge.pid")
    os.kill(int(path.read_text()), 15)
    wait_until(lambda: not path.exists(), SECONDS, "the bridge's end")


# ------------------------------------------------------------------------------------ open files


def test_a_bridge_takes_as_many_peers_as_it_may_open_files_for(site: Site) -> None:
    """300 silent connections at a limit of 200 files: no traceback, and requests go through.

    One in the middle of their arrival may be ended with them.
    """

    def answered() -> bool:
        done = site.sigul("list-users", secrets=[site.admin_password], code=None)
        return bool(done.stdout == f"{site.admin}\n".encode())

    bridge = site.start("bridge", prefix=["sh", "-c", 'ulimit -n 200; exec "$@"', "sh"])
    bridge.wait_for("Waiting for the server to connect")
    bridge.wait_for("This process may open 200 files, and needs")
    site.start_server()
    with ExitStack() as open_ones:
        for _ in range(300):
            open_ones.enter_context(socket.create_connection(("127.0.0.1", site.client_port)))
        wait_until(answered, SECONDS, "an answer")
        works(site)
    assert "Traceback" not in bridge.text


def test_a_bridge_raises_its_soft_limit(site: Site) -> None:
    bridge = site.start("bridge", prefix=["sh", "-c", 'ulimit -Sn 256; exec "$@"', "sh"])
    bridge.wait_for("Waiting for the server to connect")
    limits = Path(f"/proc/{bridge.popen.pid}/limits").read_text()
    (line,) = (line for line in limits.splitlines() if line.startswith("Max open files"))
    assert int(line.split()[3]) > 6 * 256
    assert "may open" not in bridge.text


# --------------------------------------------------------------------------------- inputs, outputs

Served = tuple[Site, Process, Process]


def test_a_dash_is_standard_output_and_standard_input(served: Served, tmp_path: Path) -> None:
    site, _bridge, _server = served
    (tmp_path / "text").write_text("text\n")
    done = site.sigul("sign-data", "-a", "-o", "-", KEY, "text", secrets=[KEY_PASSPHRASE],
                      cwd=tmp_path)  # fmt: skip
    assert done.stdout.startswith(b"-----BEGIN PGP SIGNATURE-----")
    given = KEY_PASSPHRASE.encode() + b"\0some text\n"
    done = site.sigul("sign-text", "-o", "-", KEY, "-", stdin=given, cwd=tmp_path)
    assert b"\nsome text\n" in done.stdout
    for arguments in (["--output-dir", "-"], ["-o", "./-"]):
        site.sigul("sign-data", "-a", *arguments, KEY, "text", secrets=[KEY_PASSPHRASE],
                   cwd=tmp_path, code=2 if "-" in arguments else 0)  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["-", "text"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("/dev/zero", "'/dev/zero' is a device, which has no end"),
        ("/dev/full", "'/dev/full' is a device, which has no end"),
        ("/proc/self/mem", "'/proc/self/mem' cannot be read: Input/output error"),
        ("/", "'/' cannot be read: Is a directory"),
    ],
)
def test_an_input_that_cannot_be_one_is_told_by_its_own_name(
    served: Served, tmp_path: Path, name: str, told: str
) -> None:
    site, _bridge, _server = served
    output = tmp_path / "out"
    done = site.sigul("sign-data", "-o", str(output), KEY, name, secrets=[KEY_PASSPHRASE], code=1)
    assert told in done.stderr.decode()
    assert str(output) not in done.stderr.decode()
    assert not output.exists()


def test_a_stream_without_an_end_does_not_fill_the_disk(served: Served, tmp_path: Path) -> None:
    """`import-key` may send 1 MiB."""
    site, _bridge, _server = served
    line = shlex.join([*module("sigul"), "--batch", "-c", str(site.path("client.conf")),
                       "import-key", "k2", "/dev/fd/3"])  # fmt: skip
    done = subprocess.run(
        ["bash", "-c", f"{line} 3< <(cat /dev/zero)"], input=b"admin-pw\0a\0b\0",
        capture_output=True, timeout=SECONDS, env=site.environment, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert b"has more than 1048576 bytes, the most that this command sends" in done.stderr


def test_a_file_that_says_it_is_empty_is_signed_whole(served: Served) -> None:
    site, _bridge, _server = served
    done = site.sigul("sign-text", KEY, "/proc/version", secrets=[KEY_PASSPHRASE])
    assert Path("/proc/version").read_bytes().strip() in done.stdout


def test_a_file_that_grows_while_it_is_read_is_not_signed(served: Served, tmp_path: Path) -> None:
    site, _bridge, server = served
    growing, over = tmp_path / "growing", threading.Event()
    growing.write_bytes(bytes(8 << 20))

    def write() -> None:
        with growing.open("ab", buffering=0) as file:
            while not over.is_set():
                file.write(b"more")
                time.sleep(0.001)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        done = site.sigul("sign-data", "-o", str(tmp_path / "out"), KEY, str(growing),
                          secrets=[KEY_PASSPHRASE], code=1)  # fmt: skip
    finally:
        over.set()
        writer.join()
    assert b"while it was being sent; nothing was signed: try again" in done.stderr
    assert not (tmp_path / "out").exists()
    # One more has answered the bridge, which looks at the signing log after the first reply.
    server.wait_for("Waiting for a request at the bridge", 6)


# ------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    "arguments",
    [["new-user", ""], ["new-key", " "], ["modify-user", "admin", "--new-name", ""],
     ["modify-key", KEY, "--new-name", ""], ["import-key", "", "/proc/version"]],
)  # fmt: skip
def test_nothing_gets_an_empty_name(served: Served, arguments: list[str]) -> None:
    site, _bridge, _server = served
    done = site.sigul(*arguments, secrets=["admin-pw", "a-pw", "b-pw"], code=1)
    assert b"is empty: a name has one character at least" in done.stderr


def test_a_name_beyond_ascii_is_told_the_rule(served: Served) -> None:
    site, _bridge, _server = served
    done = site.sigul("new-user", "café", secrets=["admin-pw"], code=1)
    assert b"(U+00E9): the protocol allows printable ASCII here" in done.stderr
    empty = site.sigul("list-users", options=["-u", ""], secrets=["admin-pw"], code=2)
    assert b"-u/--user-name is empty" in empty.stderr


def test_a_host_name_may_end_with_a_dot(site: Site) -> None:
    """DNS's way to write a whole name, which no certificate has."""
    for name in ("client", "server"):
        path = site.path(f"{name}.conf")
        text = path.read_text().replace(site.bridge_name, f"{site.bridge_name}.")
        path.write_text(text.replace(site.server_name, f"{site.server_name}."))
    with site.running():
        works(site)


# ---------------------------------------------------------------------------------- configuration


def test_configurations_that_mislead_are_told_with_their_cure(site: Site, tmp_path: Path) -> None:
    good = site.path("client.conf").read_text()
    (tmp_path / "empty").write_text("\n")
    os.mkfifo(tmp_path / "fifo")
    password = site.nss_lines("clients/admin").partition("nss-password-file: ")[2].strip()
    # Possible values are told of; what cannot be meant is an error.
    cases = {
        good.replace(f"bridge-port: {site.client_port}", "bridge-port: 1 ; x"):
            (1, "'1 ; x' is not a number"),
        good.replace("[client]", "[Client]"):
            (1, "section [Client] is unknown and ignored; did you mean [client]?"),
        good.replace("user-name: admin", "user-name: root ; x"):
            (0, "user-name: the value is 'root ; x'; a comment has to be on a line of its own"),
        good.replace(password, f"{tmp_path}/empty"):
            (0, "is empty, so that the secret is the empty one"),
    }  # fmt: skip
    for text, (code, told) in cases.items():
        path = tmp_path / "conf"
        path.write_text(text)
        done = site.run(*module("stack"), "check-config", "client", str(path), code=code)
        (line,) = done.stderr.decode().splitlines()
        assert told in line
        assert line.startswith("Error: " if code else "Warning: ")
    done = site.sigul("list-users", config=str(path), secrets=["admin-pw"], code=1)
    assert b"\nProvided NSS password is incorrect\nit is empty, and the " in done.stderr


@pytest.mark.parametrize(
    ("where", "name", "told"),
    [
        ("configuration", "/dev/zero", "it is a device, not a file"),
        ("configuration", "/", "Is a directory"),
        ("configuration", "fifo", "it is a FIFO, and nobody wrote to it"),
        ("password", "/dev/zero", "it is a device, not a file"),
        ("password", "socket", "it is a socket"),
    ],
)
def test_what_is_no_file_is_no_configuration(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, name: str, told: str
) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(tmp_path)
        listener.bind("socket")
        path = str(tmp_path / name)
        if where == "password":
            good = site.path("client.conf").read_text()
            password = site.nss_lines("clients/admin").partition("nss-password-file: ")[2].strip()
            conf = tmp_path / "conf"
            conf.write_text(good.replace(password, path))
            path = str(conf)
        done = site.run(*IMPATIENT, "check-config", "client", path, code=1)
    (line,) = done.stderr.decode().splitlines()
    assert told in line


def test_a_configuration_may_come_through_a_pipe(site: Site) -> None:
    command = shlex.join([*module("stack"), "check-config", "client"])
    conf = shlex.quote(str(site.path("client.conf")))
    done = shell(["true"], f"; {command} <(sleep 1; cat {conf})", site)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_site_with_odd_values_starts_as_it_did(site: Site, tmp_path: Path) -> None:
    """A value with what looks like a comment, and an empty password of an open NSS database."""
    for name in ("bridge", "server"):
        conf = site.path(f"{name}.conf")
        directory = site.path(f"pki/{name}")
        password = directory / "nss-password"
        (tmp_path / "empty").write_bytes(b"")
        change = ["certutil", "-W", "-d", f"sql:{directory}", "-f", str(password), "-@"]
        subprocess.run([*change, str(tmp_path / "empty")], check=True, timeout=SECONDS)
        password.write_bytes(b"\n")
        if name == "server":
            conf.write_text(
                conf.read_text().replace("[server]", "[server]\nproxy-usernames: a # b")
            )
        done = site.run(*module("stack"), "check-config", name, str(conf))
        assert done.stdout.endswith(b"good\n")
        assert len(done.stderr.splitlines()) == (1 if name == "bridge" else 2)
    with site.running() as (bridge, server):
        works(site)
        assert "proxy-usernames: the value is 'a # b'" in server.text
        assert "is empty, so that the secret is the empty one" in bridge.text
