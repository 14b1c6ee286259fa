"""`sign-rpms --resume`: what is signed stays; what is not whole, or only says so, is signed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sigul_stack.cli.outcome import MAY_HAVE_HAPPENED
from sigul_stack.formats.rpm_head import Head, parse_head
from tests.site import PROGRAM_SECONDS, Process, Site, module, nul, popen

from .commands_support import ADMIN, done, misused, signing_errors
from .rpm_support import Rpm, build
from .test_sign_rpms import command, copies
from .test_signing_log import entries, log_of

Running = tuple[Site, Process, Process]


@pytest.fixture(scope="module")
def daemons(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A site with the keys `k` and `other`, its bridge and its server."""
    site = Site.copy(template, tmp_path_factory.mktemp("resume") / "site")
    with site.running() as (bridge, server):
        for key in ("k", "other"):
            done(site, "new-key", key, secrets=[ADMIN, "k-pw"])
        yield site, bridge, server


@pytest.fixture(scope="module")
def rpm(daemons: Running, tmp_path_factory: pytest.TempPathFactory) -> Rpm:
    """An rpm database that has the public key `k`."""
    public = done(daemons[0], "get-public-key", "k", secrets=["k-pw"])
    return Rpm(tmp_path_factory.mktemp("rpmdb"), public)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Packages, each another one, by name."""
    directory = tmp_path_factory.mktemp("packages")
    return {
        name: build(directory, name, source=name == "source")
        for name in ("good", "cut", "forged", "stranger", "swapped", "source")
    }


def head_of(file: Path) -> Head:
    return parse_head(file.read_bytes())


def written(file: Path) -> tuple[int, int]:
    """The file of that name, and when it was written."""
    found = file.stat()
    return found.st_ino, found.st_mtime_ns


def resumed(site: Site, out: Path, *words: str | Path, code: int = 0) -> dict[str, Any]:
    """Run it with `--json`; the document."""
    told = site.sigul(*command(out, "--resume", "--json", "k", *words), secrets=["k-pw"], code=code)
    document: dict[str, Any] = json.loads(told.stdout)
    return document


def signatures_in_log(site: Site) -> int:
    """The signatures of RPMs that the server's log has."""
    return sum(leaf["op"] == "sign-rpms" and "output" in leaf for leaf in entries(log_of(site)))


def states(document: dict[str, Any]) -> dict[str, str]:
    """The state of each RPM by its file's name."""
    return {Path(row["file"]).name: row["state"] for row in document["rpms"]}


# More than 5 s: two batches, and gpg for each RPM that says that it is signed.
def test_what_only_says_that_it_is_signed_is_signed(
    daemons: Running, rpm: Rpm, packages: dict[str, Path], tmp_path: Path
) -> None:
    site = daemons[0]
    out = tmp_path / "out"
    files = list(packages.values())
    done(site, *command(out, "k", *files), secrets=["k-pw"])
    placed = {name: out / file.name for name, file in packages.items()}
    # All are there: nothing is signed, also where the public key is given, and nothing is touched.
    before = {path: written(path) for path in placed.values()}
    document = resumed(site, out, *files)
    assert set(states(document).values()) == {"already-signed"}
    public = tmp_path / "k.asc"
    public.write_bytes(done(site, "get-public-key", "k", secrets=["k-pw"]))
    words = command(out, "--resume", "--public-key", str(public), "k", *files)
    said = done(site, *words, secrets=["k-pw"])
    assert said == b"Signed 0, already signed 6, failed 0 of 6 RPMs\n"
    assert {path: written(path) for path in before} == before
    # The payload is shorter; the signature is another package's by the same key; another key's;
    # the place has another RPM that the key signed.
    good = placed["good"].read_bytes()
    os.truncate(placed["cut"], placed["cut"].stat().st_size - 1)
    forged = placed["forged"].read_bytes()
    head = parse_head(forged)
    placed["forged"].write_bytes(
        head.before_main(bytes(parse_head(good).signature.raw)) + forged[head.main_offset :]
    )
    done(site, *command(tmp_path / "o", "other", packages["stranger"]), secrets=["k-pw"])
    shutil.copy(tmp_path / "o" / placed["stranger"].name, placed["stranger"])
    placed["swapped"].write_bytes(good)
    placed["source"].unlink()
    document = resumed(site, out, *files)
    assert states(document) == {
        file.name: "already-signed" if name == "good" else "signed"
        for name, file in packages.items()
    }
    assert (document["key"], document["signed"], document["already_signed"]) == ("k", 5, 1)
    for name, file in packages.items():
        assert len(rpm.signatures(placed[name])) == 1, name
        assert head_of(placed[name]).main.raw == head_of(file).main.raw, name
    assert written(placed["good"]) == before[placed["good"]]


