"""How cost grows: clients, payload, RPMs, users and keys of the database.

Users and keys are rows written straight to the server's database, with access of the
administrator to none: what is measured is list-users, list-keys, and a signature beside them. The
keys have no key in the GnuPG home; a home of 100,000 keys would be gpg's own slowness. A list's
floor is that of any request, however long the list is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import sqlalchemy as sa

from sigul_stack.database.schema import keys, users
from tests.bench import floors as floor
from tests.bench.measuring import load, median, timed
from tests.bench.record import Curve
from tests.bench.rows import Request, Requests, data_file, packages
from tests.bench.sites import BenchSite


@dataclass(frozen=True)
class Steps:
    """Where it is measured; `payload` in bytes, `seconds` of each load, `runs` of each request."""

    clients: Sequence[int] = (1, 2, 4, 8, 16, 32, 64)
    payload: Sequence[int] = (
        1024, 32 * 1024, *(size * floor.MIB for size in (1, 32, 256, 1024, 5 * 1024)),
    )  # fmt: skip
    rpms: Sequence[int] = (1, 10, 100, 1000)
    rows: Sequence[int] = (10, 100, 1000, 10_000, 100_000)
    seconds: float = 10
    runs: int = 5


QUICK = Steps(
    clients=(1, 4, 16, 64),
    payload=(1024, 32 * 1024, floor.MIB, 32 * floor.MIB, 256 * floor.MIB),
    rpms=(1, 10, 100),
    rows=(10, 1000, 100_000),
    seconds=4,
    runs=2,
)
SMALLEST = Steps((1,), (1024,), (1,), (10,), 0.1, 1)


def fill(database: Path, count: int) -> None:
    """Add rows until the database has `count` users and as many keys besides the site's own."""
    engine = sa.create_engine(f"sqlite:///{database}")
    try:
        with engine.begin() as connection:
            query = sa.select(sa.func.count()).where(users.c.name.startswith("grown-"))
            have = connection.execute(query).scalar_one()
            new = range(have, count)
            if not new:
                return
            connection.execute(
                users.insert(),
                [{"name": f"grown-{n:06}", "sha512_password": None, "admin": False} for n in new],
            )
            connection.execute(
                keys.insert(),
                [
                    {"name": f"grown-{n:06}", "keytype": "gnupg", "fingerprint": f"{n:040X}"}
                    for n in new
                ],
            )
    finally:
        engine.dispose()


def measure(
    site: BenchSite,
    directory: Path,
    floors: floor.Floors,
    steps: Steps,
    tell: Callable[[str], None],
) -> Iterator[Curve]:
    """All curves of a running site that has its key. The database is filled last."""
    requests = Requests(site, directory)

    def curve(
        name: str,
        x: str,
        y: str,
        where: Sequence[int],
        value: Callable[[int], float],
        least: Callable[[Mapping[str, float], int], float],
    ) -> Curve:
        now, points = floors.now(), []
        for at in where:
            tell(f"{name}: {at} {x} …")
            points.append((float(at), value(at), least(now, at)))
        return Curve(name, x, y, tuple(points))

    def signature(now: Mapping[str, float], count: int = 1) -> float:
        return floor.request(now) + count * now[floor.RSA]

    small = data_file(directory / "grown-small", 1024)

    def sign(path: Path = small) -> None:
        requests.do(requests.sign_data(path))

    yield curve(
        "sign-data 1 KiB", "clients", "signatures a second", steps.clients,
        lambda clients: load([sign], clients, steps.seconds).rate, floor.shared,
    )  # fmt: skip

    def payload(size: int) -> float:
        path = data_file(directory / "grown-payload", size)
        try:
            # A large one is warm by itself, and a gigabyte takes seconds.
            if size > 256 * floor.MIB:
                return timed(lambda: sign(path))
            return median(lambda: sign(path), steps.runs)
        finally:
            path.unlink()

    yield curve(
        "sign-data", "payload in bytes", "seconds", steps.payload, payload,
        lambda now, size: signature(now) + size / floor.MIB / floor.payload_rate(now),
    )  # fmt: skip

    def rpms(count: int) -> float:
        paths = packages(directory / "grown-rpms", count)
        return median(lambda: requests.do(requests.sign_rpms(paths)), 1)

    yield curve("sign-rpms", "RPMs in a request", "seconds", steps.rpms, rpms, signature)
    database = site.directory / "server.sqlite"
    now = floors.now()
    beside: dict[str, tuple[Request, float, list[tuple[float, float, float]]]] = {
        "list-users": ((["list-users"], [site.admin_password]), floor.request(now), []),
        "list-keys": ((["list-keys"], [site.admin_password]), floor.request(now), []),
        "sign-data 1 KiB beside them": (requests.sign_data(small), signature(now), []),
    }
    for count in steps.rows:
        tell(f"users and keys: {count} …")
        fill(database, count)
        for request, least, points in beside.values():
            points.append((float(count), median(partial(requests.do, request), steps.runs), least))
    for name, (_request, _least, points) in beside.items():
        yield Curve(name, "users and keys in the database", "seconds", tuple(points))
