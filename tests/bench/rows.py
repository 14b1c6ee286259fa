"""The issue's six rows, each with its floor: what is asked of a site, and how often."""

from __future__ import annotations

import os
import resource
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tests.bench import floors as floor
from tests.bench.machine import cores
from tests.bench.measuring import client_kib, load, median, watched
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


#: What the tests do, to see that the harness works.
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


class Requests:
    """The requests that are measured, of one site and in one directory."""

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


def measure(
    site: BenchSite,
    directory: Path,
    floors: dict[str, float],
    effort: Effort,
    tell: Callable[[str], None],
) -> tuple[Row, ...]:
    """All six rows of a running site that has its key."""
    requests = Requests(site, directory)
    small = directory / "small"
    small.write_bytes(os.urandom(700).hex().encode()[:1024])
    middle = data_file(directory / "middle", floor.MIB)
    large = data_file(directory / "large", effort.large)
    rpms = packages(directory / "rpms", 20)
    start = floors[floor.PYTHON] + floors[floor.NSS]
    shake, rsa = floors[floor.HANDSHAKE], floors[floor.RSA]
    # A client's two sessions; the server's own with the bridge was made before it was needed.
    request = start + 2 * shake
    whole = start + 3 * shake
    large_mib = effort.large / floor.MIB

    def row(work: Callable[[Do], float], sample: Request, **what: object) -> Row:
        pieces = _Pieces(requests)
        tell(f"{what['name']} …")
        before = _client_cpu()
        with watched(site) as seen:
            value = work(pieces.do)
        cpu = {"client": _client_cpu() - before, **seen.cpu}
        done = max(1, pieces.done)
        return Row(
            value=value,
            cpu={name: seconds / done for name, seconds in cpu.items()},
            client_kib=client_kib(site, *sample),
            worker_kib=seen.worker_kib,
            **what,  # type: ignore[arg-type]
        )

    def shared(clients: int, seconds: float, makes: Sequence[Make], **what: object) -> Row:
        p95 = 0.0

        def work(do: Do) -> float:
            nonlocal p95
            found = load([partial(do, make) for make in makes], clients, seconds)
            p95 = found.p95
            return found.rate

        found = row(
            work, makes[-1](), unit="/s", better="higher",
            floor_is="Python start, NSS start, three handshakes, RSA where it signs, on all cores",
            **what,
        )  # fmt: skip
        return replace(found, p95=p95)

    def users() -> Request:
        return requests.list_users()

    def sign() -> Request:
        return requests.sign_data(small)

    def sign_large() -> Request:
        return requests.sign_data(large)

    def sign_middle() -> Request:
        return requests.sign_data(middle)

    def text() -> Request:
        return requests.sign_text(small)

    def batch() -> Request:
        return requests.sign_rpms(rpms)

    return (
        row(
            lambda do: median(lambda: do(users), effort.runs), users(),
            name="list-users, whole client", unit="s", better="lower", aim=0.10, floor=request,
            floor_is="Python start, NSS start, two handshakes",
        ),
        row(
            lambda do: median(lambda: do(sign), effort.runs), sign(),
            name="sign-data 1 KiB", unit="s", better="lower", aim=0.14, floor=request + rsa,
            floor_is="the same and an RSA signature",
        ),
        row(
            lambda do: large_mib / median(lambda: do(sign_large), effort.large_runs), sign_large(),
            name=f"sign-data {large_mib:.0f} MiB", unit="MiB/s", better="higher", aim=250,
            floor=large_floor(floors),
            floor_is="SHA-512 at client and at server, AES-GCM four times, on all cores",
        ),
        shared(
            8, effort.seconds, [sign], name="8 clients, sign-data 1 KiB", aim=16,
            floor=min(8, cores()) / (whole + rsa),
        ),
        shared(
            3, effort.mixed_seconds, [users, text, sign_middle], aim=20, aim_p95=0.25,
            name="3 clients, list-users, sign-text, sign-data 1 MiB in turn",
            floor=min(3, cores()) / (whole + rsa * 2 / 3),
        ),
        row(
            lambda do: 20 / median(lambda: do(batch), max(1, effort.runs // 3)), batch(),
            name="sign-rpms, 20 small RPMs", unit="/s", better="higher", aim=100,
            floor=20 / (request + 20 * rsa), floor_is="one client's start, 20 RSA signatures",
        ),
    )  # fmt: skip


def large_floor(floors: dict[str, float]) -> float:
    """MiB/s: the slower of one SHA-512 and of all work shared by all cores."""
    hash_, aes = floors[floor.SHA512], floors[floor.AES]
    return min(hash_, cores() / (2 / hash_ + 4 / aes))
