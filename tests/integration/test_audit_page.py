"""The commands of docs/audit.md, run: on a real site, its log, a copy of it, and a release.

Each command is the page's own, run by bash, with the page's directories replaced by the test's. The
programs are those of the environment that runs the tests; `sigul` gets its configuration besides.
One test follows the page from one end to the other, some 35 programs: that takes half a minute.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sigul_stack.evidence.leaf import LOG_RESTORED, LOG_START, Leaf
from sigul_stack.evidence.log_reader import LogReader
from tests.signing_logs import make_log
from tests.site import PROGRAM_SECONDS, Site, nul

from .commands_support import ADMIN, done

PAGE = Path(__file__).parents[2] / "docs" / "audit.md"

NEEDED, LOOK, VERIFY = "What you need", "Look", "Verify"
RELEASE, PUBLIC = "A release of last year", "With public tools only"
COPIES, WITNESSES, SIEM = "Copies", "Witnesses", "SIEM"
RESTORING, ORIGIN = "Restoring", "A new origin"


def blocks() -> dict[str, list[str]]:
    """The page's commands, by the heading that they stand under."""
    found: dict[str, list[str]] = {}
    heading, fence = "", ""
    for line in PAGE.read_text("utf-8").splitlines():
        if line.startswith("```"):
            fence = "" if fence else line
        elif fence == "```console":
            assert line.startswith("$ "), line
            found.setdefault(heading, []).append(line.removeprefix("$ "))
        elif not fence and line.startswith("#"):
            heading = line.lstrip("#").strip()
    return found


def program() -> str:
    """The page's program, which it has readers save."""
    [text] = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    return str(text)


def test_each_block_of_the_page_is_run() -> None:
    assert list(blocks()) == [
        NEEDED, LOOK, VERIFY, RELEASE, PUBLIC, COPIES, WITNESSES, SIEM, RESTORING, ORIGIN,
    ]  # fmt: skip


class Auditor:
    """Somebody who follows the page in a directory of theirs, which is on the server here."""

    def __init__(self, site: Site, work: Path) -> None:
        self.site, self.work = site, work
        self.log = site.path("server/signing-log")
        self.environment = {
            **site.environment,
            "PATH": f"{Path(sys.executable).parent}:{site.environment['PATH']}",
        }

    def place(self, command: str) -> str:
        """A command of the page with the directories of the test."""
        day, now = timedelta(days=1), datetime.now(UTC)
        places = {
            # The page's days are around the test's.
            "--since 2026-11-01": f"--since {now - day:%F}",
            "--until 2026-11-30": f"--until {now + day:%F}",
            "--since 2026-11-30": f"--since {now - day:%F}",
            "/etc/sigul/server.conf": str(self.site.path("server.conf")),
            "/srv/log-copy": str(self.work / "log-copy"),
            "sigul verify": f"sigul --batch -c {self.site.path('client.conf')} verify",
        }
        return re.sub("|".join(map(re.escape, places)), lambda found: places[found[0]], command)

    def run(self, command: str, *, is_good: bool = True) -> str:
        """Run a command; what it prints."""
        ran = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {self.place(command)}"],
            cwd=self.work, env=self.environment, input=nul("release-pw"), capture_output=True,
            timeout=PROGRAM_SECONDS, check=False,
        )  # fmt: skip
        assert (ran.returncode == 0) == is_good, (command, ran.stdout, ran.stderr)
        return ran.stdout.decode()

    def follow(self, heading: str) -> list[str]:
        """Run a block of the page; what each command printed."""
        return [self.run(command) for command in blocks()[heading]]


