"""Packages that are made to cost a server memory and time; honest requests go on meanwhile."""

from __future__ import annotations

import contextlib
import re
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from sigul_stack.formats.rpm_head import MAX_MAIN_HEADER, HeaderEntry, parse_head
from sigul_stack.formats.rpm_tags import EntryType
from tests.hostile.conftest import TRENTS_KEY, HonestFactory, passphrase
from tests.integration.rpm_support import build
from tests.integration.test_memory import INTERVAL, descendants
from tests.integration.test_rpm_signer import rebuilt
from tests.site import Site, module, nul, popen

MIB = 1024**2
#: rpm's numbers of a file's digest and the like; the first is one that rpm does not know.
OF_NOTHING, FILE_DIGESTS, DIGEST_ALGORITHM = 4_000_000, 1035, 5011
FILES = 200_000
#: How much more than before it any process may have without being counted, in bytes.
ANYHOW = 8 * MIB
#: Seconds for a program here: large packages are worked on one after the other.
SECONDS = 200.0

pytestmark = [
    pytest.mark.once("our own parser and its limits"),
    # Packages with the largest heads there may be, six at once.
    pytest.mark.timeout(300),
]

#: The files that the long tests here prove something about.
PROVEN = (
    "sigul_stack/formats/rpm_head.py",
    "sigul_stack/signing/rpm.py",
    "sigul_stack/server/slots.py",
    "sigul_stack/system/turns.py",
)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A package that is like any other."""
    return build(tmp_path_factory.mktemp("package")).read_bytes()


def with_texts(package: bytes, tag: int, text: bytes, count: int) -> bytes:
    """The package with an array of texts in its main header, and digests that fit."""
    texts = HeaderEntry(tag, EntryType.STRING_ARRAY, count, (text + b"\0") * count)
    changes: Mapping[int, HeaderEntry] = {
        tag: texts, DIGEST_ALGORITHM: HeaderEntry.integer(DIGEST_ALGORITHM, 8),
    }  # fmt: skip
    return rebuilt(package, changes)


def _size(pid: int) -> int:
    """Memory of a process that belongs to no file, in bytes; 0 where it has ended."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/status").read_text()
        sizes = re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+) kB", text, re.MULTILINE)
        return sum(map(int, sizes)) * 1024
    return 0


class Memory:
    """The most memory that a process and those below it had at once, beyond what each has anyhow.

    Only what cannot be given up again: pages that belong to no file. In bytes.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._anyhow = max(map(_size, descendants({root}))) + ANYHOW
        self.most = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _now(self) -> int:
        return sum(max(0, _size(pid) - self._anyhow) for pid in descendants({self._root}))

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL):
            self.most = max(self.most, self._now())

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def sign_rpm(site: Site, package: Path, out: Path, *further: str) -> subprocess.Popen[bytes]:
    """Begin to sign a package with Trent's key."""
    program = popen(
        [
            *module("sigul"), "--batch", "-c", str(site.path("trent.conf")),
            "sign-rpm", "-o", str(out), *further, TRENTS_KEY, str(package),
        ],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=site.environment,
    )  # fmt: skip
    assert program.stdin is not None
    program.stdin.write(nul(passphrase("trent", TRENTS_KEY), *(["files-pw"] if further else [])))
    program.stdin.close()
    program.stdin = None
    return program


@pytest.mark.long(*PROVEN)
def test_six_of_the_largest_heads_at_once_take_turns(
    quiet: Site, honest_at: HonestFactory, package: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "large.rpm"
    # As large as a header may be, but for what is in there besides.
    count = (MAX_MAIN_HEADER - 64 * 1024) // 1024
    file.write_bytes(with_texts(package, OF_NOTHING, b"x" * 1023, count))
    size = parse_head(file.read_bytes()).length
    assert size > 0.99 * MAX_MAIN_HEADER
    quiet.start_bridge()
    server = quiet.start_server(4)
    with honest_at(quiet).during("6 RPMs with the largest heads"), Memory(server.popen.pid) as took:
        clients = [sign_rpm(quiet, file, tmp_path / f"{number}.rpm") for number in range(6)]
        told = [client.communicate(timeout=SECONDS) for client in clients]
    assert [client.returncode for client in clients] == [0] * 6, told
    print(f"MEMORY 6 heads of {size // MIB} MiB: {took.most // MIB} MiB at once")
    # One head at a time, and that once at most: before, it was three times each of them.
    assert took.most < MAX_MAIN_HEADER


@pytest.mark.long(*PROVEN)
def test_the_files_of_a_package_are_not_signed_for_ever(
    quiet: Site, honest_at: HonestFactory, package: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "many.rpm"
    file.write_bytes(with_texts(package, FILE_DIGESTS, b"ab" * 32, FILES))
    # What the honest need is far less, what 200,000 signatures by RSA need is far more.
    quiet.extra["server"] = {"server": "signing-timeout: 10\n"}
    quiet.configure()
    quiet.start_bridge()
    quiet.start_server(4)
    quiet.sigul(
        "new-key", "--key-type", "RSA", "--key-admin", "trent", "files",
        secrets=[quiet.admin_password, "files-pw"],
    )  # fmt: skip
    with honest_at(quiet).during(f"an RPM with {FILES} files"):
        client = sign_rpm(quiet, file, tmp_path / "out.rpm", "--file-signing-key", "files")
        _out, said = client.communicate(timeout=SECONDS)
    assert client.returncode == 1
    assert "took longer than the server's signing-timeout" in said.decode()
    assert not (tmp_path / "out.rpm").exists()
