"""A large payload costs no memory, in any of the processes, and leaves no file behind.

A quarter of a GiB here, more than twice the limit; the limit is the one that 5 GiB have to keep,
and twice what a process needs by itself. Nor does a large number of RPMs.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.observe import children
from tests.site import Site, module, nul

from .commands_support import ADMIN, done, leftovers, person
from .rpm_support import build

pytestmark = pytest.mark.once("our own buffers")

LARGE = 256 * 1024**2
#: The most memory that a process may have used at any time, in KiB.
LIMIT_KIB = 100 * 1024
#: How much more a process may use for ten times as many RPMs, in KiB: a third of what the further
#: ones have together.
GROWTH_KIB = 12 * 1024
#: Seconds between two looks at the processes; what they tell is the highest use so far.
INTERVAL = 0.05
SECONDS = 110.0


def descendants(roots: set[int]) -> set[int]:
    """`roots` and all processes that they have started, which still have them as ancestors."""
    found: set[int] = set()
    left = set(roots)
    while left:
        pid = left.pop()
        found.add(pid)
        with contextlib.suppress(OSError):
            left |= children(pid).keys() - found
    return found


class Watch:
    """The highest memory use of some processes and their descendants, by PID and name."""

    def __init__(self, *roots: int) -> None:
        self.peaks: dict[tuple[int, str], int] = {}
        self._roots = set(roots)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL):
            for pid in descendants(self._roots):
                with contextlib.suppress(OSError, KeyError):
                    text = Path(f"/proc/{pid}/status").read_text()
                    fields = dict(line.split(":\t", 1) for line in text.splitlines())
                    peak = int(fields["VmHWM"].split()[0])
                    name = (pid, fields["Name"])
                    self.peaks[name] = max(peak, self.peaks.get(name, 0))


@pytest.fixture(scope="module")
def running(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A running site with admin's key `k`."""
    site = Site.copy(template, tmp_path_factory.mktemp("memory") / "site")
    site.fresh = True
    with site.running():
        done(site, "new-key", "k", secrets=[ADMIN, "k-pw"])
        yield site


def test_signing_a_large_file(running: Site, tmp_path: Path) -> None:
    # More than 5 s: a quarter of a GiB is encrypted and hashed in each of four processes.
    bridge, server = running.processes
    data, out = tmp_path / "data", tmp_path / "signature"
    with data.open("wb") as file:
        file.truncate(LARGE)
    client = subprocess.Popen(
        [
            *module("sigul"), "--batch", "-c", str(running.path("client.conf")),
            "sign-data", "k", str(data), "-o", str(out),
        ],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=running.environment,
    )  # fmt: skip
    with Watch(client.pid, bridge.serving, server.popen.pid) as watch:
        assert client.communicate(nul("k-pw"), timeout=SECONDS) == (b"", b"")
    assert client.returncode == 0
    assert {pid for pid, _ in watch.peaks} >= {client.pid, bridge.serving, server.popen.pid}
    served = [pid for pid, _ in watch.peaks if pid != server.popen.pid]
    assert len(served) > 2, "no worker was seen"
    assert {who: peak for who, peak in watch.peaks.items() if peak > LIMIT_KIB} == {}
    assert leftovers(running) == []
    # What was signed is all of it.
    public = done(running, "get-public-key", "k", secrets=["k-pw"])
    with person(tmp_path / "person", public) as gpg:
        gpg.signer(out, data)


def test_decrypting_what_becomes_large(running: Site, tmp_path: Path) -> None:
    """A message of a few kilobytes whose clear text has an eighth of a GiB."""
    bridge, server = running.processes
    public = done(running, "get-public-key", "k", secrets=["k-pw"])
    message, out = tmp_path / "message", tmp_path / "clear"
    zeros = tmp_path / "zeros"
    with zeros.open("wb") as file:
        file.truncate(LARGE // 2)
    with person(tmp_path / "person", public) as gpg:
        gpg("--encrypt", "--recipient", "k", "-o", str(message), str(zeros))
    assert message.stat().st_size < LARGE // 256
    client = subprocess.Popen(
        [
            *module("sigul"), "--batch", "-c", str(running.path("client.conf")),
            "decrypt", "k", str(message), "-o", str(out),
        ],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=running.environment,
    )  # fmt: skip
    with Watch(client.pid, bridge.serving, server.popen.pid) as watch:
        assert client.communicate(nul("k-pw"), timeout=SECONDS) == (b"", b"")
    assert client.returncode == 0
    assert {who: peak for who, peak in watch.peaks.items() if peak > LIMIT_KIB} == {}
    assert subprocess.run(["cmp", out, zeros], timeout=SECONDS, check=False).returncode == 0
    assert leftovers(running) == []


# Nobody else may have the kernel forget how much a process used that gives no core dumps.
@pytest.mark.root
# More than 5 s: 220 RPMs are signed, for what grows shows only with many.
def test_memory_does_not_grow_with_the_number_of_rpms(running: Site, tmp_path: Path) -> None:
    more = "head -c 200000 /dev/urandom > %{buildroot}/opt/sample/random"
    package = build(tmp_path, more=more)
    size = package.stat().st_size
    assert size * 180 > 2.5 * GROWTH_KIB * 1024
    files = [tmp_path / f"{number:03d}.rpm" for number in range(200)]
    for file in files:
        file.hardlink_to(package)
    few, many = (
        peaks_of_signing(running, tmp_path / f"out-{count}", files[:count]) for count in (20, 200)
    )
    assert few.keys() == many.keys() == {"client", "bridge", "worker"}
    growth = {name: many[name] - few[name] for name in few}
    assert max(growth.values()) < GROWTH_KIB, growth


def peaks_of_signing(site: Site, out: Path, files: list[Path]) -> dict[str, int]:
    """Sign RPMs in one request; the most memory that each of the three has used for it, in KiB."""
    bridge, server = (process.popen.pid for process in site.processes)
    # The kernel forgets the highest use so far, which may be that of an earlier request.
    Path(f"/proc/{bridge}/clear_refs").write_text("5")
    client = subprocess.Popen(
        [
            *module("sigul"), "--batch", "-c", str(site.path("client.conf")),
            "sign-rpms", "-o", str(out), "k", *map(str, files),
        ],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=site.environment,
    )  # fmt: skip
    with Watch(client.pid, bridge, server) as watch:
        said = client.communicate(nul("k-pw"), timeout=SECONDS)
        assert said == (f"Signed {len(files)} RPMs\n".encode(), b"")
    assert len(list(out.iterdir())) == len(files)
    names = dict(watch.peaks.keys())
    workers = [
        peak
        for (pid, name), peak in watch.peaks.items()
        if pid not in (client.pid, bridge, server) and name == names[server]
    ]
    peaks = {pid: peak for (pid, _name), peak in watch.peaks.items()}
    return {"client": peaks[client.pid], "bridge": peaks[bridge], "worker": max(workers)}
