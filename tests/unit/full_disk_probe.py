"""A program that appends to a signing log while its disk is full; a test of that runs it.

    python -m tests.unit.full_disk_probe DIRECTORY

DIRECTORY is a small file system of its own. It is filled but for so many pages, leaves are appended
until that fails, and room is made again. Prints, as JSON, the errors.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sigul_stack.errors import SigulError
from sigul_stack.evidence.leaf import Leaf, LeafKey, Result
from sigul_stack.evidence.log_reader import LogReader, verify_log
from sigul_stack.evidence.signing_log import SigningLog, create

PAGE = 4096
#: Enough for a bundle to be begun with any of these many pages left.
MOST_PAGES = 24


def fill(filler: Path, free: int) -> None:
    """Leave so many pages free."""
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(PAGE))
        except OSError:
            size = file.tell() // PAGE * PAGE
        file.truncate(max(0, size - free * PAGE))


def main() -> None:
    """Fill, fail, make room, go on."""
    top = Path(sys.argv[1])
    directory, filler = top / "log", top / "filler"
    create(directory, "server.example.org")
    leaf = Leaf("sign-data", Result.OK, user="ann", key=LeafKey("k"), reason="x" * 500)
    errors: list[dict[str, str]] = []
    acknowledged: dict[int, bytes] = {}

    def append(log: SigningLog, count: int) -> None:
        acknowledged.update({row.index: row.entry for row in log.append([leaf] * count)})

    log = SigningLog.open(directory)
    key = log.public_key
    append(log, 150)
    for free in range(MOST_PAGES):
        fill(filler, free)
        try:
            for _ in range(100):
                append(log, 7)
            raise SystemExit("the disk was not full")
        except SigulError as error:
            errors.append({"problem": error.problem, "cure": error.cure, "symbol": error.symbol})
        reader = LogReader.open(directory)
        verify_log(reader, key)
        if reader.size != log.size:
            raise SystemExit("the log and its checkpoint differ")
        if free % 3 == 0:
            # Its process ends while the disk is full, and may not even start again before there
            # is room.
            log.close()
            filler.unlink()
            log = SigningLog.open(directory)
        elif free % 3 == 1:
            filler.unlink()
        else:
            fill(filler, 200)
        append(log, 5)
    reader = LogReader.open(directory)
    verify_log(reader, key)
    lost = [index for index, entry in acknowledged.items() if reader.entry(index) != entry]
    log.close()
    print(json.dumps({"errors": errors, "lost": lost, "size": reader.size}))


if __name__ == "__main__":
    main()
