"""`sign-rpms`: many RPMs in one request, each for itself; limits, failures, and what is sent."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sigul_stack.cli.outcome import MAY_HAVE_HAPPENED
from sigul_stack.client.rpm_packages import sent_of
from sigul_stack.protocol.versions import LATEST
from tests.faults.proxies import Proxy
from tests.held_data import held
from tests.site import PROGRAM_SECONDS, Process, Site, module, nul, popen, wait_until
from tests.vectors.test_vectors import Exchange, subs

from .commands_support import (
    ADMIN,
    AUTHENTICATION,
    done,
    error_line,
    leftovers,
    refused,
    rows,
    signing_errors,
)
from .rpm_support import Rpm, build
from .test_sign_rpm import BAD, head_of

KIB = 1024
#: The most that the server here takes as one RPM, and that server and bridge take together.
FILE_LIMIT = 3000 * KIB
SERVER_TOTAL = 4000 * KIB
BRIDGE_TOTAL = 6000 * KIB


@pytest.fixture(scope="module")
def daemons(
    template: Site, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Site, Process]]:
    """A site with small limits and the keys `k` and `ima`, and its server."""
    site = Site.copy(template, tmp_path_factory.mktemp("rpms") / "site")
    site.extra = {
        "server": {
            "server": f"max-file-payload-size: {FILE_LIMIT}\nmax-memory-payload-size: 65536\n"
            f"max-rpms-payloads-size: {SERVER_TOTAL}\nsigning-threads: 3\n"
            "proxy-usernames: admin\n"
        },
        "bridge": {"bridge": f"max-rpms-payloads-size: {BRIDGE_TOTAL}\n"},
    }
    site.configure()
    with site.running() as (_bridge, server):
        done(site, "new-key", "k", secrets=[ADMIN, "k-pw"])
        done(site, "new-key", "--key-type", "ECC", "ima", secrets=[ADMIN, "ima-pw"])
        yield site, server
        assert leftovers(site) == []


@pytest.fixture(scope="module")
def running(daemons: tuple[Site, Process]) -> Site:
    """The site."""
    return daemons[0]


@pytest.fixture(scope="module")
def rpm(running: Site, tmp_path_factory: pytest.TempPathFactory) -> Rpm:
    """An rpm database that has the public key `k`."""
    public = done(running, "get-public-key", "k", secrets=["k-pw"])
    return Rpm(tmp_path_factory.mktemp("rpmdb"), public)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small package."""
    return build(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of a megabyte and a half."""
    more = "head -c 1500000 /dev/urandom > %{buildroot}/opt/large/random"
    return build(tmp_path_factory.mktemp("large"), "large", more=more)


def copies(package: Path, directory: Path, count: int) -> list[Path]:
    """Files with the same package."""
    files = [directory / f"{number:03d}.rpm" for number in range(count)]
    for file in files:
        file.write_bytes(package.read_bytes())
    return files


def command(out: Path, *words: str | Path) -> list[str]:
    """A command line."""
    return ["sign-rpms", "-o", str(out), *map(str, words)]


@pytest.mark.parametrize("options", [[], ["--head-signing"]], ids=["whole", "head"])
def test_all_are_signed(
    running: Site, rpm: Rpm, small: Path, tmp_path: Path, options: list[str]
) -> None:
    files = copies(small, tmp_path, 12)
    out = tmp_path / "deep" / "out"
    signing = ["--file-signing-key", "ima", *options]
    words = command(out, *signing, "k", *files)
    assert done(running, *words, secrets=["k-pw", "ima-pw"]) == b""
    assert sorted(path.name for path in out.iterdir()) == [file.name for file in files]
    for file in files:
        assert len(rpm.signatures(out / file.name)) == 1
        signed = rpm.query(out / file.name, "[%{FILESIGNATURES}\n]").split()
        assert len(signed) == 3
        assert all(signature.startswith("030204") for signature in signed)
    rpm.installs(out / files[0].name)


@pytest.mark.parametrize("options", [[], ["--head-signing"]], ids=["whole", "head"])
def test_packages_in_the_output_directory_are_replaced(
    running: Site, rpm: Rpm, small: Path, tmp_path: Path, options: list[str]
) -> None:
    """Whole or not at all, each by itself, and not one by another."""
    good = copies(small, tmp_path, 3)
    bad = tmp_path / "bad.rpm"
    bad.write_bytes(BAD["changed header"](small))
    (tmp_path / "in").mkdir()
    hidden = tmp_path / "in" / "000.rpm"
    shutil.copy(small, hidden)
    before = {file: file.read_bytes() for file in (*good, bad, hidden)}
    # Where one would be written over another, nothing is done at all.
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "000.rpm").symlink_to(good[1])
    line = running.sigul(*command(tmp_path / "links", "k", hidden, good[1]), code=1)
    assert "would take the place of another RPM" in error_line(line)
    assert {file: file.read_bytes() for file in before} == before
    words = command(tmp_path, *options, "k", *good, bad)
    result = running.sigul(*words, secrets=["k-pw"], code=1)
    assert error_of_one(result, bad).startswith("The RPM file is corrupt")
    for file in good:
        assert len(rpm.signatures(file)) == 1
    assert bad.read_bytes() == before[bad]
    names = {*good, bad, tmp_path / "in", tmp_path / "links"}
    assert set(tmp_path.iterdir()) == names


def error_of_one(result: subprocess.CompletedProcess[bytes], file: Path) -> str:
    """The reason why the only RPM that failed did."""
    (line,) = signing_errors(result.stderr)
    start = f"Error signing {file}: "
    assert line.startswith(start), line
    return line.removeprefix(start)


def test_the_packages_of_the_recorded_exchange(running: Site, rpm: Rpm, tmp_path: Path) -> None:
    exchange = Exchange.load(held("exchanges") / "sign-rpms.json")
    _, _, replies = exchange.reply_payload()
    theirs = {sub.header.fields["id"]: sub.payload for sub in subs(replies, LATEST)}
    files = []
    for number, sub in enumerate(subs(exchange.sub_sent, LATEST)):
        files.append(tmp_path / f"{number}.rpm")
        files[-1].write_bytes(sub.payload)
        (tmp_path / f"theirs-{number}").write_bytes(theirs[sub.header.fields["id"]])
    assert len(files) == 2
    out = tmp_path / "out"
    assert done(running, *command(out, "k", *files), secrets=["k-pw"]) == b""
    for number, file in enumerate(files):
        assert len(rpm.signatures(out / file.name)) == 1
        ours, reference = head_of(out / file.name), head_of(tmp_path / f"theirs-{number}")
        assert ours.signature.entries.keys() == reference.signature.entries.keys()
        assert len(ours.signature.raw) == len(reference.signature.raw)
        assert ours.main.raw == reference.main.raw


def test_v3_signatures(running: Site, rpm: Rpm, small: Path, tmp_path: Path) -> None:
    files = copies(small, tmp_path, 2)
    out = tmp_path / "out"
    done(running, *command(out, "--v3-signature", "k", *files), secrets=["k-pw"])
    for file in files:
        assert len(rpm.signatures(out / file.name)) == 2


def test_each_bad_one_is_named_and_the_others_are_signed(
    running: Site, rpm: Rpm, small: Path, tmp_path: Path
) -> None:
    good = copies(small, tmp_path, len(BAD) + 1)
    files = [good[0]]
    bad = []
    for file, (what, spoil) in zip(good[1:], BAD.items(), strict=True):
        bad.append(tmp_path / f"{what.replace(' ', '-')}.rpm")
        bad[-1].write_bytes(spoil(small))
        files += [bad[-1], file]
    out = tmp_path / "out"
    result = running.sigul(*command(out, "k", *files), secrets=["k-pw"], code=1)
    assert len(files) >= 20
    failed = f"Signed {len(good)} of {len(files)} RPMs; {len(bad)} failed\n"
    assert result.stdout == failed.encode()
    lines = signing_errors(result.stderr)
    assert len(lines) == len(bad), lines
    for file in bad:
        (line,) = [line for line in lines if line.startswith(f"Error signing {file}: ")]
        assert "The RPM file is corrupt: " in line
    assert sorted(path.name for path in out.iterdir()) == [file.name for file in good]
    for file in good:
        assert len(rpm.signatures(out / file.name)) == 1


def unusable(directory: Path) -> dict[Path, str]:
    """Operands that the client itself can tell to be none, and what it says of each."""
    gone, empty, folder = (directory / name for name in ("gone", "empty.rpm", "folder"))
    empty.touch()
    folder.mkdir()
    found = {
        gone: "cannot be read: No such file or directory",
        empty: f"Cannot sign zero-length RPM file {empty}",
        folder: "cannot be read: Is a directory",
    }
    if os.geteuid() != 0:  # root may read everything
        locked = directory / "locked.rpm"
        locked.write_bytes(b"x")
        locked.chmod(0)
        found[locked] = "cannot be read: Permission denied"
    return found


def test_each_file_that_is_none_is_named_and_the_others_are_signed(
    running: Site, rpm: Rpm, small: Path, tmp_path: Path
) -> None:
    first, last = copies(small, tmp_path, 2)
    bad = unusable(tmp_path)
    out = tmp_path / "out"
    result = running.sigul(*command(out, "k", first, *bad, last), secrets=["k-pw"], code=1)
    lines = signing_errors(result.stderr)
    assert len(lines) == len(bad), lines
    for file, text in bad.items():
        (line,) = [line for line in lines if line.startswith(f"Error signing {file}: ")]
        assert text in line
    for file in (first, last):
        assert len(rpm.signatures(out / file.name)) == 1


def test_where_none_is_left_nothing_is_asked_for(running: Site, tmp_path: Path) -> None:
    bad = unusable(tmp_path)
    out = tmp_path / "out"
    for file, text in bad.items():
        result = running.sigul(*command(out, "k", file), stdin=b"", code=1)
        assert text in error_of_one(result, file)
    empty = tmp_path / "empty.rpm"
    said = f"Error: Cannot sign zero-length RPM file {empty}\n"
    result = running.sigul("sign-rpm", "k", str(empty), stdin=b"", code=1)
    assert result.stderr.decode() == said
    result = running.sigul(*command(out, "k", empty), stdin=b"", code=1)
    assert result.stderr.decode() == f"ERROR: Error signing {empty}: {said}"
    result = running.sigul(*command(out, "k", *bad), stdin=b"", code=1)
    lines = signing_errors(result.stderr)
    assert [line.split(": ")[0] for line in lines] == [f"Error signing {file}" for file in bad]
    assert not out.exists()


def test_what_is_no_rpm_is_not_even_sent_with_head_signing(
    running: Site, rpm: Rpm, small: Path, tmp_path: Path
) -> None:
    good, other = copies(small, tmp_path, 2)
    text = tmp_path / "text.rpm"
    text.write_bytes(b"garbage\n" * 100)
    out = tmp_path / "out"
    words = command(out, "--head-signing", "k", good, text, other)
    result = running.sigul(*words, secrets=["k-pw"], code=1)
    assert result.stderr.decode() == f"ERROR: Error signing {text}: the file is not an RPM\n"
    for file in (good, other):
        assert len(rpm.signatures(out / file.name)) == 1


@pytest.mark.once("rights and limits of our own")
def test_an_rpm_over_the_servers_limits_costs_that_rpm(
    running: Site, rpm: Rpm, small: Path, large: Path, tmp_path: Path
) -> None:
    huge = tmp_path / "huge.rpm"
    huge.write_bytes(large.read_bytes() + bytes(FILE_LIMIT))
    first, second, third = copies(large, tmp_path, 3)
    last = tmp_path / "last.rpm"
    last.write_bytes(small.read_bytes())
    out = tmp_path / "out"
    # The third large one is over what all may have together, and the huge one over a file's.
    result = running.sigul(*command(out, "k", first, second, third, last), secrets=["k-pw"], code=1)
    assert re.fullmatch(
        f"Error signing {third}: Unknown error: .* max-rpms-payloads-size .*",
        *signing_errors(result.stderr),
    )
    for file in (first, second, last):
        assert len(rpm.signatures(out / file.name)) == 1
    result = running.sigul(*command(out, "k", huge, last), secrets=["k-pw"], code=1)
    assert re.fullmatch(
        f"Error signing {huge}: Unknown error: .* max-file-payload-size .*",
        *signing_errors(result.stderr),
    )
    assert len(rpm.signatures(out / last.name)) == 1


@pytest.mark.once("rights and limits of our own")
def test_an_rpm_over_the_bridges_limit_costs_that_rpm(
    running: Site, rpm: Rpm, small: Path, tmp_path: Path
) -> None:
    huge = tmp_path / "huge.rpm"
    huge.write_bytes(bytes(BRIDGE_TOTAL + 1))
    (good,) = copies(small, tmp_path, 1)
    out = tmp_path / "out"
    result = running.sigul(*command(out, "k", huge, good), secrets=["k-pw"], code=1)
    line = error_of(result, huge)
    assert "max-rpms-payloads-size" in line
    assert len(rpm.signatures(out / good.name)) == 1


def error_of(result: subprocess.CompletedProcess[bytes], file: Path) -> str:
    """The one line of standard error, which is about `file`."""
    (line,) = signing_errors(result.stderr)
    assert line.startswith(f"Error signing {file}: ")
    return line


#: More than is sent around an RPM's headers: a handshake, the inner session, fields, codes.
AROUND = 12 * KIB


@pytest.mark.once("our own chunks and words")
def test_head_signing_sends_no_payload(template: Site, tmp_path: Path) -> None:
    """Counted on the wire, between client and bridge and between bridge and server.

    Whatever else is sent is the same for an RPM with next to no payload.
    """
    more = "head -c 20971520 /dev/urandom > %{buildroot}/opt/vast/random"
    vast = build(tmp_path, "vast", more=more, macros=[("_binary_payload", "w0.ufdio")])
    tiny = build(tmp_path, "tiny")
    assert vast.stat().st_size > 20 * KIB**2 > 100 * AROUND
    with counted_site(template, tmp_path / "site") as (site, by_client, by_bridge):
        public = done(site, "get-public-key", "k", secrets=["k-pw"])
        rpm = Rpm(tmp_path / "rpmdb", public)
        around: dict[tuple[str, bool], list[int]] = {}
        for package in (tiny, vast):
            headers = sent_of(head_of(package), package.stat().st_size)
            assert headers < 14_000
            single, out = tmp_path / f"single-{package.name}", tmp_path / "out"
            for words in (
                ["sign-rpm", "--head-signing", "-o", str(single), "k", str(package)],
                command(out, "--head-signing", "k", package),
            ):
                sent_before, served_before = sum(by_client().values()), by_bridge()
                assert done(site, *words, secrets=["k-pw"]) == b""
                sent = sum(by_client().values()) - sent_before
                served = max(
                    count - served_before.get(number, 0) for number, count in by_bridge().items()
                )
                for count in (sent, served):
                    assert headers < count < headers + AROUND, (words, sent, served, headers)
                around[words[0], package is vast] = [sent - headers, served - headers]
            for signed in (single, out / package.name):
                assert len(rpm.signatures(signed)) == 1
            rpm.installs(out / package.name)
    for what in ("sign-rpm", "sign-rpms"):
        for least, most in zip(around[what, False], around[what, True], strict=True):
            assert abs(least - most) < KIB, around


Counted = Callable[[], dict[int, int]]


@contextlib.contextmanager
def counted_site(template: Site, directory: Path) -> Iterator[tuple[Site, Counted, Counted]]:
    """A site whose connections are counted, and the bytes sent by clients, and to servers.

    By connection: where a server waits, it has its handshake behind it.
    """
    site = Site.copy(template, directory)
    with Proxy(site.client_port) as clients, Proxy(site.server_port) as servers:
        ports = (site.client_port, site.server_port)
        site.client_port, site.server_port = clients.port, servers.port
        site.configure()
        for_clients = site.path("client.conf").read_text(), site.path("server.conf").read_text()
        site.client_port, site.server_port = ports
        site.configure()
        for name, text in zip(("client", "server"), for_clients, strict=True):
            site.path(f"{name}.conf").write_text(text)

        def by_client() -> dict[int, int]:
            return _bytes(clients.up)

        def to_servers() -> dict[int, int]:
            return _bytes(servers.down)

        with site.running():
            done(site, "new-key", "k", secrets=[ADMIN, "k-pw"])
            yield site, by_client, to_servers


def _bytes(connections: list[list[tuple[int, int]]]) -> dict[int, int]:
    """The bytes of each connection's TLS records, with their heads."""
    return {
        number: sum(5 + length for _kind, length in list(records))
        for number, records in enumerate(list(connections))
    }


@pytest.mark.once("rights and limits of our own")
def test_rights_are_those_of_the_request(running: Site, small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = command(out, "k", small)
    refused(running, AUTHENTICATION, *words, secrets=["wrong"])
    words = command(out, "--file-signing-key", "ima", "k", small)
    refused(running, AUTHENTICATION, *words, secrets=["k-pw", "wrong"])
    refused(running, "Unsupported keytype for operation", *command(out, "ima", small),
            secrets=["ima-pw"])  # fmt: skip
    assert list(out.iterdir()) == []


BOBS_KEYS = (
    "SELECT keys.name FROM key_accesses JOIN keys ON keys.id = key_id"
    " JOIN users ON users.id = user_id WHERE users.name = 'bob'"
)


def opens(fifo: Path) -> bool:
    """Whether somebody reads a FIFO, who then meets its end."""
    try:
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def revoke(site: Site, key: str) -> None:
    """Take bob's access to `key` away."""
    done(site, "revoke-key-access", "--password", key, "bob", secrets=[ADMIN])


def revoke_all_and_delete_the_user(site: Site) -> None:
    revoke(site, "k")
    revoke(site, "ima")
    done(site, "delete-user", "bob", secrets=[ADMIN])


def make_the_key_anew(site: Site) -> None:
    """The same names, and the same passphrases, but another key."""
    done(site, "delete-key", "ima", secrets=[ADMIN])
    done(site, "new-key", "--key-type", "ECC", "ima", secrets=[ADMIN, "ima-pw"])
    grant(site, "ima")


def grant(site: Site, key: str) -> None:
    done(site, "grant-key-access", key, "bob", secrets=[f"{key}-pw", f"bob-{key}-pw"])


@pytest.mark.once("rights and limits of our own")
@pytest.mark.parametrize(
    "take_back",
    [
        pytest.param(lambda site: revoke(site, "k"), id="access"),
        pytest.param(lambda site: revoke(site, "ima"), id="access to the key for files"),
        pytest.param(revoke_all_and_delete_the_user, id="user"),
        pytest.param(make_the_key_anew, id="key"),
    ],
)
def test_what_comes_after_a_revocation_is_not_signed(
    running: Site, rpm: Rpm, small: Path, tmp_path: Path, take_back: Callable[[Site], None]
) -> None:
    if not rows(running, "SELECT 1 FROM users WHERE name = 'bob'"):
        done(running, "new-user", "bob", secrets=[ADMIN])
    for key in {"k", "ima"} - {name for (name,) in rows(running, BOBS_KEYS)}:
        grant(running, key)
    first, gate, *after = copies(small, tmp_path, 4)
    # Opening it holds the client up until the other end is opened, too; then it costs itself.
    gate.unlink()
    os.mkfifo(gate)
    out = tmp_path / "out"
    with subprocess.Popen(
        [*module("sigul"), "--batch", "-c", str(running.path("client.conf")), "-u", "bob",
         *command(out, "--file-signing-key", "ima", "k", first, gate, *after)],
        stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=running.environment,
    ) as client:  # fmt: skip
        try:
            assert client.stdin is not None
            client.stdin.write(nul("bob-k-pw", "bob-ima-pw"))
            client.stdin.close()
            client.stdin = None
            wait_until((out / first.name).exists, PROGRAM_SECONDS, "the first RPM's signing")
            take_back(running)
            wait_until(lambda: opens(gate), PROGRAM_SECONDS, "the client's turn to the next file")
            _, stderr = client.communicate(timeout=PROGRAM_SECONDS)
        finally:
            client.kill()
    # Of what came just when the request ended its client does not know.
    assert client.returncode in (1, MAY_HAVE_HAPPENED)
    told = dict(line.removeprefix("Error signing ").split(": ", 1) for line in
                signing_errors(stderr))  # fmt: skip
    assert "cannot be read" in told.pop(str(gate))
    assert told.keys() == {str(file) for file in after}
    # What came within a second has been refused; then the whole request has ended.
    for text in told.values():
        assert text == AUTHENTICATION or text.startswith("No reply from server received")
    assert [path.name for path in out.iterdir()] == [first.name]
    assert len(rpm.signatures(out / first.name)) == 1


def test_an_rpm_that_is_named_twice_is_signed_once(
    running: Site, rpm: Rpm, small: Path, tmp_path: Path
) -> None:
    """By the same name, another one, a link, and as a copy in another directory."""
    first, other = copies(small, tmp_path, 2)
    (tmp_path / "arch").mkdir()
    copy = tmp_path / "arch" / first.name
    shutil.copy(first, copy)
    (tmp_path / "link").mkdir()
    link = tmp_path / "link" / first.name
    link.symlink_to(first)
    odd = tmp_path / "." / "arch" / ".." / first.name
    out = tmp_path / "out"
    words = command(out, "k", first, first, str(odd), other, copy, link, other)
    assert done(running, *words, secrets=["k-pw"]) == b""
    assert sorted(path.name for path in out.iterdir()) == [first.name, other.name]
    for file in (first, other):
        assert len(rpm.signatures(out / file.name)) == 1
    # Where the copy lies in the output directory, it is what is replaced.
    assert done(running, *command(copy.parent, "k", first, copy), secrets=["k-pw"]) == b""
    assert len(rpm.signatures(copy)) == 1
    assert first.read_bytes() == small.read_bytes()


def test_two_rpms_of_one_name_cost_the_second(
    running: Site, rpm: Rpm, small: Path, tmp_path: Path
) -> None:
    first, last = copies(small, tmp_path, 2)
    (tmp_path / "b").mkdir()
    other = tmp_path / "b" / first.name
    other.write_bytes(build(tmp_path, "another").read_bytes())
    kept = other.read_bytes()
    out = tmp_path / "out"
    result = running.sigul(*command(out, "k", first, other, last), secrets=["k-pw"], code=1)
    assert "would be signed to the same file as" in error_of(result, other)
    assert result.stdout == b""
    assert sorted(path.name for path in out.iterdir()) == [first.name, last.name]
    # It is not written over by the other one either.
    result = running.sigul(*command(other.parent, "k", first, other), secrets=["k-pw"], code=1)
    assert "would take the place of another RPM" in error_line(result)
    assert other.read_bytes() == kept


@pytest.mark.once("our own chunks and words")
def test_a_large_batch_is_summed_up(running: Site, rpm: Rpm, small: Path, tmp_path: Path) -> None:
    files = copies(small, tmp_path, 21)
    out = tmp_path / "out"
    result = running.sigul(*command(out, "k", *files), secrets=["k-pw"])
    assert (result.stdout, result.stderr) == (b"Signed 21 RPMs\n", b"")
    files[3].write_bytes(b"garbage")
    result = running.sigul(*command(out, "k", *files), secrets=["k-pw"], code=1)
    assert result.stdout == b"Signed 20 of 21 RPMs; 1 failed\n"
    assert error_of(result, files[3])


def test_of_source_rpms_it_is_said_that_their_files_are_not_signed(
    running: Site, rpm: Rpm, small: Path, tmp_path: Path
) -> None:
    source = build(tmp_path, "sourced", source=True)
    out = tmp_path / "out"
    words = ["--file-signing-key", "ima", "k"]
    note = b"Note: 1 source RPM signed without signatures of the files in it"
    for command_line in (
        command(out, *words, small, source),
        ["sign-rpm", "-o", str(out / source.name), *words, str(source)],
    ):
        result = running.sigul(*command_line, secrets=["k-pw", "ima-pw"])
        assert result.stdout == b""
        assert result.stderr.startswith(note)
        assert len(result.stderr.splitlines()) == 1
        assert len(rpm.signatures(out / source.name)) == 1
        assert rpm.query(out / source.name, "[%{FILESIGNATURES}]") in ("", "(none)")
    assert rpm.query(out / small.name, "[%{FILESIGNATURES}]").startswith("030204")


def test_outputs_that_cannot_be_written_cost_themselves(
    running: Site, rpm: Rpm, small: Path, tmp_path: Path
) -> None:
    first, blocked, last = copies(small, tmp_path, 3)
    out = tmp_path / "out"
    (out / blocked.name).mkdir(parents=True)
    result = running.sigul(*command(out, "k", first, blocked, last), secrets=["k-pw"], code=1)
    assert "cannot be written" in error_of(result, blocked)
    for file in (first, last):
        assert len(rpm.signatures(out / file.name)) == 1


@pytest.mark.once("rights and limits of our own")
def test_a_server_that_dies_is_told_for_each_rpm_that_it_leaves(
    template: Site, small: Path, tmp_path: Path
) -> None:
    site = Site.copy(template, tmp_path / "site")
    with site.running() as (_bridge, server):
        done(site, "new-key", "k", secrets=[ADMIN, "k-pw"])
        files = copies(small, tmp_path, 300)
        out = tmp_path / "out"
        with popen(
            [*module("sigul"), "--batch", "-c", str(site.path("client.conf")),
             *command(out, "k", *files)],
            stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=site.environment,
        ) as client:  # fmt: skip
            assert client.stdin is not None
            client.stdin.write(nul("k-pw"))
            client.stdin.close()
            client.stdin = None
            end = time.monotonic() + PROGRAM_SECONDS
            while not out.exists() or not any(out.iterdir()):
                assert time.monotonic() < end
                time.sleep(0.02)
            for worker in workers(server):
                subprocess.run(["kill", "-KILL", worker], timeout=10, check=False)
            _, stderr = client.communicate(timeout=PROGRAM_SECONDS)
            assert client.returncode == MAY_HAVE_HAPPENED
        lines = signing_errors(stderr)
        lost = {file.name for file in files} - {path.name for path in out.iterdir()}
        assert lost
        assert len(lines) == len(lost)
        for line in lines:
            assert re.match(r"Error signing .*/\d+\.rpm: No reply from server received: ", line)


def workers(server: Process) -> list[str]:
    """The server's own processes, workers all."""
    found = subprocess.run(
        ["pgrep", "-P", str(server.popen.pid)], capture_output=True, timeout=10, check=True
    )
    return found.stdout.decode().split()
