"""How our own peers know each other (docs/protocol.md), in every mix with peers that do not.

Old peers are scripted, of 1.x and of 0.x: an old client fails on anything between the payload's
code and the outer end, an old bridge passes on what it knows, an old server answers what was asked.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from sigul_stack.cli.outcome import MAY_HAVE_HAPPENED
from sigul_stack.errors import Status
from tests.faults.conftest import KEY, KEY_PASSPHRASE, PeerFactory
from tests.faults.observe import storm
from tests.faults.test_versions import speaking
from tests.site import Process, Site, ties
from tests.wire import field_map, u32

pytestmark = pytest.mark.once("our own framing and order of messages")

PASSWORD, ADMIN = {"password": b"admin-pw"}, "admin-pw"
USERS = {"fields": {"num-users": u32(1)}, "payload": b"admin\0"}
NEW_CLIENT = {"knows": b"log,notes"}
TRAILER = field_map({"knows": b"reasons"})
#: What our client tells with -v, once it knows.
TOLD = "The server knows {}; the bridge {}"
NOTHING = "of no extension"

Served = tuple[Site, Process, Process]
OLD_NEW = pytest.mark.parametrize(
    ("client", "bridge", "server"),
    [(c, b, s) for c in ("old", "new") for b in ("old", "new") for s in ("old", "new")],
)


@OLD_NEW
@pytest.mark.parametrize("version", [0, 1])
def test_every_mix_of_old_and_new(
    template: Site, tmp_path: Path, peer: PeerFactory,
    client: str, bridge: str, server: str, version: int,
) -> None:  # fmt: skip
    site = speaking(template, tmp_path, client=str(version))
    logs: dict[str, str] = {"client": "", "bridge": "", "server": ""}
    try:
        if bridge == "new":
            site.start_bridge()
        else:
            old_bridge = peer(site, "bridge")
            old_bridge.start(requests=2, both_ends=True, speaks=(version,))
            old_bridge.wait_for("listening")
        if server == "new":
            site.start("server")
        else:
            old_server = peer(site, "server")
            # An old bridge passes it on as it is cut; old clients want header, length, payload.
            cuts = (84, 4 if version == 0 else 8, 6)
            old_server.start(requests=2, speaks=(version,), cuts=cuts, **USERS)
        if client == "old":
            old_client = peer(site, "client")
            for _ in range(2):
                found = old_client.run(secrets=PASSWORD, version=version)
                assert found["fields"] == USERS["fields"]
                assert (found["payload"], found["ended"]) == (USERS["payload"], True)
        else:
            for _ in range(2):
                done = site.sigul("list-users", secrets=[ADMIN], options=["-v"])
                assert done.stdout == b"admin\n"
                logs["client"] += done.said.decode()
                # Whether the bridge knows anything is told by the server that does.
                told = TOLD.format("log, notes", "reasons" if bridge == "new" else NOTHING)
                assert (told in done.stderr.decode()) == (server == "new"), done.stderr
        if server == "old":
            for request in old_server.result():
                assert request["secrets"].get("knows") == (
                    b"log,notes" if client == "new" else None
                )
                assert "knows" not in request["fields"]
        if bridge == "old":
            # A scripted server ends once it has answered, perhaps before the request's end came on.
            late = "request: writing to a peer: the peer ended" if server == "old" else "-"
            for pair in old_bridge.result():
                assert all(one.startswith(late) for one in pair.get("errors", [])), pair
                assert set(pair["fields"]) == {"op", "user"}
        logs |= {item.log.name.partition("-")[0]: item.text for item in site.processes}
    finally:
        site.stop_all()
    # Those of ours give both requests the same ids, whoever stands between them or beside them.
    found_ids = {name: [id_ for id_, _ in ties(log)] for name, log in logs.items()}
    own = {id_ for id_, connection in ties(logs["bridge"]) if connection.startswith("l")}
    ids = [{*given} - own for given in found_ids.values() if given]
    assert len(ids) == [client, bridge, server].count("new")
    assert all(given == ids[0] and len(given) == 2 for given in ids)


# ------------------------------------------------------------------------ what our own say to whom


@pytest.mark.parametrize("version", [0, 1])
def test_who_says_that_it_knows_is_told(served: Served, peer: PeerFactory, version: int) -> None:
    site, bridge, server = served
    with storm(site, bridge, server):
        client = peer(site, "client")
        for words, noted in ((b"notes", True), (b"", False), (b"x,,sessions,\xff", False)):
            found = client.run(secrets=PASSWORD, version=version, inner={"knows": words})
            assert found["trailer"] == TRAILER
            assert found["fields"].pop("knows") == b"log,notes"
            assert ("server-time" in found["fields"]) == noted
            assert found["payload"] == USERS["payload"]


@pytest.mark.parametrize(
    "request_",
    [
        {"secrets": {"password": b"wrong"}},
        {"op": "sign-data", "fields": {"key": b"k1"}, "secrets": {"passphrase": b"wrong"}},
        {"op": "sign-text", "fields": {"key": b"none"}, "secrets": {"passphrase": b"wrong"}},
    ],
    ids=["password", "passphrase", "key"],
)
def test_who_proves_no_right_is_not_told(
    served: Served, peer: PeerFactory, request_: dict[str, object]
) -> None:
    site, bridge, server = served
    with storm(site, bridge, server):
        found = peer(site, "client").run(inner=NEW_CLIENT, **request_)
        assert found["status"] == Status.AUTHENTICATION_FAILED
        assert "knows" not in found["fields"]
        assert "trailer" not in found


def test_many_in_one_request_have_no_trailer(served: Served, tmp_path: Path) -> None:
    """Their stream goes on behind the reply, and has no place for one."""
    site, bridge, server = served
    with storm(site, bridge, server):
        package = tmp_path / "none.rpm"
        package.write_bytes(b"no RPM")
        done = site.sigul(
            "sign-rpms", "-o", str(tmp_path), KEY, str(package),
            secrets=[KEY_PASSPHRASE], options=["-v"], code=None,
        )  # fmt: skip
        assert TOLD.format("log, notes", NOTHING) in done.stderr.decode()
        assert b"corrupt" in done.stderr


# ------------------------------------------------------------------------------- who does not play


@pytest.mark.parametrize(
    ("trailer", "stalls"),
    [
        (field_map({"knows": b"\xff,,sessions"}), False),
        (field_map({f"{number:03}": bytes(251) for number in range(200)}), False),
        (b"\2\5knows\1a\5knows\1a", False),
        (b"\1\5kno", False),
        (bytes(100_000), False),
        (b"\1\5kno", True),
        (b"", True),
    ],
    ids=["words", "too large", "not in order", "cut off", "more behind it", "stalls", "silent"],
)
def test_a_bridge_that_says_nonsense_behind_a_reply_changes_nothing(
    site: Site, peer: PeerFactory, trailer: bytes, stalls: bool
) -> None:
    bridge = peer(site, "bridge")
    bridge.start(requests=1, trailer=trailer, stalls=stalls)
    bridge.wait_for("listening")
    site.start("server")
    done = site.sigul("list-users", secrets=[ADMIN], options=["-v"])
    assert done.stdout == b"admin\n"
    shown = "sessions" if b"sessions" in trailer else NOTHING
    assert TOLD.format("log, notes", shown) in done.stderr.decode()
    bridge.result()


def test_a_server_that_says_what_its_client_did_not_ask_fails_its_own_reply(
    with_limits: Site, peer: PeerFactory
) -> None:
    """The bridge cannot see who asked. Nobody else is harmed."""
    bridge = with_limits.start_bridge()
    server = peer(with_limits, "server")
    lies = {**USERS, "fields": {**USERS["fields"], "knows": b"\xff" * 255}}  # type: ignore[dict-item]
    server.start(**lies)
    server.wait_for("waiting")
    outcome = peer(with_limits, "client").attempt(secrets=PASSWORD)
    assert "the outer end does not follow the reply" in outcome["error"]
    server.result()
    server.start(requests=2, **lies)
    server.wait_for("waiting")
    # One that did takes what it has of it.
    done = with_limits.sigul("list-users", secrets=[ADMIN], options=["-v"])
    assert done.stdout == b"admin\n"
    assert TOLD.format(NOTHING, "reasons") in done.stderr.decode()
    server.wait_for("waiting")
    found = peer(with_limits, "client").run(secrets=PASSWORD, inner=NEW_CLIENT)
    assert found["trailer"] == TRAILER
    server.result()
    assert "Traceback" not in bridge.text


def test_a_forged_word_of_the_servers_is_noticed(site: Site, peer: PeerFactory) -> None:
    """It is under the reply's code: a bridge that alters it has spoilt the reply."""
    bridge = peer(site, "bridge")
    # Behind the status, the count and the fields `num-users` and `server-time`: `notes`.
    before = 4 + len(field_map({"num-users": u32(0), "server-time": u32(0)})) + len("\5knows\5")
    bridge.start(requests=1, alter="reply", offset=before)
    bridge.wait_for("listening")
    site.start("server")
    done = site.sigul("list-users", secrets=[ADMIN], options=["-v"], code=MAY_HAVE_HAPPENED)
    assert b"the reply's header" in done.stderr
    assert b"knows" not in done.stderr
    bridge.result()


