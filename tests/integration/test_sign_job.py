"""`sigul-stack sign-job`: what the action's container runs, without the container.

The action itself, with its container and as a runner runs it, is tests/kit/test_action.py.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sigul_stack.bundle import pack
from sigul_stack.cli.signjob.request import FORM
from sigul_stack.secret import Secret
from tests.site import BRIDGE_NAME, Site, module

from .commands_support import person
from .signing_support import public_key, site_with_keys
from .test_sign_git_tag import Repository

Event = dict[str, Any]


@pytest.fixture(scope="module")
def running(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A running site with the gnupg keys `k` and `other`, and the ECC key `ecc`."""
    directory = tmp_path_factory.mktemp("jobs")
    with site_with_keys(template, directory, k="gnupg", other="gnupg", ecc="ECC") as site:
        yield site


def bundle_of(site: Site, passphrase: str, configuration: str | None = None) -> str:
    """A bundle with the administrator's certificate."""
    return _bundle(site.path("pki/clients/admin"), passphrase, configuration)


@functools.cache  # to encrypt one takes a second
def _bundle(database: Path, passphrase: str, configuration: str | None) -> str:
    password = (database / "nss-password").read_text()
    members = {
        f".sigul/{name}": (database / name).read_bytes()
        for name in ("cert9.db", "key4.db", "pkcs11.txt")
    }
    text = configuration if configuration is not None else f"[nss]\nnss-password: {password}\n"
    members[".sigul/client.conf"] = text.encode()
    return pack(members, Secret(passphrase)).decode()


def job_of(site: Site, *files: Path, **changes: Any) -> dict[str, Any]:
    return {
        "form": FORM,
        "dry_run": False,
        "key": "k",
        "passphrase": "k-pw",
        "bundle": bundle_of(site, "k-pw"),
        "configuration": site.path("client.conf").read_text(),
        "expected_bridge": "",
        "public_key": "",
        "files": [str(file) for file in files],
        "repository": "",
        "tag": "",
        "attempts": 1,
        "retry_delay": 0,
        "attempt_timeout": 60,
        **changes,
    }


def do(site: Site, job: object, code: int = 0) -> list[Event]:
    """The events of a job, beside its log."""
    done = site.run(*module("stack"), "sign-job", stdin=json.dumps(job).encode(), code=code)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert "k-pw" not in done.stdout.decode() + done.stderr.decode()
    return [event for event in events if event["event"] != "log"]


def kinds(events: list[Event]) -> list[str]:
    return [event["event"] for event in events]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    found = []
    for name in ("one", "two with blanks", "-o"):
        path = tmp_path / name
        path.write_text(f"content of {name}")
        found.append(path)
    return found


def test_files_are_signed_and_verified(running: Site, files: list[Path], tmp_path: Path) -> None:
    accepted, *signed = do(running, job_of(running, *files))
    assert accepted == {"event": "accepted"}
    assert sorted(event["file"] for event in signed) == [0, 1, 2]
    with person(tmp_path / "person", public_key(running, "k")) as gpg:
        for event in signed:
            assert event["event"] == "signed"
            signature = tmp_path / "signature"
            signature.write_text(event["signature"])
            assert gpg.signer(signature, files[event["file"]]) == event["fingerprint"]
    assert sorted(tmp_path.glob("*.asc")) == []


def test_only_what_has_no_good_signature_is_signed(running: Site, files: list[Path]) -> None:
    [_, *signed] = do(running, job_of(running, *files))
    texts = {event["file"]: event["signature"] for event in signed}
    files[0].with_name("one.asc").write_text(texts[0])
    # Of another file; and a link, which is not followed.
    files[1].with_name(f"{files[1].name}.asc").write_text(texts[0])
    files[2].with_name("-o.asc").symlink_to(files[0].with_name("one.asc"))
    events = do(running, job_of(running, *files))
    found = {(event["event"], event.get("file")) for event in events}
    assert found == {
        ("accepted", None), ("kept", 0), ("stale", 1), ("stale", 2), ("signed", 1), ("signed", 2),
    }  # fmt: skip


def test_a_signature_of_another_key_is_none(running: Site, files: list[Path]) -> None:
    """The pinned key decides, whatever the server has under that name."""
    pinned = public_key(running, "other").decode()
    events = do(running, job_of(running, files[0], public_key=pinned), code=1)
    assert kinds(events) == ["accepted", "failed", "attempt", "ended"]
    assert "another key's" in events[1]["reason"]


