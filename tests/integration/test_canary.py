"""`sigul-stack canary` on a real site: well, and with everything wrong that it has to tell."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sigul_stack.evidence.leaf import Leaf
from sigul_stack.evidence.log_reader import LogReader
from tests.copies import TOP
from tests.signing_logs import public_key as log_key
from tests.site import Process, Site, module

from .commands_support import ADMIN, done
from .signing_support import public_key

OK, WARNING, FAILED, UNKNOWN = 0, 1, 2, 3
PASSPHRASE = "canary-alice-pw"
#: Seconds in which a canary with this limit has to be over, with Python's start and end.
LIMIT, OVER = 1.5, 20.0
#: The public key of another site.
OTHER = TOP / "tests/data/legacy-site/expected/release.asc.out"


@pytest.fixture(scope="module")
def served(
    template: Site, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Site, Process, Process]]:
    """A site with the key `canary`, its user `alice`, and the public keys in files; the daemons."""
    site = Site.copy(template, tmp_path_factory.mktemp("canary") / "site")
    with site.running() as (bridge, server):
        done(site, "new-key", "canary", secrets=[ADMIN, "canary-pw"])
        site.path("canary.asc").write_bytes(public_key(site, "canary"))
        site.path("other.asc").write_bytes(OTHER.read_bytes())
        done(site, "new-user", "alice", secrets=[ADMIN])
        limit = ("--only", "sign-data")
        secrets = ["canary-pw", PASSPHRASE]
        done(site, "grant-key-access", *limit, "canary", "alice", secrets=secrets)
        site.client_configuration("alice", "canary")
        key = log_key(site.path("server/signing-log"))
        site.path("log.pub").write_text(f"{key.encode()}\n")
        site.path("other-log.pub").write_text(replace(key, name="other/signing-log/0").encode())
        yield site, bridge, server


def words(site: Site, *options: str, key: str = "canary.asc", log: str | None = "log.pub") -> Any:
    return [
        *module("stack"), "canary", "-c", str(site.path("canary.conf")), "--key", "canary",
        "--public-key", str(site.path(key)),
        *(["--log-key", str(site.path(log))] if log else []), *options,
    ]  # fmt: skip


def canary(site: Site, *options: str, code: int, secret: str = PASSPHRASE, **how: Any) -> Any:
    """Run a canary, which must exit with `code`; its report."""
    command = words(site, "--json", *options, **how)
    report = json.loads(site.run(*command, secrets=[secret], code=code).stdout)
    assert report["component"] == "canary"
    for item in report["checks"]:
        assert (item["state"] == "ok") == (item["cure"] == ""), item
    return report


def states(report: Any) -> dict[str, str]:
    return {item["layer"]: item["state"] for item in report["checks"]}


def check(report: Any, layer: str) -> Any:
    (found,) = (item for item in report["checks"] if item["layer"] == layer)
    return found


def kept(directory: Path) -> tuple[str, ...]:
    return (
        "--state-file",
        f"{directory}/canary.json",
        "--metrics-file",
        f"{directory}/canary.prom",
    )


def metrics(directory: Path) -> dict[str, float]:
    lines = (directory / "canary.prom").read_text().splitlines()
    rows = [line.rpartition(" ") for line in lines if not line.startswith("#")]
    return {name: float(value) for name, _, value in rows}


def health(site: Site, *options: str, code: int) -> Any:
    """The check `canary` of a client's health."""
    told = site.run(
        *module("stack"), "health", "client", "-c", str(site.path("canary.conf")), "--json",
        *options, code=code,
    )  # fmt: skip
    return check(json.loads(told.stdout), "canary")


ALL_IS_WELL = dict.fromkeys(("keys", "sign", "verify", "signing log"), "ok")