# ----------------------------------------------------------------------------- the bound of a chunk


def longest(records: list[list[tuple[str, int]]]) -> int:
    """The largest chunk that began in TLS records, in bytes."""
    return max(length for heads in records for _stream, length in heads)


def test_no_chunk_of_ours_has_more_than_1_mib(site: Site, peer: PeerFactory) -> None:
    """Client and server, seen by the bridge between them; a text and its signed form are large."""
    bridge = peer(site, "bridge")
    bridge.start(requests=2)
    bridge.wait_for("listening")
    site.start("server")
    site.sigul("new-key", KEY, secrets=[ADMIN, KEY_PASSPHRASE])
    text = site.path("text")
    text.write_bytes(b"some text\n" * 400_000)
    signed = site.sigul("sign-text", KEY, str(text), secrets=[KEY_PASSPHRASE])
    assert len(signed.stdout) > 4_000_000
    *_, found = bridge.result()
    for direction in ("request-records", "reply-records"):
        assert 4096 < longest(found[direction]) <= 256 * 1024


@pytest.mark.parametrize("chunk", [1024**2, 3 * 1024**2])
def test_no_chunk_of_our_bridges_has_more_than_1_mib(
    with_limits: Site, peer: PeerFactory, chunk: int
) -> None:
    """Whatever client and server write."""
    with_limits.start_bridge()
    server = peer(with_limits, "server")
    server.start(zeros=4 * 1024**2, chunk=chunk)
    server.wait_for("waiting")
    client = peer(with_limits, "client")
    found = client.run(
        op="sign-text", fields={"key": b"k1"}, secrets=PASSWORD, zeros=4 * 1024**2, chunk=chunk
    )
    (asked,) = server.result()
    assert asked["length"] == 4 * 1024**2
    for records in (found["records"], asked["records"]):
        assert longest(records) <= 1024**2