@pytest.fixture
def auditor(site: Site, tmp_path: Path) -> Iterator[Auditor]:
    """An auditor beside a running site that has signed a release with its key `release`."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "app.tar.gz").write_bytes(b"a release")
    (work / "root.py").write_text(program())
    with site.running():
        done(site, "new-key", "release", secrets=[ADMIN, "release-pw"])
        shutil.copy(site.path("server/signing-log/checkpoint"), work / "kept-checkpoint")
        sign(site, work)
        make_log(work / "copy-of-server2", 3)
        yield Auditor(site, work)


def sign(site: Site, work: Path) -> None:
    """Sign the release."""
    signature, file = str(work / "app.tar.gz.sig"), str(work / "app.tar.gz")
    done(site, "sign-data", "-o", signature, "release", file, secrets=["release-pw"])


@pytest.mark.once("the page is of our own programs")
def test_the_page_is_followed(auditor: Auditor) -> None:
    work, log = auditor.work, auditor.log
    auditor.follow(NEEDED)
    pushed, received = auditor.follow(COPIES)
    size = LogReader.open(log).size
    assert pushed.startswith(f"pushed {size} leaves of ")
    assert f": {size} leaves, {size} new" in received
    [*_, checked] = auditor.follow(WITNESSES)
    assert "cosigned: audit.example.org at " in checked
    by_key, by_file, several, shown, first = auditor.follow(LOOK)
    assert "sign-data admin key release 'app.tar.gz'" in by_key
    assert by_file.count("\n") == 1
    assert several == ""
    assert "file: app.tar.gz" in shown
    assert json.loads(first)["leaf"]["op"] == LOG_START
    verified = auditor.follow(VERIFY)
    assert "extends: kept-checkpoint, 2 leaves" in verified[1]
    assert "cosigned: audit.example.org at " in verified[2]
    _, good, checked = auditor.follow(RELEASE)
    assert "Good signature by key 'release'" in good
    assert "In the log " in good
    assert "app.tar.gz: its SHA-256 is the leaf's input" in checked
    check_with_public_tools(auditor)
    everything, since = auditor.follow(SIEM)
    assert everything.count("\n") == size
    assert since == everything
    restore(auditor)
    aside = list(log.parent.glob("signing-log.before-*"))
    [told, _] = auditor.follow(ORIGIN)
    assert len(list(log.parent.glob("signing-log.before-*"))) == len(aside) + 1
    new = LogReader.open(log)
    assert f"the new log: {new.head.origin}" in told
    known = (work / "log-copy/checkpoint").read_text()
    assert Leaf.parse(new.entry(0)).previous == known
    assert (work / "log.pub").read_text().splitlines()[1].startswith(f"{new.head.origin}+")
    auditor.run("sigul-stack audit verify --key log.pub --log copy --log " + str(log))


def check_with_public_tools(auditor: Auditor) -> None:
    """The page's public tools say that the proof is good, and that a changed one is not."""
    work = auditor.work
    leaf, digests, root, *_, signature = auditor.follow(PUBLIC)
    found = json.loads(leaf)
    assert [line.split()[0] for line in digests.splitlines()] == [
        found["input"]["sha256"], found["output"]["sha256"],
    ]  # fmt: skip
    assert root == "in the log\n"
    assert "Verified Successfully" in signature
    proof = work / "app.tar.gz.sig.tlog-proof"
    text = proof.read_text()
    rows = text.split("\n")
    # The leaf (its first line is its head), its index, a hash, and the signed text.
    changes = {
        "leaf": text.replace(rows[1][6:30], rows[1][10:30] + "AAAA", 1),
        "index": text.replace(rows[2], "index 0"),
        "index too large": text.replace(rows[2], "index 99999"),
        "hash": text.replace(rows[3], rows[3][::-1][1:] + "=", 1),
        "a hash less": text.replace(rows[3] + "\n", "", 1),
        "a hash more": text.replace(rows[3], f"{rows[3]}\n{rows[3]}", 1),
    }
    check = blocks()[PUBLIC][2]
    for what, changed in changes.items():
        assert changed != text, what
        proof.write_text(changed)
        auditor.run(check, is_good=False)
    proof.write_text(text)
    signed = work / "text"
    signed.write_text(signed.read_text().replace("\n", "x\n", 1))
    auditor.run(blocks()[PUBLIC][-1], is_good=False)


def restore(auditor: Auditor) -> None:
    """Put the log back to what it was before a further signature, and follow the page."""
    site, work, log = auditor.site, auditor.work, auditor.log
    backup = Path(shutil.copytree(log, work / "backup"))
    sign(site, work)
    auditor.follow(COPIES)
    site.stop_all()
    size = LogReader.open(log).size
    shutil.rmtree(log)
    shutil.move(backup, log)
    completed, verified = auditor.follow(RESTORING)
    assert f", and has {size + 1};" in completed
    assert f", {size + 1} leaves" in verified
    assert Leaf.parse(LogReader.open(log).entry(size)).op == LOG_RESTORED
