"""The commands that sign and decrypt: payloads of all sizes, outputs of all kinds."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.site import PROGRAM_SECONDS, Site, module, nul, popen

from .commands_support import (
    ADMIN,
    AUTHENTICATION,
    Dialogue,
    Gpg,
    done,
    error_line,
    failure,
    fingerprint_of,
    gpg_in,
    leftovers,
    person,
    refused,
)

DECRYPT_FAILED = "Decryption failed"
MIB = 1024**2
#: The most that the server here takes in one payload.
LIMIT = 6 * MIB

SIZES = {"empty": 0, "one byte": 1, "5 MiB": 5 * MIB}


@pytest.fixture(scope="module")
def running(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A running site with admin's keys `k` and `other` (passphrases `k-pw` and `other-pw`)."""
    site = Site.copy(template, tmp_path_factory.mktemp("signing") / "site")
    site.extra = {
        "server": {"server": f"max-file-payload-size: {LIMIT}\n"},
        "client": {"binding": "enabled: test\n"},
    }
    site.configure()
    with site.running():
        for key in ("k", "other"):
            done(site, "new-key", key, secrets=[ADMIN, f"{key}-pw"])
        yield site
        assert leftovers(site) == []


@pytest.fixture(scope="module")
def gpg(running: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gpg]:
    """A person's own GnuPG home, which has the public key `k`."""
    public = done(running, "get-public-key", "k", secrets=["k-pw"])
    with person(tmp_path_factory.mktemp("gpg") / "person", public) as home:
        yield home


@pytest.mark.once("our own words")
@pytest.mark.parametrize(
    ("text", "warned"),
    [
        (b"a\rb\n", True),
        (b"a\r\r\n", True),
        (b"x" * (MIB - 1) + b"\rb\n", True),
        (b"a\r\nb\r\n", False),
        (b"a\r", False),
        (b"a \r\n", False),
    ],
)
def test_a_carriage_return_in_a_line_is_warned_of(
    running: Site, tmp_path: Path, text: bytes, warned: bool
) -> None:
    """A line of a MiB is too long to be clear-signed, but is looked at before."""
    file = tmp_path / "text"
    file.write_bytes(text)
    code = 1 if len(text) > 20_000 else 0
    result = running.sigul("sign-text", "k", str(file), secrets=["k-pw"], code=code)
    assert (b"WARNING: the text has a carriage return inside a line" in result.stderr) is warned
    assert code or (b"Sequoia (sq) does not" in result.stderr) is warned


@pytest.fixture(scope="module")
def fingerprint(running: Site, gpg: Gpg) -> str:
    """The fingerprint of `k`."""
    return fingerprint_of(gpg, done(running, "get-public-key", "k", secrets=["k-pw"]))


