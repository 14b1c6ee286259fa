"""Measures the signing log: appends, and what is asked of a log with very many leaves.

That log is written once, straight to its files, and kept in the temporary directory for later runs:
of 10 million leaves it takes 7 GB, and some ten minutes, most of them for its index.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sigul_stack.evidence.index import Index, Query, find
from sigul_stack.evidence.leaf import Leaf
from sigul_stack.evidence.log_reader import LogReader, verify_log
from sigul_stack.evidence.signing_log import SigningLog, create
from tests.signing_logs import NAME, leaf, public_key, write_large

#: Workers whose leaves are appended together, and for how long they are, in seconds.
WORKERS = 8
SECONDS = 5.0
#: Part of the name of what is kept: another one where what is written here changes.
_KIND = 1

_FORM = (
    b'{"client":{"certificate":"%s","name":"ann"},"file":"file-%d.tar",'
    b'"input":{"bytes":310,"sha256":"%064x"},"key":{"fingerprint":"%s","name":"key-%d",'
    b'"type":"gnupg"},"objects":{"key":"key-%d"},"op":"sign-data",'
    b'"output":{"bytes":310,"sha256":"%064x"},"request":"request-%d","result":"ok",'
    b'"time":"2026-01-%02dT%02d:%02d:%02d.000Z","user":"user-%d","v":1}'
)


def entries(start: int, stop: int) -> list[bytes]:
    """Leaves that differ in digests, file and request, of 20 keys and of 300 users."""
    when = start // 256
    time_parts = (1 + when // 86400, when // 3600 % 24, when // 60 % 60, when % 60)
    certificate, fingerprint = b"c5" * 32, b"AB" * 20
    return [
        _FORM
        % (
            *(certificate, number, number * 2, fingerprint, number % 20, number % 20),
            *(number * 2 + 1, number, *time_parts, number // 4000 % 300),
        )
        for number in range(start, stop)
    ]


def large_log(size: int) -> Path:
    """A log of so many leaves with its index, made where it is not there yet."""
    directory = Path(tempfile.gettempdir()) / f"sigul-bench-log-{_KIND}-{size}"
    if not directory.exists():
        Leaf.parse(entries(1, 2)[0])
        draft = directory.with_name(f"{directory.name}.draft")
        subprocess.run(["rm", "-rf", draft], check=True)
        print(f"writing a log of {size} leaves to {directory} …", flush=True)
        write_large(draft, size, entries)
        Index(draft).update(LogReader.open(draft))
        draft.rename(directory)
    return directory


# The work of one fresh process: the time of its first proof, from the log's directory to the end.
_FIRST_PROOF = """
import sys, time
from pathlib import Path
from sigul_stack.evidence.log_reader import LogReader
from sigul_stack.formats.signed_note import PublicKey
key = PublicKey.parse(sys.argv[3])
began = time.perf_counter()
proof = LogReader.open(Path(sys.argv[1])).proof(int(sys.argv[2]))
print(time.perf_counter() - began)
proof.verify(key)
"""


def first_proof(directory: Path, index: int) -> float:
    """Seconds for a proof in a process that has read nothing yet."""
    key = public_key(directory).encode()
    command = [sys.executable, "-c", _FIRST_PROOF, str(directory), str(index), key]
    return float(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)


def appends_per_second(directory: Path, together: int) -> float:
    """Leaves a second of a log that gets so many at once, each with its evidence."""
    done = 0
    with SigningLog.open(directory) as log:
        began = time.perf_counter()
        while time.perf_counter() - began < SECONDS:
            batch = [leaf(done + number) for number in range(together)]
            for row in log.append(batch):
                log.evidence(row.index, log.size - 100).encode()
            done += together
        return done / (time.perf_counter() - began)


def searching(directory: Path, query: Query) -> float:
    """Seconds to open a log and find what is asked for."""
    began = time.perf_counter()
    found = list(find(LogReader.open(directory), query))
    took = time.perf_counter() - began
    if not found:
        raise SystemExit(f"nothing was found: {query}")
    return took


def measure_log(directory: Path, size: int) -> list[tuple[str, float, str, str, str]]:
    """Measure, with a small log in `directory` and one of `size` leaves; rows of the table."""
    create(directory, NAME)
    rows = [
        (
            f"log: appends a second, {together} at once", appends_per_second(directory, together),
            "/s", aim, "durable, each with its proof",
        )
        for together, aim in ((1, ""), (WORKERS, "300"))
    ]  # fmt: skip
    large = large_log(size)
    what = f"of {size} leaves"
    began = time.perf_counter()
    with SigningLog.open(large):
        rows.append((f"log {what}: open", (time.perf_counter() - began) * 1000, "ms", "", ""))
    proofs = [first_proof(large, index) for index in (3, size // 3, size // 2 + 7, size - 2)]
    rows.append((f"log {what}: first proof", max(proofs) * 1000, "ms", "50", "slowest of four"))
    middle = size // 2
    for name, query in {
        "a digest": Query(digest=f"{middle * 2 + 1:064x}"),
        "a file": Query(file=f"file-{middle}.tar"),
        "10 of a user's last": Query(user="user-7", newest_first=True, limit=10),
        "10 of a time": Query(since="2026-01-01T00:10", limit=10),
    }.items():
        rows.append((f"log {what}: {name}", searching(large, query) * 1000, "ms", "", "no scan"))
    began = time.perf_counter()
    verify_log(LogReader.open(large), public_key(large))
    rate = size / (time.perf_counter() - began)
    rows.append((f"log {what}: leaves verified a second", rate, "/s", "200000", ""))
    return rows