def test_what_fails_is_in_the_summary_with_its_reason(
    daemons: Running, packages: dict[str, Path], tmp_path: Path
) -> None:
    site = daemons[0]
    out, bad = tmp_path / "out", tmp_path / "bad.rpm"
    bad.write_bytes(b"no package at all" * 100)
    files = [packages["good"], bad, tmp_path / "none.rpm"]
    words = command(out, "--resume", "k", *files)
    told = site.sigul(*words, secrets=["k-pw"], code=1)
    assert told.stdout == b"Signed 1, already signed 0, failed 2 of 3 RPMs\n"
    assert len(signing_errors(told.stderr)) == 2
    document = resumed(site, out, *files, code=1)
    assert states(document) == {
        "bad.rpm": "failed", "none.rpm": "failed", packages["good"].name: "already-signed"
    }  # fmt: skip
    rows = {Path(row["file"]).name: row for row in document["rpms"]}
    assert "cannot be read" in rows["none.rpm"]["reason"]
    assert rows["bad.rpm"]["reason"].startswith("The RPM file is corrupt")
    assert rows["bad.rpm"]["may_have_happened"] is False
    assert set(rows["bad.rpm"]) == {
        "file", "output", "state", "reason", "may_have_happened", "request", "seconds"
    }  # fmt: skip
    # A request that is refused as a whole is what became of all that was left.
    told = site.sigul(
        *command(tmp_path / "more", "--json", "k", packages["cut"]), secrets=["wrong"], code=1
    )
    (row,) = json.loads(told.stdout)["rpms"]
    assert (row["state"], row["reason"]) == ("failed", "Authentication failed")
    assert told.stderr == b"Error: Authentication failed\n"


def test_one_that_is_signed_itself_is_copied(
    daemons: Running, rpm: Rpm, packages: dict[str, Path], tmp_path: Path
) -> None:
    site = daemons[0]
    done(site, *command(tmp_path, "k", packages["good"]), secrets=["k-pw"])
    signed = tmp_path / packages["good"].name
    for out in (tmp_path / "out", tmp_path):
        assert set(states(resumed(site, out, signed)).values()) == {"already-signed"}
    assert (tmp_path / "out" / signed.name).read_bytes() == signed.read_bytes()
    # More is wanted than it has.
    document = json.loads(
        done(
            site,
            *command(tmp_path / "out", "--resume", "--json", "--v3-signature", "k", signed),
            secrets=["k-pw"],
        )
    )
    assert set(states(document).values()) == {"signed"}
    assert len(rpm.signatures(tmp_path / "out" / signed.name)) == 2
    document = json.loads(
        done(
            site,
            *command(tmp_path / "out", "--resume", "--json", "--v3-signature", "k", signed),
            secrets=["k-pw"],
        )
    )
    assert set(states(document).values()) == {"already-signed"}


def test_what_does_not_fit_together(daemons: Running, packages: dict[str, Path]) -> None:
    site, good = daemons[0], str(packages["good"])
    options = ["--store-in-koji", "--koji-only", "--resume"]
    assert "--koji-only none comes back" in misused(site, "sign-rpms", *options, "k", good)
    words = command(Path("/out"), "--public-key", "/none", "k", good)
    assert "--public-key needs --resume" in misused(site, *words)


def test_a_wrong_passphrase_looks_at_nothing(
    daemons: Running, packages: dict[str, Path], tmp_path: Path
) -> None:
    words = command(tmp_path / "out", "--resume", "k", packages["good"])
    told = daemons[0].sigul(*words, secrets=["wrong"], code=1)
    assert told.stderr == b"Error: Authentication failed\n"
    assert told.stdout == b"Signed 0, already signed 0, failed 1 of 1 RPMs\n"
    assert list((tmp_path / "out").iterdir()) == []


# More than 5 s: a site of its own, whose bridge is killed in the middle of 200 RPMs.
@pytest.mark.long(
    "sigul_stack/client/rpm_exchange.py",
    "sigul_stack/client/rpm_signed.py",
    "sigul_stack/cli/commands/rpms.py",
)
def test_a_batch_whose_bridge_is_killed_goes_on_where_it_was(
    template: Site, packages: dict[str, Path], tmp_path: Path
) -> None:
    site = Site.copy(template, tmp_path / "site")
    files = copies(packages["good"], tmp_path, 200)
    out = tmp_path / "out"
    with site.running() as (bridge, server):
        done(site, "new-key", "k", secrets=[ADMIN, "k-pw"])
        with popen(
            [*module("sigul"), "--batch", "-c", str(site.path("client.conf")),
             *command(out, "--resume", "--json", "k", *files)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=site.environment,
        ) as client:  # fmt: skip
            assert client.stdin is not None
            client.stdin.write(nul("k-pw"))
            client.stdin.close()
            client.stdin = None
            end = time.monotonic() + PROGRAM_SECONDS
            while not out.exists() or len(list(out.iterdir())) < 10:
                assert time.monotonic() < end
                time.sleep(0.01)
            for process in (bridge.popen.pid, bridge.serving):
                os.kill(process, signal.SIGKILL)
            stdout, _stderr = client.communicate(timeout=PROGRAM_SECONDS)
        assert client.returncode == MAY_HAVE_HAPPENED
        first = json.loads(stdout)
        placed = {path.name: written(path) for path in out.iterdir()}
        assert 10 <= first["signed"] == len(placed) < 200
        assert first["signed"] + first["failed"] == 200
        lost = [row for row in first["rpms"] if row["may_have_happened"]]
        assert 0 < len(lost) <= first["failed"]
        site.processes.remove(bridge)
        bridge.popen.wait(PROGRAM_SECONDS)
        waits = "Waiting for a request at the bridge"
        waiting = server.text.count(waits)
        site.start_bridge()
        server.wait_for(waits, waiting + 1)
        signed_before = signatures_in_log(site)
        assert signed_before >= len(placed)
        second = resumed(site, out, *files)
        assert (second["already_signed"], second["signed"]) == (len(placed), 200 - len(placed))
        # The log has each of these once: what was there was not signed again.
        assert signatures_in_log(site) - signed_before == 200 - len(placed)
    assert {name: written(out / name) for name in placed} == placed
    assert sorted(path.name for path in out.iterdir()) == sorted(file.name for file in files)
