"""The issue's six rows, each with its floor: what is asked of a site, and how often."""

from __future__ import annotations

import resource
import shutil
import statistics
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tests.bench import floors as floor
from tests.bench.measuring import client_kib, load, times, watched
from tests.bench.record import Row
from tests.bench.sites import KEY, KEY_PASSPHRASE, BenchSite
from tests.integration.rpm_support import build

#: What a client is given: its arguments, and its secrets.
Request = tuple[Sequence[str], Sequence[str]]
Make = Callable[[], Request]
Do = Callable[[Make], None]


@dataclass(frozen=True)
class Effort:
    """How much is measured: runs of each small request, seconds of each load, the large file."""

    runs: int = 15
    large_runs: int = 3
    seconds: float = 10
    mixed_seconds: float = 60
    large: int = 256 * floor.MIB


#: To see that the harness works.
SMALLEST = Effort(runs=1, large_runs=1, seconds=0.1, mixed_seconds=0.1, large=floor.MIB)
QUICK = Effort(runs=5, large_runs=1, seconds=4, mixed_seconds=15)


def data_file(path: Path, size: int) -> Path:
    """A file of `size` bytes; sparse, for neither hash nor cipher cares what is in it."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


def packages(directory: Path, count: int) -> list[str]:
    """`count` small RPMs: one built, copied under other names."""
    directory.mkdir(exist_ok=True)
    source = directory.parent / "package.rpm"
    if not source.exists():
        build(directory.parent).rename(source)
    names = [directory / f"package-{number}.rpm" for number in range(count)]
    for name in names:
        if not name.exists():
            shutil.copy(source, name)
    return [str(name) for name in names]


@dataclass(frozen=True)
class Files:
    """What is signed, the same of each site: 1 KiB of text, 1 MiB, the large file, 20 RPMs."""

    small: Path
    middle: Path
    large: Path
    rpms: Sequence[str]

    @classmethod
    def make(cls, directory: Path, large: int) -> Files:
        """The files in `directory`; `large` in bytes."""
        small = directory / "small"
        small.write_text(f"{'one line of text, of 32 letters':<31}\n" * 32)
        return cls(
            small,
            data_file(directory / "middle", floor.MIB),
            data_file(directory / "large", large),
            packages(directory / "rpms", 20),
        )


class Requests:
    """The requests that are measured, of one site; `directory` is for what comes out.

    A Sigul 1.2 has all of them, with these options.
    """

    def __init__(self, site: BenchSite, directory: Path) -> None:
        self.site = site
        self.directory = directory

    def _out(self) -> str:
        return str(self.directory / f"out-{threading.get_ident()}")

    def list_users(self) -> Request:
        """The list of users; the others sign a file with the site's key."""
        return ["list-users"], [self.site.admin_password]

    def sign_data(self, path: Path) -> Request:
        return ["sign-data", "-o", self._out(), KEY, str(path)], [KEY_PASSPHRASE]

    def sign_text(self, path: Path) -> Request:
        return ["sign-text", "-o", self._out(), KEY, str(path)], [KEY_PASSPHRASE]

    def sign_rpms(self, paths: Sequence[str]) -> Request:
        return ["sign-rpms", "-o", self._out() + ".d", KEY, *paths], [KEY_PASSPHRASE]

    def do(self, request: Request) -> None:
        arguments, given = request
        self.site.run("sigul", *arguments, given=given)


def _client_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class _Pieces:
    """Counts what was done, and what each piece cost."""

    def __init__(self, requests: Requests) -> None:
        self.requests = requests
        self.done = 0

    def do(self, make: Make) -> None:
        self.requests.do(make())
        self.done += 1


#: What a figure is made of: its value, and what each request took, in seconds.
Found = tuple[float, Sequence[float]]
#: Measures one row, beside floors of just now.
MakeRow = Callable[[Mapping[str, float]], Row]