def payload(directory: Path, size: int, name: str = "payload") -> Path:
    """A file of `size` bytes, in lines, that do not repeat."""
    file = directory / name
    line = "line {:011d}\n"
    count = -(-size // 17)
    file.write_bytes("".join(map(line.format, range(count))).encode()[:size])
    return file


def batch(site: Site, *arguments: str | Path) -> list[str]:
    """The command line of `sigul --batch` with a command."""
    client = [*module("sigul"), "--batch", "-c", str(site.path("client.conf"))]
    return [*client, *map(str, arguments)]


# ------------------------------------------------------------------------------------ signing


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_sign_text(running: Site, gpg: Gpg, fingerprint: str, tmp_path: Path, size: int) -> None:
    text = payload(tmp_path, size)
    signed = done(running, "sign-text", "k", str(text), secrets=["k-pw"])
    assert signed.startswith(b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n")
    assert gpg.signer("-", data=signed) == fingerprint
    assert gpg("--decrypt", data=signed).rstrip(b"\n") == text.read_bytes().rstrip(b"\n")
    # With -o the same goes to a file, and nothing to standard output.
    out = tmp_path / "signed"
    assert done(running, "sign-text", "-o", str(out), "k", str(text), secrets=["k-pw"]) == b""
    assert gpg.signer(out) == fingerprint


def test_sign_text_of_lines_that_need_care(
    running: Site, gpg: Gpg, fingerprint: str, tmp_path: Path
) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"-----BEGIN\r\n- dash\nFrom here\n\xff\xfe\x00 \xe4 trailing \t \nno end")
    signed = done(running, "sign-text", "k", str(text), secrets=["k-pw"])
    assert gpg.signer("-", data=signed) == fingerprint


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_sign_data(running: Site, gpg: Gpg, fingerprint: str, tmp_path: Path, size: int) -> None:
    data, out = payload(tmp_path, size), tmp_path / "signature"
    command = ["sign-data", "k", str(data)]
    assert done(running, *command, "-o", str(out), secrets=["k-pw"]) == b""
    assert gpg.signer(out, data) == fingerprint
    assert out.read_bytes()[0] & 0x80, "the signature is armoured"
    assert done(running, *command, "--armor", "--output", str(out), secrets=["k-pw"]) == b""
    assert out.read_bytes().startswith(b"-----BEGIN PGP SIGNATURE-----\n")
    assert gpg.signer(out, data) == fingerprint


def test_a_signature_is_of_this_file_alone(running: Site, gpg: Gpg, tmp_path: Path) -> None:
    data, out = payload(tmp_path, 100), tmp_path / "signature"
    done(running, "sign-data", "k", str(data), "-o", str(out), secrets=["k-pw"])
    other = payload(tmp_path, 99, "other")
    gpg("--verify", str(out), str(other), code=1)


def test_many_sign_at_once(running: Site, gpg: Gpg, fingerprint: str, tmp_path: Path) -> None:
    clients = []
    for number in range(8):
        data, out = payload(tmp_path, 10_000 + number, f"data-{number}"), tmp_path / f"s{number}"
        process = popen(
            batch(running, "sign-data", "k", data, "-o", out),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=running.environment,
        )  # fmt: skip
        clients.append((process, data, out))
        assert process.stdin is not None
        process.stdin.write(nul("k-pw"))
        process.stdin.flush()
    for process, data, out in clients:
        assert process.communicate(timeout=PROGRAM_SECONDS) == (b"", b"")
        assert process.returncode == 0
        assert gpg.signer(out, data) == fingerprint


def test_a_bound_passphrase_file_stands_for_the_passphrase(
    running: Site, gpg: Gpg, fingerprint: str, tmp_path: Path
) -> None:
    bound, data = tmp_path / "bound", payload(tmp_path, 100)
    bound.write_text(json.dumps([{"method": "test", "value": "k-pw", "may_unbind": "1"}]))
    signed = done(running, "sign-text", "k", str(data), options=["-f", str(bound)], stdin=b"")
    assert gpg.signer("-", data=signed) == fingerprint


def test_signing_at_the_terminal(running: Site, gpg: Gpg, fingerprint: str, tmp_path: Path) -> None:
    data = payload(tmp_path, 40)
    dialogue = Dialogue.of_sigul(running, "sign-text", "k", str(data))
    dialogue.answer("Key passphrase", "k-pw")
    screen = dialogue.end()
    assert screen.startswith("Key passphrase: \n-----BEGIN PGP SIGNED MESSAGE-----\n")
    signed = screen.removeprefix("Key passphrase: \n").encode()
    assert gpg.signer("-", data=signed) == fingerprint


def test_an_expired_key_does_not_sign(running: Site, tmp_path: Path) -> None:
    done(running, "new-key", "short", secrets=[ADMIN, "short-pw"])
    home = running.path("server/gnupg")
    public = done(running, "get-public-key", "short", secrets=["short-pw"])
    with person(tmp_path / "person") as own:
        name = fingerprint_of(own, public)
    try:
        # A date that GnuPG takes and that has passed by the time of use: one second.
        ((sealed,),) = _sealed(running, "short")
        with person(tmp_path / "opener") as own:
            passphrase = own("--passphrase=short-pw", "--decrypt", data=sealed).decode()
        for parts in ([], ["*"]):
            gpg_in(
                home, f"--passphrase={passphrase}", "--quick-set-expire", name, "seconds=1", *parts
            )
        _wait_until_expired(home, name)
        data = payload(tmp_path, 10)
        line = failure(running, "sign-data", "-a", "short", str(data), secrets=["short-pw"])
        assert line.startswith("Unknown error")
        assert "expired" in running.processes[-1].text
        # It is not lost: who extends it can sign again.
        done(running, "change-key-expiration", "short", secrets=["short-pw"])
        done(running, "change-key-expiration", "short", "--subkey", "1", secrets=["short-pw"])
        done(running, "sign-data", "-a", "short", str(data), secrets=["short-pw"])
    finally:
        done(running, "delete-key", "short", secrets=[ADMIN])


def _sealed(site: Site, key: str) -> list[tuple[bytes]]:
    from .commands_support import rows

    return rows(  # type: ignore[return-value]
        site,
        "SELECT encrypted_passphrase FROM key_accesses JOIN keys ON keys.id = key_id"
        " WHERE keys.name = ?",
        key,
    )


def _wait_until_expired(home: Path, fingerprint: str) -> None:
    end = time.monotonic() + PROGRAM_SECONDS
    while True:
        listing = gpg_in(home, "--with-colons", "--list-keys", fingerprint).stdout.decode()
        validities = re.findall(r"^(?:pub|sub):(\w)", listing, re.MULTILINE)
        if set(validities) == {"e"}:
            return
        assert time.monotonic() < end, listing


# ----------------------------------------------------------------------------------- decrypting


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_decrypt(running: Site, gpg: Gpg, fingerprint: str, tmp_path: Path, size: int) -> None:
    clear = payload(tmp_path, size).read_bytes()
    message = tmp_path / "message"
    message.write_bytes(gpg("--encrypt", "--recipient", fingerprint, data=clear))
    assert done(running, "decrypt", "k", str(message), secrets=["k-pw"]) == clear
    out = tmp_path / "clear"
    message.write_bytes(gpg("--encrypt", "--armor", "--recipient", fingerprint, data=clear))
    assert done(running, "decrypt", "k", str(message), "-o", str(out), secrets=["k-pw"]) == b""
    assert out.read_bytes() == clear


def test_all_that_cannot_be_decrypted_is_the_same_refusal(
    running: Site, gpg: Gpg, fingerprint: str, tmp_path: Path
) -> None:
    others = done(running, "get-public-key", "other", secrets=["other-pw"])
    gpg("--import", data=others)
    stranger = gpg.make_key("stranger", "")
    ours = gpg("--encrypt", "--recipient", fingerprint, data=b"clear text" * 100)
    messages = {
        "another key of this server": gpg(
            "--encrypt", "--recipient", fingerprint_of(gpg, others), data=b"clear"
        ),
        "unknown key": gpg("--encrypt", "--recipient", stranger, data=b"clear"),
        "passphrase": gpg("--symmetric", "--passphrase=k-pw", data=b"clear"),
        "damaged": ours[:-20] + bytes([ours[-20] ^ 1]) + ours[-19:],
        "cut": ours[:-30],
        "only signed": done(running, "sign-text", "k", "/etc/hostname", secrets=["k-pw"]),
        "no message": b"no message at all",
        "nothing": b"",
    }
    for name, message in messages.items():
        (tmp_path / "message").write_bytes(message)
        result = running.sigul("decrypt", "k", str(tmp_path / "message"), secrets=["k-pw"], code=1)
        assert (name, result.stdout, result.stderr) == (
            name, b"", f"Error: {DECRYPT_FAILED}\n".encode()
        )  # fmt: skip


# ------------------------------------------------------------------------------------- outputs


def test_binary_output_is_refused_to_a_terminal_before_anything_is_asked(
    running: Site, tmp_path: Path
) -> None:
    data = payload(tmp_path, 10)
    screen = Dialogue.of_sigul(running, "sign-data", "k", str(data)).end(code=1)
    assert screen.startswith("Error: refusing to write binary data to a terminal")
    assert "Key passphrase" not in screen
    dialogue = Dialogue.of_sigul(running, "sign-data", "-a", "k", str(data))
    dialogue.answer("Key passphrase", "k-pw")
    assert "-----BEGIN PGP SIGNATURE-----\n" in dialogue.end()


@pytest.mark.once("our own files and limits")
def test_binary_output_goes_to_a_pipe_byte_for_byte(
    running: Site, gpg: Gpg, fingerprint: str, tmp_path: Path
) -> None:
    data = payload(tmp_path, 1000)
    command = shlex.join(batch(running, "sign-data", "k", data))
    result = running.run(
        "sh", "-c",
        f"{command} | gpg --homedir {shlex.quote(str(gpg.home))} --status-fd 1 --verify - "
        f"{shlex.quote(str(data))}",
        secrets=["k-pw"],
    )  # fmt: skip
    assert fingerprint.encode() in result.stdout
    assert b"VALIDSIG" in result.stdout
    clear = os.urandom(3 * MIB) + b"\r\n\x00\x1a"
    (tmp_path / "message").write_bytes(gpg("--encrypt", "--recipient", fingerprint, data=clear))
    assert done(running, "decrypt", "k", str(tmp_path / "message"), secrets=["k-pw"]) == clear


def test_the_payload_may_come_from_a_pipe(
    running: Site, gpg: Gpg, fingerprint: str, tmp_path: Path
) -> None:
    data, out = payload(tmp_path, 3 * MIB), tmp_path / "signature"
    command = shlex.join(batch(running, "sign-data", "k", tmp_path / "pipe", "-o", out))
    os.mkfifo(tmp_path / "pipe")
    running.run(
        "sh", "-c",
        f"cat {shlex.quote(str(data))} >{shlex.quote(str(tmp_path / 'pipe'))} & {command}; s=$?;"
        " wait; exit $s",
        secrets=["k-pw"],
    )  # fmt: skip
    assert gpg.signer(out, data) == fingerprint


def test_an_output_file_has_the_permissions_that_the_umask_gives(
    running: Site, tmp_path: Path
) -> None:
    data, out = payload(tmp_path, 10), tmp_path / "signature"
    command = shlex.join(batch(running, "sign-data", "k", data, "-o", out))
    running.run("sh", "-c", f"umask 027; {command}", secrets=["k-pw"])
    assert stat.S_IMODE(out.stat().st_mode) == 0o640


def test_an_output_file_that_is_there_is_replaced_and_keeps_its_permissions(
    running: Site, gpg: Gpg, fingerprint: str, tmp_path: Path
) -> None:
    data, out, link = payload(tmp_path, 10), tmp_path / "signature", tmp_path / "link"
    out.write_bytes(b"x" * 10_000)
    out.chmod(0o604)
    # Only root can give it to somebody else.
    owner = (1234, 1235) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    os.chown(out, *owner)
    link.symlink_to("signature")
    done(running, "sign-data", "k", str(data), "-o", str(link), secrets=["k-pw"])
    assert link.is_symlink()
    found = out.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o604, *owner)
    assert gpg.signer(out, data) == fingerprint


