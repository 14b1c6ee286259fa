"""Runs the benchmark: `make bench`, `make bench ARGS="--peer PATH"`, `--growth`, `--compare`."""

from __future__ import annotations

import argparse
import contextlib
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench import compare, floors, growth, machine, rows, table
from tests.bench.record import RELEASED, Record
from tests.bench.signing_log import measure_log
from tests.bench.sites import OURS, PROGRAMS, BenchSite, program


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    add = parser.add_argument
    add("--peer", type=Path, metavar="PATH", help="the programs of a 1.x, there or in PATH/bin")
    add(
        "--rounds", choices=("default", "tuned"), default="tuned",
        help="databases as plain certutil makes them, or after `sigul-stack pki tune` (tuned)",
    )  # fmt: skip
    add(
        "--growth", nargs="?", const="full", choices=("full", "quick"),
        help="measure how cost grows, too; quick: fewer and smaller steps",
    )  # fmt: skip
    add("--quick", action="store_true", help="fewer runs and smaller steps: some minutes")
    add("--smoke", action="store_true", help="each once, to see that it works: no figures to keep")
    add("--record", type=Path, metavar="FILE", help="write what was found as JSON")
    add(
        "--compare", type=Path, nargs="?", const=RELEASED, metavar="FILE",
        help=f"hold this run against a record ({RELEASED.name} of docs/bench); exit 1 if slower",
    )  # fmt: skip
    add(
        "--margin", type=float, default=compare.MARGIN, metavar="PART",
        help="how much worse a ratio to a floor, or memory, may be (0.2: 20 %%)",
    )  # fmt: skip
    add("--log", action="store_true", help="measure the signing log alone")
    add("--leaves", type=int, default=10_000_000, help="leaves of that log (10000000)")
    return parser.parse_args(words)


def tell(text: str) -> None:
    """Say what is measured now: on standard error, so that the table can be kept."""
    print(text, file=sys.stderr, flush=True)


def run(directory: Path, options: argparse.Namespace) -> Record:
    """Make the sites in `directory` and measure them: each row of ours, then the peer's."""
    effort, steps = rows.Effort(), growth.Steps()
    if options.quick or options.growth == "quick":
        steps = growth.QUICK
    if options.quick:
        effort = rows.QUICK
    if options.smoke:
        effort, steps = rows.SMALLEST, growth.SMALLEST
    described = {**machine.describe(), "databases": databases(options)}
    site = BenchSite.make(directory / "site", OURS, options.rounds)
    other = None
    if options.peer:
        described["peer"] = str(options.peer)
        other = BenchSite.make(directory / "peer", options.peer.absolute(), options.rounds)
    found = floors.Floors(directory / "site/pki/client", effort.runs)
    measured, peer = [], []
    files = rows.Files.make(directory, effort.large)
    with contextlib.ExitStack() as running:
        for one in filter(None, (site, other)):
            running.enter_context(one.running())
            one.make_key()
        theirs = rows.plan(other, files, effort) if other else {}
        for name, make in rows.plan(site, files, effort).items():
            tell(f"{name} …")
            now = found.now()
            measured.append(make(now))
            if name in theirs:
                tell(f"{name}, of the peer …")
                try:
                    peer.append(theirs[name](now))
                except (RuntimeError, subprocess.SubprocessError) as error:
                    tell(f"the peer failed: {error}")
        grown = tuple(growth.measure(site, directory, found, steps, tell)) if options.growth else ()
    return Record(described, found.medians, found.ranges, tuple(measured), tuple(peer), grown)


def databases(options: argparse.Namespace) -> str:
    """What the NSS databases are like; figures of others are not to be compared with these."""
    return f"certutil's, {options.rounds}"


def main() -> int:
    """Measure and print; 1 where something is worse than the record it is held against.

    2 where it cannot be measured: a site does not work.
    """
    options = arguments()
    # So that bridge and server are ended, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    then = None
    try:
        # What is wrong with the command line is said now, and not after the measuring.
        if options.compare:
            then = Record.parse(options.compare.read_text())
            if (reason := compare.unlike(databases(options), then)) is not None:
                raise ValueError(f"{reason}: give the same --rounds")
        for name in PROGRAMS if options.peer else ():
            program(options.peer, name)
    except (OSError, ValueError) as error:
        tell(f"{error}")
        return 2
    with tempfile.TemporaryDirectory(prefix="sigul-bench-") as name:
        if options.log:
            for row in measure_log(Path(name) / "log", options.leaves):
                print("{:<42} {:9.3f} {:<8} {:<12} {}".format(*row), flush=True)
            return 0
        try:
            record = run(Path(name), options)
        except (RuntimeError, subprocess.SubprocessError) as error:
            tell(f"cannot measure: {error}")
            return 2
    print(table.text(record))
    if options.record:
        options.record.parent.mkdir(parents=True, exist_ok=True)
        options.record.write_text(record.encode())
    if then is None:
        return 0
    said, good = compare.compare(record, then, options.margin)
    print(
        f"\nagainst {options.compare} of {then.machine['date']}, {then.machine['commit']}\n{said}"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
