"""Runs the benchmark and prints its table."""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.signing_log import measure_log
from tests.site import Site, free_port

KEY_PASSPHRASE = "bench-passphrase"
MIB = 1024**2


def timed(work: Callable[[], object]) -> float:
    """How long `work` takes, in seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def median(work: Callable[[], object], runs: int) -> float:
    """The median time of `work` over `runs` runs, after one that does not count, in seconds."""
    work()
    return statistics.median(timed(work) for _ in range(runs))


def sign(site: Site, path: Path) -> None:
    """Sign a file with a whole client process."""
    site.sigul(
        "sign-data", "-o", f"{path}.{threading.get_ident()}.sig", "bench", str(path),
        secrets=[KEY_PASSPHRASE],
    )  # fmt: skip


def signatures_per_second(site: Site, path: Path, clients: int, seconds: float) -> float:
    """Signatures a second of `clients` that each sign one file after the other."""
    done = []
    end = time.monotonic() + seconds

    def client() -> None:
        while time.monotonic() < end:
            sign(site, path)
            done.append(time.monotonic())

    threads = [threading.Thread(target=client) for _ in range(clients)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(done) / (time.monotonic() - began)


def bare_gpg(home: Path, path: Path) -> None:
    """A detached signature by gpg alone, with a key of the same kind."""
    subprocess.run(
        [
            "gpg", "--homedir", str(home), "--batch", "--yes", "--quiet", "--pinentry-mode",
            "loopback", "--passphrase-file", str(home / "passphrase"), "--digest-algo", "SHA512",
            "-o", str(path) + ".gpg.sig", "--detach-sign", str(path),
        ],
        check=True, timeout=120,
    )  # fmt: skip


def make_gpg_key(home: Path) -> None:
    """A GnuPG home with one RSA 2048 key, as new keys of a server are."""
    home.mkdir(mode=0o700)
    (home / "gpg-agent.conf").write_text("allow-loopback-pinentry\ns2k-count 65536\n")
    (home / "passphrase").write_text("a long random passphrase of the key's own")
    subprocess.run(
        [
            "gpg", "--homedir", str(home), "--batch", "--quiet", "--pinentry-mode", "loopback",
            "--passphrase-file", str(home / "passphrase"), "--quick-generate-key",
            "bench@example.org", "rsa2048", "sign",
        ],
        check=True, timeout=120, capture_output=True,
    )  # fmt: skip


def two_handshakes(site: Site, runs: int) -> float:
    """The median time of two TLS handshakes with the site's keys, in seconds."""
    port = str(free_port())
    command = [sys.executable, "-m", "tests.bench.handshakes"]
    with subprocess.Popen(
        [*command, "listen", str(site.directory), port], stdout=subprocess.PIPE
    ) as listener:
        assert listener.stdout is not None
        listener.stdout.readline()
        try:
            times = [
                float(
                    subprocess.run(
                        [*command, "dial", str(site.directory), port],
                        check=True, capture_output=True, timeout=60,
                    ).stdout
                )
                for _ in range(runs)
            ]  # fmt: skip
        finally:
            listener.terminate()
    return statistics.median(times)


def sha512(path: Path) -> None:
    """Hash a file."""
    with path.open("rb") as file:
        hashlib.file_digest(file, "sha512")


def report(what: str, value: float, unit: str, aim: str, floor: str) -> None:
    """Print one row."""
    print(f"{what:<42} {value:9.3f} {unit:<8} {aim:<12} {floor}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--runs", type=int, default=15, help="runs of each small request (15)")
    parser.add_argument("--large-runs", type=int, default=3, help="runs of the large one (3)")
    parser.add_argument("--seconds", type=float, default=10, help="length of each load (10 s)")
    parser.add_argument(
        "--leaves", type=int, default=10_000_000, help="leaves of the large signing log (10000000)"
    )
    parser.add_argument("--log-only", action="store_true", help="measure the signing log alone")
    options = parser.parse_args()
    print(
        f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()},"
        f" load {os.getloadavg()[0]:.2f}"
    )
    with tempfile.TemporaryDirectory(prefix="sigul-bench-") as name:
        if not options.log_only:
            measure(Path(name), options)
        for row in measure_log(Path(name) / "log", options.leaves):
            report(*row)


def measure(directory: Path, options: argparse.Namespace) -> None:
    """Make a site in `directory` and measure it."""
    site = Site.make(directory / "site")
    small, large = directory / "small", directory / "large"
    small.write_bytes(os.urandom(1024))
    with large.open("wb") as file:
        for _ in range(256):
            file.write(os.urandom(MIB))
    home = directory / "gnupg"
    make_gpg_key(home)
    runs, large_runs = options.runs, options.large_runs
    gpg_small = median(lambda: bare_gpg(home, small), runs)
    gpg_large = median(lambda: bare_gpg(home, large), large_runs)
    hash_large = median(lambda: sha512(large), large_runs)
    python = median(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True), runs)
    handshakes = two_handshakes(site, runs)
    floor = f"two handshakes {handshakes:.3f} s, python start {python:.3f} s"
    with site.running():
        site.sigul("new-key", "bench", secrets=[site.admin_password, KEY_PASSPHRASE])
        print(f"{'':<42} {'median':>9} {'':<8} {'aim':<12} floor")
        users = median(lambda: site.sigul("list-users", secrets=[site.admin_password]), runs)
        report("list-users, whole client process", users, "s", "0.2", floor)
        report(
            "sign-data 1 KiB, whole client process", median(lambda: sign(site, small), runs), "s",
            "0.35", f"bare gpg {gpg_small:.3f} s, {floor}",
        )  # fmt: skip
        report(
            "sign-data 256 MiB", 256 / median(lambda: sign(site, large), large_runs), "MiB/s",
            "100", f"bare gpg {256 / gpg_large:.0f} MiB/s, SHA-512 {256 / hash_large:.0f} MiB/s",
        )  # fmt: skip
        for clients, aim in ((1, ""), (8, "6")):
            rate = signatures_per_second(site, small, clients, options.seconds)
            report(
                f"signatures a second, {clients} client{'s' * (clients > 1)}", rate, "/s", aim,
                f"bare gpg {1 / gpg_small:.1f}/s",
            )  # fmt: skip
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True, timeout=30)


if __name__ == "__main__":
    main()