@pytest.mark.once("our own files and limits")
def test_a_failure_leaves_output_files_as_they_were(running: Site, tmp_path: Path) -> None:
    data, old = payload(tmp_path, 10), tmp_path / "old"
    old.write_bytes(b"precious")
    before = sorted(tmp_path.iterdir())
    for out in (old, tmp_path / "new"):
        refused(running, AUTHENTICATION, "sign-data", "k", str(data), "-o", str(out),
                secrets=["wrong"])  # fmt: skip
        refused(running, DECRYPT_FAILED, "decrypt", "k", str(data), "-o", str(out),
                secrets=["k-pw"])  # fmt: skip
        failure(running, "sign-text", "k", str(data), "-o", str(out), stdin=b"k-pw\n")
    assert old.read_bytes() == b"precious"
    assert sorted(tmp_path.iterdir()) == before


def test_an_output_that_is_the_input_is_refused_and_the_input_kept(
    running: Site, tmp_path: Path
) -> None:
    requests = running.processes[0].text.count("Client connected")
    data, hard, symbolic = payload(tmp_path, 1000), tmp_path / "hard", tmp_path / "symbolic"
    hard.hardlink_to(data)
    symbolic.symlink_to(data.name)
    before = data.read_bytes(), data.stat()
    for command, place in {
        "sign-text": data, "sign-data": hard, "decrypt": symbolic, "sign-pe": "/dev/fd/3",
    }.items():  # fmt: skip
        certificate = ["cert"] if command == "sign-pe" else []
        words = shlex.join(batch(running, command, "k", *certificate, data, "-o", place))
        shell = f"{words} 3<>{shlex.quote(str(data))}"
        result = running.run("sh", "-c", shell, secrets=["k-pw"], code=1)
        assert error_line(result).startswith(f"writing to '{place}' would destroy '{data}'")
        assert (data.read_bytes(), data.stat()) == before
    assert running.processes[0].text.count("Client connected") == requests


