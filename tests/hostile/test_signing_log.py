"""A client that has refusals written into the signing log, as many and as large as it can."""

from __future__ import annotations

from typing import Any

import pytest

from sigul_stack.evidence.leaf import Leaf
from sigul_stack.evidence.log_reader import LogReader
from tests.hostile.conftest import AttackerFactory, HonestFactory
from tests.site import Site

#: Requests that are refused, and the most that a leaf of one takes, in bytes.
FLOOD, MOST = 24, 4096

# More than 5 s: so many requests, and an honest user's signatures before and meanwhile.
pytestmark = [pytest.mark.once("our own log"), pytest.mark.timeout(120)]


def test_a_flood_of_refusals_costs_who_sends_them(
    quiet: Site, honest_at: HonestFactory, attacker: AttackerFactory
) -> None:
    quiet.start_bridge()
    quiet.start_server(4)
    long = b"\\" * 255
    scripts: list[dict[str, Any]] = [
        {"op": "sign-data", "user": "mallory", "fields": {"key": long},
         "secrets": {"passphrase": b"guess"}},
        {"op": "new-user", "user": long.decode(), "fields": {"name": long},
         "secrets": {"password": b"guess", "file-name": long, "log-seen": long}},
        {"op": "no-such-operation", "user": "mallory", "fields": {"x" * 255: long},
         "secrets": {"password": b"guess"}},
    ]  # fmt: skip
    directory = quiet.path("server/signing-log")
    before = LogReader.open(directory).size
    crowd = attacker(quiet, "mallory", "crowd")
    with honest_at(quiet).during(f"{FLOOD} requests that are refused"):
        crowd.start(scripts=scripts, each=FLOOD // len(scripts))
        clients = crowd.result(100)
    assert len(clients) == FLOOD
    reader = LogReader.open(directory)
    entries = list(reader.entries(before, reader.size))
    leaves = [Leaf.parse(entry) for entry in entries]
    theirs = [leaf for leaf in leaves if leaf.client and leaf.client.name == "mallory"]
    assert theirs
    assert {leaf.result.value for leaf in theirs} == {"refused"}
    assert max(map(len, entries)) < MOST
    assert not any(b"guess" in entry for entry in entries)
    honest = [leaf for leaf in leaves if leaf not in theirs]
    assert {leaf.result.value for leaf in honest} == {"ok"}