@pytest.mark.once("how our program plans, and tries again")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"form": 0}, "form 1"),
        ({"key": 5}, "'key'"),
        ({"surprise": ""}, "'surprise'"),
        ({"attempts": 0}, "'attempts'"),
        ({"files": ["relative"]}, "absolute path"),
        ({"files": []}, "name files, or a tag"),
        ({"configuration": "no section"}, "configuration"),
        ({"configuration": "[client]\nuser-name: $SIGUL_CONFIG_USR\n"}, "Jenkins"),
        ({"expected_bridge": f"{BRIDGE_NAME}:1"}, "expected-bridge"),
        ({"passphrase": "wrong"}, "does not open with this passphrase"),
        ({"bundle": "nonsense"}, "bundle"),
        ({"files": ["/nonexistent"]}, "cannot be read"),
        ({"files": ["/"]}, "Is a directory"),
    ],
)
def test_what_cannot_be_done_is_rejected(
    running: Site, files: list[Path], changes: dict[str, Any], reason: str
) -> None:
    events = do(running, job_of(running, files[0], **changes), code=1)
    assert kinds(events) == ["rejected"]
    assert reason in events[0]["reason"]


@pytest.mark.once("how our program plans, and tries again")
def test_what_is_no_job_is_rejected(running: Site) -> None:
    for document in (b"", b"{", b"[]", b"[" * 100_000):
        done = running.run(*module("stack"), "sign-job", stdin=document, code=1)
        [event] = map(json.loads, done.stdout.splitlines())
        assert event["event"] == "rejected"


@pytest.mark.once("how our program plans, and tries again")
def test_the_bridge_may_be_written_in_other_ways(running: Site, files: list[Path]) -> None:
    configuration = running.path("client.conf").read_text()
    odd = configuration.replace(BRIDGE_NAME, BRIDGE_NAME.upper() + ".")
    expected = f"{BRIDGE_NAME}:{running.client_port}"
    for text in (configuration, odd):
        job = job_of(running, files[0], configuration=text, expected_bridge=expected, dry_run=True)
        assert kinds(do(running, job)) == ["accepted"]


@pytest.mark.once("how our program plans, and tries again")
def test_a_refusal_for_good_is_not_tried_again(running: Site, files: list[Path]) -> None:
    job = job_of(running, files[0], passphrase="bad", attempts=5, retry_delay=60)
    job["bundle"] = bundle_of(running, "bad")
    events = do(running, job, code=1)
    assert kinds(events) == ["accepted", "attempt", "ended"]
    assert "Authentication failed" in events[-1]["reason"]


def test_a_dry_run_looks_at_certificate_and_key_and_connects_to_nothing(
    site: Site, files: list[Path]
) -> None:
    """The site is not running."""
    assert kinds(do(site, job_of(site, *files, dry_run=True))) == ["accepted"]
    without = job_of(site, *files, dry_run=True)
    without["bundle"] = bundle_of(site, "k-pw", configuration="")
    # Else the file with the password that the site's own configuration names serves.
    without["configuration"] = "\n".join(
        line for line in without["configuration"].splitlines() if "password" not in line
    )
    [event] = do(site, without, code=1)
    assert event["event"] == "rejected"
    assert "does not hold the NSS password" in event["reason"]


@pytest.mark.once("how our program plans, and tries again")
def test_a_bridge_that_is_not_there_costs_all_attempts(site: Site, files: list[Path]) -> None:
    events = do(site, job_of(site, *files, attempts=2), code=1)
    assert kinds(events) == ["accepted", "attempt", "attempt", "ended"]
    assert events[-1]["left"] == 3


@pytest.mark.once("how our program plans, and tries again")
def test_an_attempt_that_finishes_nothing_is_ended(site: Site, files: list[Path]) -> None:
    """The bridge runs, and no server is there: a request would wait for minutes."""
    try:
        site.start_bridge()
        events = do(site, job_of(site, files[0], attempts=2, attempt_timeout=1), code=1)
    finally:
        site.stop_all()
    assert kinds(events) == ["accepted", "attempt", "attempt", "ended"]
    assert "finished nothing in 1 s" in events[-1]["reason"]


def test_a_tag_is_signed_and_verified(running: Site, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "repository")
    repository.git("tag", "-a", "-m", "Release", "v1")
    directory = str(repository.directory / ".git")
    [accepted, tag] = do(running, job_of(running, repository=directory, tag="v1"))
    assert (accepted["event"], tag["event"]) == ("accepted", "tag")
    assert tag["new"] == repository.object_id("v1") != tag["old"]
    with person(tmp_path / "person", public_key(running, "k")) as gpg:
        repository.verify("v1", gpg)


def test_a_tag_with_a_signature_that_does_not_verify_is_left(running: Site, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "repository")
    repository.git("tag", "-a", "-m", "Release", "v1")
    old = repository.object_id("v1")
    job = job_of(
        running,
        repository=str(repository.directory / ".git"),
        tag="v1",
        public_key=public_key(running, "other").decode(),
    )
    assert kinds(do(running, job, code=1)) == ["accepted", "attempt", "ended"]
    assert repository.object_id("v1") == old
    lightweight = {**job, "tag": "light"}
    repository.git("tag", "light")
    [event] = do(running, lightweight, code=1)
    assert "lightweight" in event["reason"]