def plan(site: BenchSite, files: Files, effort: Effort) -> dict[str, MakeRow]:
    """The six rows by name, each to be measured on a running site that has its key."""
    requests = Requests(site, site.directory)
    large_mib = effort.large / floor.MIB
    large_name = f"sign-data {large_mib:.0f} MiB"

    def row(work: Callable[[Do], Found], sample: Request, **what: object) -> Row:
        pieces = _Pieces(requests)
        before = _client_cpu()
        with watched(site) as seen:
            value, took = work(pieces.do)
        cpu = {"client": _client_cpu() - before, **seen.cpu}
        done = max(1, pieces.done)
        return Row(
            value=value,
            runs=len(took),
            fastest=min(took),
            slowest=max(took),
            cpu={name: seconds / done for name, seconds in cpu.items()},
            client_kib=client_kib(site, *sample),
            worker_kib=seen.worker_kib,
            **what,  # type: ignore[arg-type]
        )

    def one(make: Make, runs: int, figure: Callable[[float], float], **what: object) -> Row:
        """A row of one client; `figure` makes one of a request's median time."""

        def work(do: Do) -> Found:
            took = times(lambda: do(make), runs)
            return figure(statistics.median(took)), took

        return row(work, make(), **what)

    def shared(clients: int, seconds: float, makes: Sequence[Make], **what: object) -> Row:
        p95 = 0.0

        def work(do: Do) -> Found:
            nonlocal p95
            found = load([partial(do, make) for make in makes], clients, seconds)
            p95 = found.p95
            return found.rate, found.took

        found = row(
            work, makes[-1](), unit="/s", better="higher",
            floor_is="Python start, NSS start, three handshakes, RSA where it signs, on all cores",
            **what,
        )  # fmt: skip
        return replace(found, p95=p95)

    def users() -> Request:
        return requests.list_users()

    def sign() -> Request:
        return requests.sign_data(files.small)

    def sign_large() -> Request:
        return requests.sign_data(files.large)

    def sign_middle() -> Request:
        return requests.sign_data(files.middle)

    def text() -> Request:
        return requests.sign_text(files.small)

    def batch() -> Request:
        return requests.sign_rpms(files.rpms)

    makers: dict[str, Callable[..., Row]] = {
        "list-users, whole client": lambda floors, name: one(
            users, effort.runs, float, name=name, unit="s", better="lower", aim=0.10,
            floor=floor.request(floors), floor_is="Python start, NSS start, two handshakes",
        ),
        "sign-data 1 KiB": lambda floors, name: one(
            sign, effort.runs, float, name=name, unit="s", better="lower", aim=0.14,
            floor=floor.request(floors) + floors[floor.RSA],
            floor_is="the same and an RSA signature",
        ),
        large_name: lambda floors, name: one(
            sign_large, effort.large_runs, lambda seconds: large_mib / seconds,
            name=name, unit="MiB/s", better="higher", aim=250, floor=floor.payload_rate(floors),
            floor_is="SHA-512 at client and at server, AES-GCM four times, on all cores",
        ),
        "8 clients, sign-data 1 KiB": lambda floors, name: shared(
            8, effort.seconds, [sign], name=name, aim=16, floor=floor.shared(floors, 8),
        ),
        "3 clients, list-users, sign-text, sign-data 1 MiB in turn": lambda floors, name: shared(
            3, effort.mixed_seconds, [users, text, sign_middle], name=name, aim=20, aim_p95=0.25,
            floor=floor.shared(floors, 3, 2 / 3),
        ),
        "sign-rpms, 20 small RPMs": lambda floors, name: one(
            batch, max(1, effort.runs // 3), lambda seconds: 20 / seconds,
            name=name, unit="/s", better="higher", aim=100,
            floor=20 / (floor.request(floors) + 20 * floors[floor.RSA]),
            floor_is="one client's start, 20 RSA signatures",
        ),
    }  # fmt: skip
    return {name: partial(make, name=name) for name, make in makers.items()}
