"""The start of a client: what it loads before it dials the bridge, when that is, and its memory."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.checkout import TOP
from tests.site import ADMIN_PASSWORD, Site, module, nul

pytestmark = pytest.mark.once(
    "what our own client loads and when it dials; the figures are of Debian 12"
)

#: The most memory that a client may have resident, in KiB: 30 MB.
MOST_MEMORY = 30_000_000 // 1024
#: What takes its time to load, or is for later, and is loaded while the bridge answers, or never.
LATER = frozenset(
    {
        "dataclasses", "inspect", "ast", "shutil", "tempfile", "bz2", "lzma", "random", "datetime",
        "json", "decimal", "subprocess", "asyncio", "ssl", "encodings.idna", "unicodedata", "mmap",
        "cryptography", "tqdm", "sqlalchemy", "sigul_stack.client.core", "sigul_stack.client.api",
        "sigul_stack.protocol.messages", "sigul_stack.protocol.operations", "sigul_stack.evidence",
        "sigul_stack.keystore", "sigul_stack.kojihub", "sigul_stack.transport.nss_dates",
        "sigul_stack.transport.chunked", "sigul_stack.transport.nested",
    }
)  # fmt: skip
#: Most modules at that moment; each costs 0.1 ms and more.
MOST_MODULES = 150
#: Nothing of these is ever loaded by a request for one signature.
NEVER = frozenset({"cryptography", "dataclasses", "inspect", "bz2", "lzma", "shutil"})
#: Seconds in which nothing may come, and in which something has to.
QUIET, SOON = 0.5, 20.0


def started(site: Site, tmp_path: Path, *arguments: str, secrets: list[str]) -> dict[str, Any]:
    """What the start of `sigul` was like: see start_probe.py."""
    place = tmp_path / "start.json"
    site.run(
        sys.executable, "-I", "-S", str(TOP / "tests/start_probe.py"), str(place),
        ":".join([str(TOP), *filter(None, sys.path)]),
        "--batch", "-c", str(site.path("client.conf")), *arguments, secrets=secrets, fresh=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(place.read_text())
    return found


@pytest.fixture(scope="module")
def with_key(running_site: Site) -> Iterator[Site]:
    """The running site with admin's key `k`."""
    running_site.sigul("new-key", "k", secrets=[ADMIN_PASSWORD, "k-pw"])
    yield running_site
    running_site.sigul("delete-key", "k", secrets=[ADMIN_PASSWORD])


@pytest.mark.parametrize("command", ["list-users", "sign-data"])
def test_what_is_loaded_before_the_bridge_is_dialled_and_how_much_it_takes(
    with_key: Site, tmp_path: Path, command: str
) -> None:
    data = tmp_path / "data"
    data.write_bytes(b"data" * 256)
    words = {
        "list-users": ((), [ADMIN_PASSWORD]),
        "sign-data": (("-o", str(tmp_path / "signature"), "k", str(data)), ["k-pw"]),
    }
    arguments, secrets = words[command]
    # The log's first reply is looked at, and what is known of it is written.
    with_key.forget_logs()
    found = started(with_key, tmp_path, command, *arguments, secrets=secrets)
    assert sorted(LATER.intersection(found["before"])) == []
    groups = {name for name in found["before"] if name.startswith("sigul_stack.cli.commands.")}
    assert not any("rpm" in name for name in groups)
    assert len(found["before"]) <= MOST_MODULES
    assert found["peak"] <= MOST_MEMORY


# ----------------------------------------------------------------------------------- when it dials


@contextlib.contextmanager
def waiting_sigul(site: Site, *arguments: str) -> Iterator[tuple[socket.socket, Any]]:
    """A `sigul` whose bridge is a listening socket here, and whose secrets are not there yet."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        own = Site(
            site.directory, client_port=listener.getsockname()[1], server_port=site.server_port
        )
        config = own.client_configuration("admin", "waiting")
        words = [*module("sigul"), "--batch", "-c", str(config), *arguments]
        with subprocess.Popen(
            words,
            env=site.environment, cwd=TOP, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as program:  # fmt: skip
            try:
                yield listener, program
            finally:
                program.kill()


def test_no_bridge_is_dialled_before_all_secrets_are_there(running_site: Site) -> None:
    """Bridges of 1.x serve nobody else while one who is connected says nothing."""
    with waiting_sigul(running_site, "new-user", "carol", "--with-password") as (listener, program):
        for secret in (ADMIN_PASSWORD, "carol-pw"):
            listener.settimeout(QUIET)
            with pytest.raises(TimeoutError):
                listener.accept()
            program.stdin.write(nul(secret))
            program.stdin.flush()
        listener.settimeout(SOON)
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(SOON)
            assert connection.recv(1)[0] == 22  # a TLS handshake


def test_no_bridge_is_dialled_where_the_input_is_still_to_come(
    running_site: Site, tmp_path: Path
) -> None:
    arguments = ("sign-data", "-o", str(tmp_path / "signature"), "k", "-")
    with waiting_sigul(running_site, *arguments) as (listener, program):
        program.stdin.write(nul("k-pw") + b"data")
        program.stdin.flush()
        listener.settimeout(QUIET)
        with pytest.raises(TimeoutError):
            listener.accept()
        program.stdin.close()
        listener.settimeout(SOON)
        listener.accept()[0].close()


def test_a_bridge_is_not_dialled_where_the_arguments_are_wrong(
    running_site: Site, tmp_path: Path
) -> None:
    arguments = ("sign-data", "k", str(tmp_path / "missing"))
    with waiting_sigul(running_site, *arguments) as (listener, program):
        program.communicate(nul("k-pw"), timeout=SOON)
        assert program.returncode == 1
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_a_connection_that_nobody_takes_is_given_up(running_site: Site) -> None:
    """The request dials anew, and the bridge was not kept waiting."""
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from sigul_stack.config import load_client\n"
        "from sigul_stack.client.api import Client\n"
        "from sigul_stack.secret import Secret\n"
        "from sigul_stack.transport import nss\n"
        "from sigul_stack.transport.dialling import AHEAD_SECONDS, DialledAhead\n"
        "settings = load_client(Path(sys.argv[1])).settings\n"
        "nss.open_database(settings.nss)\n"
        "identity = nss.load_identity(settings.client_cert_nickname)\n"
        "for wait in (AHEAD_SECONDS + 0.5, 0):\n"
        "    ahead = DialledAhead(settings, settings.nss, identity)\n"
        "    time.sleep(wait)\n"
        "    client = Client(settings, ahead=ahead)\n"
        "    print(client.list_users(Secret(sys.argv[2])), ahead.take() is None)\n"
        "    print(client.list_users(Secret(sys.argv[2])))\n"
    )
    config = str(running_site.path("client.conf"))
    done = running_site.run(sys.executable, "-c", code, config, ADMIN_PASSWORD, cwd=TOP)
    assert done.stdout.decode() == "['admin'] True\n['admin']\n" * 2


def test_a_bridge_that_is_not_there_is_told_of_as_ever(running_site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    own = Site(running_site.directory, client_port=port, server_port=running_site.server_port)
    own.client_configuration("admin", "gone")
    begun = time.monotonic()
    told = running_site.sigul(
        "list-users", secrets=[ADMIN_PASSWORD], config="gone.conf", code=1, fresh=True
    )
    assert b"cannot connect to sigul-bridge.example.org" in told.stderr
    assert time.monotonic() - begun < SOON
