"""The benchmark's harness works: it measures requests of a site that runs."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from tests.bench import __main__ as program
from tests.bench.measuring import client_kib, load, watched
from tests.bench.record import RELEASED, Record, Row
from tests.bench.rows import Requests
from tests.bench.sites import OURS, PROGRAMS, BenchSite
from tests.site import ADMIN_PASSWORD, Site


def test_requests_are_measured_with_cpu_and_memory(running_site: Site, tmp_path: Path) -> None:
    bridge, server = running_site.processes
    site = BenchSite(
        running_site.directory, OURS, ADMIN_PASSWORD,
        {"bridge": bridge.popen, "server": server.popen},
    )  # fmt: skip
    requests = Requests(site, tmp_path)
    with watched(site) as seen:
        found = load([lambda: requests.do(requests.list_users())], 2, 0.1)
    assert found.rate > 0
    assert 0 < found.p95 <= found.seconds
    assert 5 * 1024 < client_kib(site, *requests.list_users()) < 200 * 1024
    assert 5 * 1024 < seen.worker_kib < 500 * 1024
    assert set(seen.cpu) == {"bridge", "server"}


#: What a peer is asked for: all of it is in Sigul 1.2 (its own `--help`), with these options.
OF_1_2: Final = {
    "sigul": re.compile(
        r"--batch -c \S+/client\.conf (list-users|new-key bench|sign-data -o \S+ bench \S+"
        r"|sign-text -o \S+ bench \S+|sign-rpms -o \S+ bench( \S+\.rpm){20})"
    ),
    "sigul_server_create_db": re.compile(r"-c \S+/server\.conf"),
    "sigul_server_add_admin": re.compile(r"-c \S+/server\.conf --batch -n admin"),
    "sigul_bridge": re.compile(r"-c \S+ --internal-log-dir=\S+ --internal-pid-dir=\S+"),
    "sigul_server": re.compile(r"-c \S+ --internal-log-dir=\S+ --internal-pid-dir=\S+"),
}


def wrapped_programs(directory: Path, asked: Path, failing: str = "-") -> None:
    """Our programs as those of a peer; each call is a line in `asked`, and `failing` fails."""
    directory.mkdir()
    for name in PROGRAMS:
        path = directory / name
        path.write_text(
            f"#!/bin/sh\necho \"{name} $*\" >>'{asked}'\n"
            f"case \" $* \" in *' {failing} '*) echo broken >&2; exit 1;; esac\n"
            f"exec '{OURS / name}' \"$@\"\n"
        )
        path.chmod(0o755)


@pytest.mark.long("tests/bench", "tests/site.py")
@pytest.mark.timeout(300)
# A minute: two sites of their own, and each figure once.
def test_a_whole_run_measures_a_peer_and_growth_and_names_what_is_slower(tmp_path: Path) -> None:
    asked, peer = tmp_path / "asked", tmp_path / "peer"
    peer.mkdir()
    wrapped_programs(peer / "bin", asked, failing="sign-text")
    slower = "list-users, whole client"

    def doctored(row: Row) -> Row:
        """A figure a thousand times as good as its floor, or as bad; memory and p95 unknown."""
        times = 1000 if (row.name == slower) == (row.better == "higher") else 1 / 1000
        return replace(row, value=row.floor * times, p95=None, client_kib=0, worker_kib=0)

    released = Record.parse(RELEASED.read_text())
    then = replace(released, rows=tuple(map(doctored, released.rows)))
    (tmp_path / "then.json").write_text(then.encode())
    done = subprocess.run(
        [
            sys.executable, "-m", "tests.bench", "--smoke", "--growth", "--peer", str(peer),
            "--compare", str(tmp_path / "then.json"), "--record", str(tmp_path / "now.json"),
        ],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    (verdict,) = re.findall(r"^REGRESSION: .*$", done.stdout, re.MULTILINE)
    assert verdict.startswith(f"REGRESSION: {slower}: SLOWER (")
    assert verdict.endswith("allowed 20%)")

    record = Record.parse((tmp_path / "now.json").read_text())
    assert all(row.runs and row.client_kib and row.worker_kib and row.floor for row in record.rows)
    assert record.machine["databases"] == "certutil's, tuned"
    # Of the peer all that works, of the same names; what failed is named and ends nothing.
    names = [row.name for row in record.rows]
    (failed,) = (name for name in names if "sign-text" in name)
    assert [row.name for row in record.peer] == [name for name in names if name != failed]
    assert "the peer failed: " in done.stderr and "broken" in done.stderr
    assert {curve.x.partition(" ")[0] for curve in record.growth} == {
        "clients", "payload", "RPMs", "users"
    }  # fmt: skip
    assert all(y > 0 and least > 0 for curve in record.growth for _x, y, least in curve.points)

    for line in asked.read_text().splitlines():
        name, _, arguments = line.partition(" ")
        assert OF_1_2[name].fullmatch(arguments), line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--peer", "/nowhere"], "/nowhere has no program sigul: --peer needs sigul, sigul_bridge"),
        (["--compare", "/nowhere.json"], "/nowhere.json"),
        (["--compare", "--rounds", "default"], "give the same --rounds"),
    ],
)
def test_what_cannot_be_measured_is_said_at_once(
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    monkeypatch.setattr(program, "run", None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert program.main() == 2
    assert said in capfd.readouterr().err
