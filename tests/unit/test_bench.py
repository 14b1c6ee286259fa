"""The benchmark's pure parts, and its page: figures in docs/bench.md are those of the record."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.bench import draw, floors, table
from tests.bench.compare import compare, unlike
from tests.bench.growth import fill
from tests.bench.measuring import Load
from tests.bench.record import RELEASED, Curve, Record, Row

ROW = Row(
    name="list-users", value=0.2, unit="s", better="lower", floor=0.1, floor_is="a start",
    aim=0.1, client_kib=30 * 1024, worker_kib=40 * 1024,
    cpu={"client": 0.1, "bridge": 0.01, "server": 0.02}, runs=15, fastest=0.19, slowest=0.25,
)  # fmt: skip
RATE = Row(
    name="8 clients", value=5, unit="/s", better="higher", floor=10, floor_is="a start", aim=4,
    p95=0.3, aim_p95=0.25,
)  # fmt: skip
MACHINE = {
    "CPU": "A <CPU>", "cores": "2", "memory": "4 GiB", "kernel": "6", "Python": "3.11",
    "NSS": "3.87", "date": "2026-01-01", "commit": "abc", "databases": "certutil's, tuned",
}  # fmt: skip
LARGE = 5 * 1024.0**3
RECORD = Record(
    MACHINE, {"Python start": 0.04, "SHA-512": 500.0},
    {"Python start": (0.03, 0.06), "SHA-512": (480.0, 520.0)}, (ROW, RATE), (ROW,),
    (
        Curve("sign-data", "payload in bytes", "seconds", ((1024, 0.1, 0.05), (LARGE, 20.0, 10))),
        Curve("list-users", "users and keys", "seconds", ((10.0, 0.1, 0.05), (100.0, 0.4, 0.05))),
        Curve("list-keys", "users and keys", "seconds", ((10.0, 0.1, 0.05), (100.0, 0.5, 0.05))),
    ),
)  # fmt: skip


def changed(row: Row, **what: object) -> Record:
    return measured(dataclasses.replace(row, **what))  # type: ignore[arg-type]


def measured(*rows: Row) -> Record:
    return Record(MACHINE, {}, rows=rows)


def test_a_record_is_read_as_it_was_written() -> None:
    assert Record.parse(RECORD.encode()) == RECORD


def test_a_record_of_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match="measure anew"):
        Record.parse(RECORD.encode().replace('"form": 2', '"form": 0'))


def test_ratios_are_those_to_the_floor_whichever_way_is_better() -> None:
    assert (ROW.ratio, RATE.ratio) == (2, 2)
    assert (ROW.met, RATE.met) == (False, False)  # RATE: its p95 is late
    assert dataclasses.replace(RATE, p95=0.2).met


def test_the_table_has_each_row_with_its_floor_and_the_peer_beside_it() -> None:
    said = table.text(RECORD)
    assert "200 ms" in said and "100 ms" in said and "30.0 MiB" in said and "peer" in said
    assert "5.00/s, p95 300 ms" in said and "missed" in said
    assert "15 requests of 190 ms to 250 ms" in said


def test_each_point_of_growth_stands_beside_its_floor() -> None:
    (line,) = (row for row in table.growth(RECORD.growth) if "5 GiB" in row)
    assert line.split() == ["sign-data", "payload:", "5", "GiB", "20.0", "s", "10.0", "s", "2.0"]


def test_a_peer_that_failed_at_a_row_is_said_to() -> None:
    other = dataclasses.replace(RECORD, peer=(), machine={**MACHINE, "peer": "/opt/sigul"})
    assert table.with_peer(other)[1][2] == "failed"


def test_a_busy_machine_is_told_of_by_its_floors() -> None:
    assert "a floor moved by 100%" in table.text(RECORD)
    quiet = dataclasses.replace(RECORD, floor_ranges={"Python start": (0.04, 0.05)})
    assert "not quiet" not in table.text(quiet)


def test_floors_are_what_several_cores_can_do_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floors, "cores", lambda: 2)
    found = {
        floors.PYTHON: 0.04, floors.NSS: 0.02, floors.HANDSHAKE: 0.01, floors.RSA: 0.01,
        floors.SHA512: 500.0, floors.AES: 2000.0,
    }  # fmt: skip
    assert floors.request(found) == pytest.approx(0.08)
    assert floors.shared(found, 1) == pytest.approx(1 / 0.1)
    assert floors.shared(found, 64) == floors.shared(found, 2) == pytest.approx(2 / 0.1)
    # Two hashes take 4 ms a MiB and AES 2 ms: two cores do 333 MiB/s, one alone hashes 500.
    assert floors.payload_rate(found) == pytest.approx(2 / 0.006)
    monkeypatch.setattr(floors, "cores", lambda: 64)
    assert floors.payload_rate(found) == 500


def test_the_95th_percentile_is_that_of_the_nearest_rank() -> None:
    assert Load([float(n) for n in range(1, 101)], 1).p95 == 95
    assert Load([3.0], 1).p95 == 3


@pytest.mark.parametrize(
    ("row", "what", "good"),
    [
        (ROW, {"value": 0.23}, True),
        (ROW, {"value": 0.25}, False),
        # A machine of half the speed is no regression.
        (ROW, {"value": 0.4, "floor": 0.2}, True),
        (RATE, {"value": 4.3}, True),
        (RATE, {"value": 4}, False),
        (ROW, {"worker_kib": 60 * 1024}, False),
        (ROW, {"client_kib": 20 * 1024}, True),
        # A p95 may be worse by twice the margin.
        (RATE, {"p95": 0.41}, True),
        (RATE, {"p95": 0.43}, False),
    ],
)
def test_a_comparison_fails_where_a_ratio_or_memory_grew(
    row: Row, what: dict[str, object], good: bool
) -> None:
    said, found = compare(changed(row, **what), measured(row))
    assert found is good
    assert (f"REGRESSION: {row.name}: " in said) is not good
    assert ("allowed 20%" in said or "allowed 40%" in said) is not good


def test_a_comparison_names_rows_that_only_one_has() -> None:
    said, good = compare(measured(ROW, RATE), measured(ROW, dataclasses.replace(RATE, name="old")))
    assert good and "new" in said and "not measured" in said and "1 rows" in said


def test_a_comparison_of_nothing_is_no_success() -> None:
    said, good = compare(changed(ROW, name="new one"), measured(ROW))
    assert not good and "no row is in both" in said


def test_runs_on_other_databases_are_not_compared() -> None:
    assert unlike("certutil's, tuned", RECORD) is None
    assert "certutil's, default" in str(unlike("certutil's, default", RECORD))


def test_pictures_are_xml_with_titles_units_and_the_machine() -> None:
    drawn = draw.pictures(RECORD)
    assert set(drawn) == {"payload.svg", "users.svg"}
    for content in drawn.values():
        ElementTree.fromstring(content)  # noqa: S314
        assert "log scale" in content and "A &lt;CPU&gt;" in content
    assert "5 GiB" in drawn["payload.svg"] and "10 s" in drawn["payload.svg"]
    # Two curves, and the floor of each, dashed.
    assert drawn["users.svg"].count("<polyline") == 4
    assert drawn["users.svg"].count("stroke-dasharray") == 2


def test_the_page_has_its_part_once_however_often_it_is_made() -> None:
    once = draw.page(f"before\n{draw.BEGIN}\nold\n{draw.END}\nafter\n", RECORD)
    assert draw.page(once, RECORD) == once
    assert once.startswith("before\n") and once.endswith("after\n") and "old" not in once


def test_figures_and_pictures_of_the_page_are_those_of_the_record() -> None:
    if not RELEASED.exists():
        assert "No release has a record yet." in draw.PAGE.read_text()
        return
    record = Record.parse(RELEASED.read_text())
    assert draw.PAGE.read_text() == draw.page(draw.PAGE.read_text(), record)
    for name, content in draw.pictures(record).items():
        assert RELEASED.with_name(name).read_text() == content


def test_filling_a_database_adds_what_is_missing(tmp_path: Path) -> None:
    import sqlalchemy as sa

    from sigul_stack.database.schema import metadata

    engine = sa.create_engine(f"sqlite:///{tmp_path}/db")
    metadata.create_all(engine)
    for count in (3, 10, 5):
        fill(tmp_path / "db", count)
    with engine.connect() as connection:
        for name in ("users", "keys"):
            assert connection.execute(sa.text(f"SELECT count(*) FROM {name}")).scalar() == 10  # noqa: S608
    engine.dispose()
