"""Runs the benchmark: `make bench`, `make bench ARGS="--peer PATH"`, `--growth`, `--compare`."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from tests.bench import compare, floors, growth, machine, rows, table
from tests.bench.record import RELEASED, Record
from tests.bench.signing_log import measure_log
from tests.bench.sites import OURS, BenchSite, make_databases


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
    add("--record", type=Path, metavar="FILE", help="write what was found as JSON")
    add(
        "--compare", type=Path, nargs="?", const=RELEASED, metavar="FILE",
        help=f"hold this run against a record ({RELEASED.name} of docs/bench); exit 1 if slower",
    )  # fmt: skip
    add("--margin", type=float, default=compare.MARGIN, help="how much slower may be (0.2: 20 %%)")
    add("--log", action="store_true", help="measure the signing log alone")
    add("--leaves", type=int, default=10_000_000, help="leaves of that log (10000000)")
    return parser.parse_args(words)


def tell(text: str) -> None:
    """Say what is measured now: on standard error, so that the table can be kept."""
    print(text, file=sys.stderr, flush=True)


def run(directory: Path, options: argparse.Namespace) -> Record:
    """Make the sites in `directory` and measure them."""
    effort = getattr(options, "effort", None) or (rows.QUICK if options.quick else rows.Effort())
    few = options.quick or options.growth == "quick"
    steps = getattr(options, "steps", None) or (growth.QUICK if few else growth.Steps())
    described = {**machine.describe(), "databases": f"certutil's, {options.rounds}"}
    site = BenchSite.make(directory / "site", OURS, options.rounds)
    tell("floors …")
    pki = directory / "site/pki"
    if options.rounds != "tuned":
        # The mathematics of a handshake, not the cost of the key's derivation.
        pki = directory / "tuned"
        make_databases(pki, "tuned")
    found = floors.measure(pki, effort.runs)
    grown: tuple = ()  # type: ignore[type-arg]
    with site.running():
        site.make_key()
        measured = rows.measure(site, directory, found, effort, tell)
        if options.growth:
            grown = growth.measure(site, directory, steps, tell)
    peer: tuple = ()  # type: ignore[type-arg]
    if options.peer:
        tell(f"the peer in {options.peer}")
        other = BenchSite.make(directory / "peer", options.peer.absolute(), options.rounds)
        with other.running():
            other.make_key()
            peer = rows.measure(other, directory, found, effort, tell)
    return Record(described, found, measured, peer, grown)


def main() -> int:
    """Measure and print; 1 where something is slower than the record it is held against."""
    options = arguments()
    # So that bridge and server are ended, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    then = None
    if options.compare:
        if not options.compare.exists():
            raise SystemExit(f"{options.compare} is not there: write one with --record FILE")
        then = Record.parse(options.compare.read_text())
    with tempfile.TemporaryDirectory(prefix="sigul-bench-") as name:
        if options.log:
            for row in measure_log(Path(name) / "log", options.leaves):
                print("{:<42} {:9.3f} {:<8} {:<12} {}".format(*row), flush=True)
            return 0
        record = run(Path(name), options)
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