def test_a_client_that_is_killed_leaves_no_output_file(running: Site, tmp_path: Path) -> None:
    data, out = payload(tmp_path, 10), tmp_path / "out"
    client = subprocess.Popen(
        batch(running, "sign-data", "k", data, "-o", out),
        stdin=subprocess.PIPE, env=running.environment,
    )  # fmt: skip
    try:
        # It has its output open once it waits for its secret.
        end = time.monotonic() + PROGRAM_SECONDS
        while not (drafts := _open_files(client.pid, tmp_path) - {str(data)}):
            assert time.monotonic() < end
    finally:
        client.kill()
        client.communicate(timeout=PROGRAM_SECONDS)
    assert not out.exists()
    # Where the file system has files without a name, nothing at all is left.
    left = {str(path) for path in tmp_path.iterdir()} - {str(data)}
    assert left == {draft for draft in drafts if not draft.endswith(" (deleted)")}


def _open_files(pid: int, directory: Path) -> set[str]:
    """The names of the files in `directory` that a process has open."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(str(link.readlink()))
    return {name for name in found if name.startswith(f"{directory}/")}


def test_outputs_and_inputs_that_cannot_be_are_found_before_secrets_are_read(
    running: Site, tmp_path: Path
) -> None:
    requests = running.processes[0].text.count("Client connected")
    data = payload(tmp_path, 10)
    missing = tmp_path / "missing"
    for name, arguments in (
        (missing, ["sign-data", "k", str(missing)]),
        (tmp_path, ["sign-text", "k", str(tmp_path)]),
        (missing, ["sign-data", "k", str(data), "-o", str(missing / "signature")]),
        (tmp_path, ["decrypt", "k", str(data), "-o", str(tmp_path)]),
    ):
        result = running.sigul(*arguments, stdin=b"", code=1)
        assert str(name) in error_line(result)
    assert running.processes[0].text.count("Client connected") == requests


@pytest.mark.once("our own files and limits")
def test_an_output_that_takes_no_more_is_an_error(running: Site, tmp_path: Path) -> None:
    data = payload(tmp_path, 3 * MIB)
    command = shlex.join(batch(running, "sign-text", "k", data))
    result = running.run("sh", "-c", f"{command} >/dev/full", secrets=["k-pw"], code=1)
    assert "No space left on device" in error_line(result)
    result = running.run(
        "bash", "-c", f"{command} | true; exit ${{PIPESTATUS[0]}}", secrets=["k-pw"], code=1
    )
    assert "Broken pipe" in error_line(result)


def test_special_files_as_output(running: Site, gpg: Gpg, fingerprint: str, tmp_path: Path) -> None:
    data = payload(tmp_path, 10)
    command = ["sign-data", "k", str(data), "-o"]
    assert done(running, *command, "/dev/null", secrets=["k-pw"]) == b""
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    (tmp_path / "signature").write_bytes(done(running, *command, "/dev/stdout", secrets=["k-pw"]))
    assert gpg.signer(tmp_path / "signature", data) == fingerprint


# -------------------------------------------------------------------------------------- limits


@pytest.mark.once("our own files and limits")
def test_a_payload_over_the_servers_limit_is_refused(running: Site, tmp_path: Path) -> None:
    server = running.processes[-1]
    data, out = tmp_path / "data", tmp_path / "signature"
    with data.open("wb") as file:
        file.truncate(LIMIT + 1)
    line = failure(running, "sign-data", "k", str(data), "-o", str(out), secrets=["k-pw"])
    assert f"{LIMIT + 1} bytes is over the limit of {LIMIT} bytes" in line
    assert "max-file-payload-size" in line
    assert not out.exists()
    server.wait_for(f"{LIMIT + 1} bytes is over the limit of {LIMIT} bytes")
    # The limit itself is no more than that.
    with data.open("wb") as file:
        file.truncate(LIMIT)
    done(running, "sign-data", "k", str(data), "-o", str(out), secrets=["k-pw"])


def test_a_line_too_long_to_be_clear_signed_is_said_so(running: Site, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"x" * 30_000 + b"\n")
    line = failure(running, "sign-text", "k", str(text), secrets=["k-pw"])
    assert line.startswith("Unknown error: ")
    assert "line" in line
