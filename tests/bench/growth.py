"""How cost grows: clients, payload, RPMs, users and keys of the database.

Users and keys are rows written straight to the server's database, with access of the
administrator to none: what is measured is list-users, list-keys, and a signature beside them. The
keys have no key in the GnuPG home; a home of 100,000 keys would be gpg's own slowness.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from sigul_stack.database.schema import keys, users
from tests.bench import floors as floor
from tests.bench.measuring import load, median, timed
from tests.bench.record import Curve
from tests.bench.rows import Requests, data_file, packages
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
    site: BenchSite, directory: Path, steps: Steps, tell: Callable[[str], None]
) -> tuple[Curve, ...]:
    """All curves of a running site that has its key. The database is filled last."""
    requests = Requests(site, directory)
    curves = []

    def curve(
        name: str, x: str, y: str, where: Sequence[int], value: Callable[[int], float]
    ) -> None:
        points = []
        for at in where:
            tell(f"{name}: {at} {x} …")
            points.append((float(at), value(at)))
        curves.append(Curve(name, x, y, tuple(points)))

    small = data_file(directory / "grown-small", 1024)

    def sign(path: Path = small) -> None:
        requests.do(requests.sign_data(path))

    curve(
        "sign-data 1 KiB", "clients", "signatures a second", steps.clients,
        lambda clients: load([sign], clients, steps.seconds).rate,
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

    curve("sign-data", "payload in bytes", "seconds", steps.payload, payload)

    def rpms(count: int) -> float:
        paths = packages(directory / "grown-rpms", count)
        return median(lambda: requests.do(requests.sign_rpms(paths)), 1)

    curve("sign-rpms", "RPMs in a request", "seconds", steps.rpms, rpms)
    listed: dict[str, list[tuple[float, float]]] = {"list-users": [], "list-keys": [], "sign": []}
    for count in steps.rows:
        tell(f"users and keys: {count} …")
        fill(site.directory / "server.sqlite", count)
        for name, points in listed.items():
            request = ([name], [site.admin_password])
            if name == "sign":
                request = requests.sign_data(small)  # type: ignore[assignment]
            points.append(
                (float(count), median(lambda r=request: requests.do(r), steps.runs))  # type: ignore[misc]
            )
    for name, points in listed.items():
        title = "sign-data 1 KiB beside them" if name == "sign" else name
        curves.append(Curve(title, "users and keys in the database", "seconds", tuple(points)))
    return tuple(curves)
