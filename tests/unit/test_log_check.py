"""The client's look at a leaf: it has to be about the very request."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from pathlib import Path

import pytest

from sigul_stack.client.log_check import LogCheck, SiteLog, nothing_sent
from sigul_stack.client.source import Source
from sigul_stack.config.client import ClientSettings
from sigul_stack.config.shared import NSSSettings
from sigul_stack.errors import LogComplaint, SigulError
from sigul_stack.evidence import signing_log
from sigul_stack.evidence.leaf import Content, Leaf, LeafKey, Result
from sigul_stack.evidence.signing_log import SigningLog
from sigul_stack.evidence.witness import Witness

SENT, CAME = hashlib.sha256(b"sent").hexdigest(), hashlib.sha256(b"came").hexdigest()
GOOD = Leaf(
    "sign-data",
    Result.OK,
    user="ann",
    objects={"key": "k1"},
    key=LeafKey("k1"),
    input=Content(SENT, 4),
    output=Content(CAME, 4),
)


def looked_at(
    directory: Path,
    leaf: Leaf,
    *,
    sent: str | None = SENT,
    received: str | None = CAME,
    fields: dict[str, object] | None = None,
) -> None:
    """Have a client look at a reply with this leaf."""
    signing_log.create(directory / "log", "a")
    with SigningLog.open(directory / "log") as log:
        log.append([leaf])
        evidence = log.evidence(1)
    check = LogCheck(
        Witness(None).begin("server"), "sign-data", "ann", {"key": "k1", **(fields or {})}
    )
    proof = check.reply(evidence.fields(), lambda: sent, received)
    assert proof is not None
    proof.verify(log.public_key)


def test_a_leaf_about_the_request(tmp_path: Path) -> None:
    looked_at(tmp_path, GOOD)


@pytest.mark.parametrize(
    ("leaf", "told"),
    [
        ({"result": Result.REFUSED}, "says that a request was refused"),
        ({"op": "sign-text"}, "operation 'sign-text' and not 'sign-data'"),
        ({"user": "bob"}, "user 'bob' and not 'ann'"),
        ({"objects": {"key": "k2"}}, "key 'k2' and not 'k1'"),
        ({"objects": {}, "key": LeafKey("k2")}, "key 'k2' and not 'k1'"),
        ({"objects": {}, "key": None}, "key '' and not 'k1'"),
        ({"objects": {"key": "k1", "cert-name": "x"}}, "cert-name 'x' and not ''"),
        ({"input": Content(CAME, 4)}, "is about an input"),
        ({"input": None}, "is about an input"),
        ({"output": Content(SENT, 4)}, "tells of an output"),
        ({"output": None}, "tells of an output with SHA-256 none"),
    ],
)
def test_a_leaf_about_something_else(tmp_path: Path, leaf: dict[str, object], told: str) -> None:
    with pytest.raises(LogComplaint, match=told):
        looked_at(tmp_path, dataclasses.replace(GOOD, **leaf))  # type: ignore[arg-type]


def test_what_nobody_here_knows_is_not_compared(tmp_path: Path) -> None:
    other = dataclasses.replace(GOOD, input=Content("0" * 64, 1), output=None)
    looked_at(tmp_path, other, sent=nothing_sent(), received=None)


def test_names_are_compared_as_the_server_writes_them(tmp_path: Path) -> None:
    odd = "a\u202eb"
    leaf = dataclasses.replace(GOOD, objects={"key": "k1", "name": "a\\u202eb"})
    looked_at(tmp_path, leaf, fields={"name": odd})


# ---------------------------------------------------------------------------------- what is sent


def test_the_digest_of_what_was_sent_is_made_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before" + b"sent")
    with path.open("rb") as file:
        file.seek(6)
        source = Source(file)
        assert source.total == 4
        assert source.name == str(path)
        assert source.sha256() == SENT
    assert Source(b"sent").sha256() == SENT
    assert Source(io.BytesIO(b"sent")).name == ""


def test_a_file_that_was_changed_since_is_not_compared(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"sent")
    with path.open("rb") as file:
        source = Source(file)
        path.write_bytes(b"other text")
        assert source.sha256() is None


# -------------------------------------------------------------------------------- what is set


def settings(directory: Path, **more: object) -> ClientSettings:
    return ClientSettings(
        bridge_hostname="b",
        server_hostname="s",
        user_name="ann",
        nss=NSSSettings(directory=f"sql:{directory}"),
        **more,  # type: ignore[arg-type]
    )


def test_where_it_is_kept(tmp_path: Path) -> None:
    found = settings(tmp_path)
    assert found.log_state == tmp_path / "signing-log.json"
    named = settings(tmp_path, signing_log_state=tmp_path / "other")
    assert named.log_state == tmp_path / "other"
    log = SiteLog(found)
    assert not log.may_be()
    assert log.witness() is log.witness()
    assert SiteLog(settings(tmp_path, require_signing_log=True)).may_be()
    (tmp_path / "signing-log.json").touch()
    assert log.may_be()


def test_keys_that_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    log = SiteLog(settings(tmp_path, signing_log_keys=tmp_path / "none"))
    with pytest.raises(SigulError, match="cannot be read"):
        log.witness()