def test_all_is_well(served: tuple[Site, Process, Process], tmp_path: Path) -> None:
    site, bridge, server = served
    began = time.time()
    report = canary(site, *kept(tmp_path), code=OK)
    assert states(report) == ALL_IS_WELL
    log = LogReader.open(site.path("server/signing-log"))
    index = log.size - 1
    leaf = Leaf.parse(log.entry(index))
    assert (leaf.op, leaf.user, leaf.file) == ("sign-data", "alice", "sigul-stack-canary")
    assert f"leaf {index} of" in check(report, "signing log")["finding"]
    # The same in the server's log and the bridge's (sigul-stack trace).
    assert check(report, "signing log")["values"]["request"] == leaf.request
    assert len(leaf.request) == 16
    assert leaf.request in server.text

    found = metrics(tmp_path)
    assert found["sigul_canary_success"] == 1
    assert began <= found["sigul_canary_timestamp_seconds"] <= time.time()
    at = found["sigul_canary_success_timestamp_seconds"]
    assert at == found["sigul_canary_timestamp_seconds"]
    for phase in ("sign", "verify", "log"):
        assert 0 < found[f'sigul_canary_phase_seconds{{phase="{phase}"}}'] < 60
    for name in ("canary.json", "canary.prom"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o644
    state = str(tmp_path / "canary.json")
    assert "a test signature was good" in health(site, "--canary", state, code=OK)["finding"]
    told = health(site, "--canary", state, "--fail-canary", "0.001", code=FAILED)
    assert "0.001 s is the limit" in told["finding"]

    # The passphrase went through a pipe, and is nowhere.
    for text in (bridge.text, server.text, json.dumps(report), *map(_text, tmp_path.iterdir())):
        assert PASSPHRASE not in text
    assert not list(Path("/tmp").glob("sigul-canary-*"))


def _text(path: Path) -> str:
    return path.read_text()


def test_text_of_monitoring_and_a_passphrase_in_a_file(
    served: tuple[Site, Process, Process], tmp_path: Path
) -> None:
    site, _bridge, _server = served
    (tmp_path / "passphrase").write_text(f"{PASSPHRASE}\n")
    told = site.run(
        *words(site, "--passphrase-file", str(tmp_path / "passphrase")), stdin=b"", code=OK
    )
    first, *rest = told.stdout.decode().splitlines()
    assert first.startswith("SIGUL CANARY OK - signed in ")
    assert " | sign=" in first
    assert [line.split()[0] for line in rest] == ["ok"] * 4
    assert told.stderr == b""
    # The configuration file may name the log's key.
    site.extra["canary"] = {"client": f"signing-log-keys: {site.path('log.pub')}\n"}
    site.client_configuration("alice", "canary")
    try:
        assert states(canary(site, code=OK, log=None)) == ALL_IS_WELL
    finally:
        del site.extra["canary"]
        site.client_configuration("alice", "canary")


def test_a_failure_keeps_the_last_success(
    served: tuple[Site, Process, Process], tmp_path: Path
) -> None:
    site, _bridge, _server = served
    canary(site, *kept(tmp_path), code=OK)
    before = metrics(tmp_path)
    report = canary(site, *kept(tmp_path), code=FAILED, key="other.asc")
    # The log is looked at all the same.
    assert states(report) == {**ALL_IS_WELL, "verify": "failed"}
    assert "another key's" in check(report, "verify")["finding"]
    after = metrics(tmp_path)
    assert after["sigul_canary_success"] == 0
    assert 'sigul_canary_phase_seconds{phase="verify"}' not in after
    last = "sigul_canary_success_timestamp_seconds"
    assert after[last] == before[last] < after["sigul_canary_timestamp_seconds"]
    told = health(site, "--canary", str(tmp_path / "canary.json"), code=FAILED)
    assert "verify: the signature is another key's; the last good one was" in told["finding"]


@pytest.mark.parametrize(
    ("log", "layer", "text"),
    [
        ("other-log.pub", "signing log", "is of the log"),
        (None, "keys", "no public key of the signing log was given"),
        ("canary.asc", "keys", "line 1 of"),
    ],
)
def test_another_logs_key(
    served: tuple[Site, Process, Process], log: str | None, layer: str, text: str
) -> None:
    site, _bridge, _server = served
    report = canary(site, code=FAILED, log=log)
    assert text in check(report, layer)["finding"]
    # What was not given is told before anything is signed.
    assert check(report, "sign")["state"] == ("ok" if layer == "signing log" else "unknown")


def test_a_server_without_a_log(served: tuple[Site, Process, Process]) -> None:
    site, _bridge, _server = served
    report = canary(site, "--no-log", code=OK, log=None)
    assert states(report) == ALL_IS_WELL
    assert check(report, "signing log")["finding"] == "not looked at, as --no-log says"


def test_wrong_secrets_and_files(served: tuple[Site, Process, Process], tmp_path: Path) -> None:
    site, _bridge, _server = served
    report = canary(site, *kept(tmp_path), code=FAILED, secret="wrong-secret")
    told = check(report, "sign")
    assert told["finding"] == f"Authentication failed (request {told['values']['request']})"
    assert metrics(tmp_path)["sigul_canary_success"] == 0
    assert metrics(tmp_path)["sigul_canary_success_timestamp_seconds"] == 0
    assert "wrong-secret" not in (tmp_path / "canary.json").read_text()
    report = canary(site, code=FAILED, key="hosts")
    assert "no armoured public key" in check(report, "keys")["finding"]
    report = canary(site, code=FAILED, key="none")
    assert "cannot be read" in check(report, "keys")["finding"]
    # Where the result cannot be kept, the site works all the same.
    report = canary(site, "--state-file", str(tmp_path / "none/state"), code=WARNING)
    assert states(report) == {**ALL_IS_WELL, "result": "warning"}
    # A configuration that cannot be read is a canary that failed.
    state = tmp_path / "configuration.json"
    command = words(site, "--state-file", str(state))
    command[command.index("-c") + 1] = str(tmp_path / "none.conf")
    assert b"CRITICAL - configuration: " in site.run(*command, code=FAILED).stdout
    assert json.loads(state.read_text())["failed"].startswith("configuration: ")
    for odd in (("--metrics-file", "x"), ("--no-log",), ("--timeout", "0")):
        assert b"usage: " in site.run(*words(site, *odd), code=2).stderr


def test_several_at_once(served: tuple[Site, Process, Process], tmp_path: Path) -> None:
    site, _bridge, _server = served
    with ThreadPoolExecutor(3) as pool:
        keys = ("canary.asc", "other.asc", "canary.asc")
        runs = [
            pool.submit(
                canary, site, *kept(tmp_path), key=key, code=OK if key == "canary.asc" else FAILED
            )
            for key in keys
        ]
        for run in runs:
            run.result()
    assert metrics(tmp_path)["sigul_canary_success_timestamp_seconds"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["canary.json", "canary.prom"]


#: A client that is told another id of its request than the server has, as of somebody else's.
OTHER_REQUEST = """
import sys
from sigul_stack.health import canary
from sigul_stack.logcontext import LogContext
from sigul_stack.cli import stack
canary.current = lambda: LogContext("r0", "00" * 8)
sys.exit(stack.main(sys.argv[1:]))
"""


def test_a_leaf_of_another_request(served: tuple[Site, Process, Process]) -> None:
    site, _bridge, _server = served
    told = site.run(
        sys.executable, "-c", OTHER_REQUEST, *words(site, "--json")[3:],
        secrets=[PASSPHRASE], code=FAILED, environment={"PYTHONPATH": str(TOP)},
    )  # fmt: skip
    report = json.loads(told.stdout)
    assert states(report) == {**ALL_IS_WELL, "signing log": "failed"}
    assert f"and not {'00' * 8}" in check(report, "signing log")["finding"]


#: A server that answers with what it gave before: the client's reply, put in place of the next one.
REPLAY = """
import sys
from pathlib import Path
from sigul_stack.client import Reply
from sigul_stack.formats.signed_note import LogProof
from sigul_stack.health import canary
from sigul_stack.protocol.codec import Fields
from sigul_stack.cli import stack
signature, proof = map(Path, sys.argv[1:3])
shown = LogProof.parse(proof.read_text()) if proof.exists() else None
reply = Reply(Fields({}), signature.read_bytes(), shown)
canary.Client.call = lambda *_, **__: reply
sys.exit(stack.main(sys.argv[3:]))
"""


def test_an_old_answer_is_refused(served: tuple[Site, Process, Process], tmp_path: Path) -> None:
    """A good signature by the right key, proven to be in the log: but of something else."""
    site, _bridge, _server = served
    (tmp_path / "file").write_text("A test of sigul-stack canary")
    signature, proof = tmp_path / "file.sig", tmp_path / "proof"
    done(
        site, "sign-data", "-o", str(signature), "--log-proof", str(proof), "canary",
        str(tmp_path / "file"), secrets=["canary-pw"],
    )  # fmt: skip

    def answered() -> Any:
        told = site.run(
            sys.executable, "-c", REPLAY, str(signature), str(proof), *words(site, "--json")[3:],
            secrets=[PASSPHRASE], code=FAILED, environment={"PYTHONPATH": str(TOP)},
        )  # fmt: skip
        return json.loads(told.stdout)

    report = answered()
    assert states(report) == {**ALL_IS_WELL, "verify": "failed", "signing log": "failed"}
    assert "is not of this file" in check(report, "verify")["finding"]
    assert "another file" in check(report, "signing log")["finding"]
    proof.unlink()
    assert "no proof of a signing log" in check(answered(), "signing log")["finding"]


def test_nobody_answers(served: tuple[Site, Process, Process], tmp_path: Path) -> None:
    """A server that hangs, and a bridge that is gone: over in time, and told."""
    site, bridge, server = served
    limit = ("--timeout", f"{LIMIT:g}", *kept(tmp_path))
    with _stopped(server):
        began = time.monotonic()
        report = canary(site, *limit, code=FAILED)
        assert time.monotonic() - began < OVER
        assert check(report, "sign")["state"] == "failed"
        assert check(report, "verify")["finding"] == "not looked at"
    assert metrics(tmp_path)["sigul_canary_success"] == 0
    with _stopped(bridge):
        began = time.monotonic()
        report = canary(site, *limit, code=FAILED)
        assert time.monotonic() - began < OVER
        assert check(report, "sign")["state"] == "failed"
    assert states(canary(site, code=OK)) == ALL_IS_WELL


@contextlib.contextmanager
def _stopped(daemon: Process) -> Iterator[None]:
    """A daemon and its children do nothing while the block lasts."""
    pid = daemon.popen.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pids = [pid, *map(int, children)]
    try:
        for each in pids:
            os.kill(each, signal.SIGSTOP)
        yield
    finally:
        for each in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGCONT)
