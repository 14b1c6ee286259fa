"""The client's side of `sign-rpms`, on streams in memory, with a server that says what it likes."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigul_stack.client.log_check import LogCheck
from sigul_stack.client.rpm_exchange import RPMExchange
from sigul_stack.client.rpm_packages import Package, RPMOptions, sent_of
from sigul_stack.errors import LogComplaint, PeerClosed, SigulError
from sigul_stack.evidence import signing_log
from sigul_stack.evidence.leaf import Content, Leaf, Result
from sigul_stack.evidence.signing_log import SigningLog
from sigul_stack.evidence.witness import Witness
from sigul_stack.formats.rpm_head import EntryType, HeaderEntry, Region, encode_header, padded
from sigul_stack.formats.signed_note import LogProof
from sigul_stack.kojihub import NEVRA, HubRPM
from sigul_stack.protocol.versions import LATEST
from sigul_stack.transport.chunked import ChunkedStream
from sigul_stack.transport.memory import pair
from tests.wire import (
    SUBREPLY_KEYS,
    SUBREQUEST_KEYS,
    THREAD_SECONDS,
    in_background,
    sub_parts,
    u32,
)

OK, BAD = {"status": u32(0)}, {"status": u32(11), "message": b"why"}
NO_REPLY = "No reply from server received"
Server = Callable[[ChunkedStream], None]


def packages(directory: Path, count: int) -> list[Package]:
    """Packages with the contents `rpm 0`, `rpm 1`, …"""
    found = []
    (directory / "out").mkdir()
    for number in range(count):
        (directory / f"{number}").write_bytes(b"rpm %d" % number)
        found.append(Package(directory / f"{number}", directory / "out" / f"{number}"))
    return found


def run(
    all_of_them: list[Package],
    server: Server,
    on_write: Callable[[bytes], None] | None = None,
    options: RPMOptions = RPMOptions(),  # noqa: B008
    check: LogCheck | None = None,
    proved: Callable[[Package, LogProof], None] = lambda _package, _proof: None,
) -> dict[str, str | None]:
    """What is told of each package: its error, or None."""
    near, far = pair()
    near.on_write = on_write
    told: dict[str, str | None] = {}

    def done(package: Package, error: SigulError | None) -> None:
        assert package.source.name not in told
        told[package.source.name] = None if error is None else str(error)

    check = check or LogCheck(Witness(None).begin("server"), "sign-rpms", "root", {})
    exchange = RPMExchange(
        all_of_them,
        version=LATEST,
        options=options,
        subrequests=SUBREQUEST_KEYS,
        subreplies=SUBREPLY_KEYS,
        done=done,
        proved=proved,
    )
    chunked = ChunkedStream(far, THREAD_SECONDS)
    with in_background(lambda: server(chunked)), contextlib.suppress(LogComplaint):
        exchange.run(ChunkedStream(near, THREAD_SECONDS), check)
    return told


def reply(number: int, index: int, fields: dict[str, bytes], payload: bytes = b"") -> bytes:
    """A subreply."""
    return b"".join(sub_parts(number, {"id": u32(index), **fields}, payload, SUBREPLY_KEYS))


def request(number: int, index: int, payload: bytes) -> bytes:
    """A subrequest as it must look."""
    return b"".join(sub_parts(number, {"id": u32(index)}, payload, SUBREQUEST_KEYS))


def answers(*replies: bytes) -> Server:
    """A server that takes all, says this and ends."""

    def server(chunked: ChunkedStream) -> None:
        while chunked.read(1 << 20):
            pass
        for piece in replies:
            chunked.write(piece)
        chunked.end()

    return server


def outputs(directory: Path) -> dict[str, bytes]:
    """What was put in place."""
    return {path.name: path.read_bytes() for path in (directory / "out").iterdir()}


def test_what_is_sent(tmp_path: Path) -> None:
    found = b""

    def server(chunked: ChunkedStream) -> None:
        nonlocal found
        while piece := chunked.read(1 << 20):
            found += piece
        chunked.end()

    run(packages(tmp_path, 3), server)
    assert found == b"".join(request(n, n, b"rpm %d" % n) for n in range(3))


def rpm_leaf(sent: bytes, came: bytes) -> Leaf:
    digests = [hashlib.sha256(data).hexdigest() for data in (sent, came)]
    contents = [Content(digest, 1) for digest in digests]
    return Leaf("sign-rpms", Result.OK, user="root", input=contents[0], output=contents[1])


@pytest.mark.parametrize("lies", [False, True])
def test_each_package_has_a_leaf_of_its_own(tmp_path: Path, lies: bool) -> None:
    signing_log.create(tmp_path / "log", "a")
    check = LogCheck(Witness(None).begin("server"), "sign-rpms", "root", {})
    proofs: dict[str, LogProof] = {}
    with SigningLog.open(tmp_path / "log") as log:
        log.append([Leaf("sign-rpms", Result.OK, user="root")])
        check.reply(log.evidence(1).fields(), lambda: None, None)
        leaves = [rpm_leaf(b"rpm %d" % n, b"signed %d" % n) for n in range(3)]
        if lies:
            leaves[1] = rpm_leaf(b"rpm 1", b"another")
        size = log.size
        log.append(leaves)
        replies = [
            reply(n, n, {**OK, **log.evidence(size + n, size).fields()}, b"signed %d" % n)
            for n in range(3)
        ]

        def proved(package: Package, proof: LogProof) -> None:
            proof.verify(log.public_key)
            proofs[package.source.name] = proof

        told = run(packages(tmp_path, 3), answers(*replies), check=check, proved=proved)
    if lies:
        assert told["0"] is None
        # What comes after it is not believed either.
        for name in ("1", "2"):
            assert "tells of an output with SHA-256" in str(told[name])
        assert outputs(tmp_path) == {"0": b"signed 0"}
        assert list(proofs) == ["0"]
        return
    assert told == {"0": None, "1": None, "2": None}
    assert [proof.index for proof in proofs.values()] == [size, size + 1, size + 2]


def test_a_package_that_cannot_be_sent_takes_no_number(tmp_path: Path) -> None:
    three = packages(tmp_path, 4)
    three[0].source.unlink()
    three[2].source.write_bytes(b"")
    found = b""

    def server(chunked: ChunkedStream) -> None:
        nonlocal found
        while piece := chunked.read(1 << 20):
            found += piece
        chunked.write(reply(0, 3, OK, b"three") + reply(1, 1, OK, b"one"))
        chunked.end()

    told = run(three, server)
    assert found == request(0, 1, b"rpm 1") + request(1, 3, b"rpm 3")
    assert told["1"] is None
    assert told["3"] is None
    assert "cannot be read: No such file" in str(told["0"])
    assert str(told["2"]).startswith("Cannot sign zero-length RPM file ")
    assert outputs(tmp_path) == {"1": b"one", "3": b"three"}


def head(**texts: str) -> bytes:
    """The head of a source package with these texts in its main header."""
    tags = {"name": 1000, "version": 1001, "release": 1002, "arch": 1022}
    main = [
        HeaderEntry(tags[name], EntryType.STRING, 1, value.encode() + b"\0")
        for name, value in texts.items()
    ]
    lead = b"\xed\xab\xee\xdb\x03\0\0\0" + bytes(70) + b"\0\x05" + bytes(16)
    old = encode_header(Region.SIGNATURE, [HeaderEntry.binary(1004, b"old")])
    return lead + padded(old) + encode_header(Region.MAIN, main)


HEADS_TO_KOJI = RPMOptions(head_signing=True, store_in_koji=True)
PROPER = {"name": "lab", "version": "1", "release": "2", "arch": "noarch"}


@pytest.mark.parametrize(
    ("odd", "told"),
    [
        ({"name": "n" * 300}, "'rpm-name' has 300 bytes"),
        ({"name": "a\nb"}, "'rpm-name' holds an unprintable character"),
        ({"version": "ü"}, "'rpm-version' holds an unprintable character"),
        ({"arch": None}, "does not say what its name, version, release and arch are"),
    ],
)
def test_a_package_whose_name_cannot_be_sent_costs_itself(
    tmp_path: Path, odd: dict[str, str | None], told: str
) -> None:
    three = packages(tmp_path, 3)
    for package, texts in zip(three, ({}, odd, {}), strict=True):
        named = {name: text for name, text in {**PROPER, **texts}.items() if text is not None}
        package.source.write_bytes(head(**named) + b"payload")
    new = encode_header(Region.SIGNATURE, [HeaderEntry.binary(1004, b"newer")])
    assert len(new) % 8
    # One as it lies in a file, and one as it is by itself.
    server = answers(reply(0, 0, OK, padded(new)), reply(1, 2, OK, new))
    found = run(three, server, options=HEADS_TO_KOJI)
    assert told in str(found.pop("1"))
    assert found == {"0": None, "2": None}
    proper = three[0].source.read_bytes()
    old = padded(encode_header(Region.SIGNATURE, [HeaderEntry.binary(1004, b"old")]))
    spliced = proper.replace(old, padded(new))
    assert spliced != proper
    assert outputs(tmp_path) == {"0": spliced, "2": spliced}


@given(st.integers(200, 20_000), st.integers(0, 20_000))
def test_with_head_signing_a_bridge_of_1_2_cuts_off_nothing(length: int, payload: int) -> None:
    """It reads in steps of 4096 bytes until it has 16 more than the head, or there are no more."""
    size, read = length + payload, 0
    while read < length + 16 and read < size:
        read = min(read + 4096, size)
    assert sent_of(SimpleNamespace(length=length), size) == read  # type: ignore[arg-type]


@pytest.mark.parametrize("behind", [bytes(8), b"\0\0\1", b"x"])
def test_more_than_a_signature_header_is_not_put_in(tmp_path: Path, behind: bytes) -> None:
    (package,) = packages(tmp_path, 1)
    package.source.write_bytes(head(**PROPER) + b"payload")
    new = encode_header(Region.SIGNATURE, [HeaderEntry.binary(1004, b"newer")])
    found = run([package], answers(reply(0, 0, OK, new + behind)), options=HEADS_TO_KOJI)
    assert found == {"0": "the server sent more than a signature header"}
    assert outputs(tmp_path) == {}


def test_a_name_of_kojis_that_cannot_be_sent_costs_itself(tmp_path: Path) -> None:
    two = [
        replace(package, remote=HubRPM(1, NEVRA(name, None, "1", "2", "noarch"), 1, bytes(16)))
        for package, name in zip(packages(tmp_path, 2), ("n" * 300, "lab"), strict=True)
    ]
    found = run(two, answers(reply(0, 1, OK, b"one")))
    assert "'rpm-name' has 300 bytes" in str(found["0"])
    assert found["1"] is None
    assert outputs(tmp_path) == {"1": b"one"}


def test_every_subreply_is_counted_failed_ones_too(tmp_path: Path) -> None:
    server = answers(reply(0, 1, BAD), reply(1, 2, OK, b"two"), reply(2, 0, {"status": u32(99)}))
    assert run(packages(tmp_path, 3), server) == {
        "0": "Error 99", "1": "The RPM file is corrupt: why", "2": None,
    }  # fmt: skip
    assert outputs(tmp_path) == {"2": b"two"}


@pytest.mark.parametrize(
    "second",
    [
        reply(0, 1, OK, b"one"),  # another number's keys
        reply(1, 1, OK, b"one")[:-1] + b"?",
        reply(1, 0, OK, b"zero"),  # a second time
        reply(1, 7, OK, b"seven"),
        reply(1, 1, {}, b"one"),
        reply(1, 1, OK, b"one")[:-64],
        b"".join(sub_parts(1, OK, b"one", SUBREPLY_KEYS)),
    ],
    ids=["number", "code", "twice", "unknown", "no status", "cut", "no id"],
)
def test_a_reply_that_is_not_in_order_ends_the_batch(tmp_path: Path, second: bytes) -> None:
    told = run(packages(tmp_path, 3), answers(reply(0, 0, OK, b"zero"), second))
    assert told["0"] is None
    for name in ("1", "2"):
        assert str(told[name]).startswith(NO_REPLY)
    assert outputs(tmp_path) == {"0": b"zero"}


def test_a_server_that_ends_early_is_told_for_what_is_left(tmp_path: Path) -> None:
    told = run(packages(tmp_path, 2), answers(reply(0, 1, OK, b"one")))
    assert told == {"0": NO_REPLY, "1": None}

    def leaves(chunked: ChunkedStream) -> None:
        chunked.read_exactly(10)
        chunked.stream.abort()

    (tmp_path / "more").mkdir()
    told = run(packages(tmp_path / "more", 2), leaves)
    for name in ("0", "1"):
        assert str(told[name]).startswith(f"{NO_REPLY}; ")


def test_a_file_that_becomes_shorter_costs_itself(tmp_path: Path) -> None:
    both = packages(tmp_path, 2)
    big = 3 << 20
    with both[0].source.open("wb") as file:
        file.truncate(big)

    def shrink(_written: bytes) -> None:
        with both[0].source.open("r+b") as file:
            file.truncate(10)

    def server(chunked: ChunkedStream) -> None:
        chunked.read_exactly(len(request(0, 0, b"")) - 64)
        left = big
        while left:
            left -= len(chunked.read(left))
        assert chunked.read_exactly(64) == bytes(64)
        rest = request(1, 1, b"rpm 1")
        assert chunked.read_exactly(len(rest)) == rest
        chunked.write(reply(0, 0, {"status": u32(12)}) + reply(1, 1, OK, b"one"))
        chunked.end()

    told = run(both, server, shrink)
    assert told == {"0": "Missing RPM file authentication by client", "1": None}


def test_an_empty_stream_of_replies(tmp_path: Path) -> None:
    assert run(packages(tmp_path, 1), answers()) == {"0": NO_REPLY}
    assert outputs(tmp_path) == {}


def in_place(directory: Path, count: int) -> list[Package]:
    """The packages of `packages`, each to be signed to its own place."""
    return [replace(package, target=package.source) for package in packages(directory, count)]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_packages_are_replaced_in_their_own_place(tmp_path: Path, order: tuple[int, ...]) -> None:
    three = in_place(tmp_path, 3)
    replies = [reply(n, i, BAD if i == 1 else OK, b"signed %d" % i) for n, i in enumerate(order)]
    told = run(three, answers(*replies))
    assert told == {"0": None, "1": "The RPM file is corrupt: why", "2": None}
    assert [package.source.read_bytes() for package in three] == [
        b"signed 0",
        b"rpm 1",
        b"signed 2",
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1", "2", "out"}


def test_a_package_that_is_rebuilt_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    two = in_place(tmp_path, 2)

    def server(chunked: ChunkedStream) -> None:
        while chunked.read(1 << 20):
            pass
        two[0].source.write_bytes(b"rebuilt")
        chunked.write(reply(0, 0, OK, b"signed") + reply(1, 1, OK, b"signed"))
        chunked.end()

    told = run(two, server)
    assert told["1"] is None
    assert "has changed meanwhile" in str(told["0"])
    assert [package.source.read_bytes() for package in two] == [b"rebuilt", b"signed"]


def test_an_answer_that_comes_before_its_package_was_sent_ends_the_batch(tmp_path: Path) -> None:
    both = in_place(tmp_path, 2)
    with both[0].source.open("wb") as file:
        file.truncate(3 << 20)

    def server(chunked: ChunkedStream) -> None:
        chunked.read_exactly(1)
        chunked.write(reply(0, 1, OK, b"signed"))
        with pytest.raises(PeerClosed):
            while chunked.read(1 << 20):
                pass

    told = run(both, server)
    for name in ("0", "1"):
        assert "or too early" in str(told[name])
    assert both[1].source.read_bytes() == b"rpm 1"
