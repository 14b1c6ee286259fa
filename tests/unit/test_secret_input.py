"""Secrets from standard input, ended by NUL, and from a terminal, unseen."""

from __future__ import annotations

import _thread
import os
import platform
import pty
import resource
import select
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sigul_stack.cli.secret_input import (
    SecretInputError,
    SecretReader,
    Terminal,
    with_nss_password,
)
from sigul_stack.config.shared import NSSSettings
from sigul_stack.secret import Secret


@pytest.fixture
def batch() -> Iterator[Callable[[bytes], tuple[SecretReader, int]]]:
    opened = []

    def make(data: bytes) -> tuple[SecretReader, int]:
        reader, writer = os.pipe()
        opened.append(reader)
        os.write(writer, data)
        os.close(writer)
        return SecretReader(batch=True, stdin=reader), reader

    yield make
    for descriptor in opened:
        os.close(descriptor)


Batch = Callable[[bytes], tuple[SecretReader, int]]


def test_secrets_follow_one_another_and_the_rest_stays(batch: Batch) -> None:
    reader, descriptor = batch(b"first\0sec ond\n\0\xff\0rest\0")
    assert reader.read("A") == Secret("first")
    assert reader.read_new("B") == Secret("sec ond\n")
    assert reader.read("C") == Secret(b"\xff")
    assert os.read(descriptor, 100) == b"rest\0"


def test_an_existing_secret_may_be_empty_a_new_one_not(batch: Batch) -> None:
    reader, _ = batch(b"\0\0")
    assert reader.read("A") == Secret("")
    with pytest.raises(SecretInputError, match="must not be empty"):
        reader.read_new("B")


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (b"", "nothing was there"),
        (b"hidden\n", "there was a newline instead, as `echo password |` gives it"),
        (b"hidden", "there was text, but no NUL after it"),
        (b"hidden\nhidden", "there was text, but no NUL after it"),
    ],
)
def test_fault_8_input_that_ends_without_nul_says_so(batch: Batch, data: bytes, seen: str) -> None:
    reader, _ = batch(data)
    with pytest.raises(SecretInputError) as caught:
        reader.read("Administrator's password")
    message = str(caught.value)
    assert message.startswith("Administrator's password: input ended before the NUL byte")
    assert seen in message
    assert r"printf 'password\0' |" in message
    assert "hidden" not in message


def test_a_secret_fills_at_most_a_field(batch: Batch) -> None:
    reader, _ = batch(b"x" * 255 + b"\0" + b"y" * 255 + b"z\0")
    assert reader.read("A") == Secret("x" * 255)
    with pytest.raises(SecretInputError, match="after 255 bytes"):
        reader.read("B")


def test_a_closed_input(batch: Batch) -> None:
    reader, writer = os.pipe()
    os.close(writer)
    os.close(reader)
    with pytest.raises(SecretInputError, match="cannot be read from standard input"):
        SecretReader(batch=True, stdin=reader).read("A")


# ------------------------------------------------------------------------------- terminal


class Person:
    """Types on the other side of a pseudo-terminal, each line after its prompt is shown."""

    def __init__(self, answers: list[bytes]) -> None:
        self.master, self.slave = pty.openpty()
        self.shown = b""
        self._answers = answers
        self._thread = threading.Thread(target=self._type)
        self._thread.start()

    def _type(self) -> None:
        for answer in self._answers:
            self._read_until(b": ")
            os.write(self.master, answer)
            self.shown += b"<typed>"

    def _read_until(self, end: bytes) -> None:
        deadline = time.monotonic() + 20
        while not self.shown.endswith(end) and time.monotonic() < deadline:
            if select.select([self.master], [], [], 0.05)[0]:
                self.shown += os.read(self.master, 1000)

    def close(self) -> str:
        self._thread.join()
        while select.select([self.master], [], [], 0.2)[0]:
            self.shown += os.read(self.master, 1000)
        os.close(self.master)
        os.close(self.slave)
        return self.shown.decode()


def test_a_person_is_asked_without_echo() -> None:
    person = Person([b"hidden\n"])
    before = termios.tcgetattr(person.slave)
    secret = SecretReader(batch=False, terminal=Terminal(person.slave)).read("Key passphrase")
    after = termios.tcgetattr(person.slave)
    shown = person.close()
    assert secret == Secret("hidden")
    assert before == after
    assert shown == "Key passphrase: <typed>\r\n"


def test_a_new_secret_is_asked_twice_until_both_agree() -> None:
    person = Person([b"\n", b"one\n", b"other\n", b"hidden\n", b"hidden\n"])
    reader = SecretReader(batch=False, terminal=Terminal(person.slave))
    secret = reader.read_new("New key passphrase")
    shown = person.close()
    assert secret == Secret("hidden")
    assert shown.count("New key passphrase (again): ") == 2
    assert "must not be empty" in shown
    assert "not the same" in shown
    assert "hidden" not in shown


def test_a_person_who_never_agrees_with_himself() -> None:
    person = Person([b"a\n", b"b\n"] * 3)
    reader = SecretReader(batch=False, terminal=Terminal(person.slave))
    with pytest.raises(SecretInputError, match="never agreed"):
        reader.read_new("New password")
    person.close()


def test_end_of_input_and_too_much_of_it_on_a_terminal() -> None:
    person = Person([b"\x04", b"x" * 256 + b"\n"])
    reader = SecretReader(batch=False, terminal=Terminal(person.slave))
    with pytest.raises(SecretInputError, match="input ended before the secret did"):
        reader.read("Password")
    with pytest.raises(SecretInputError, match="longer than 255 bytes"):
        reader.read("Password")
    person.close()


def run_without_terminal(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, timeout=60, start_new_session=True, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


#: Numbers of `read`, `poll` and `ppoll` on x86-64, and on AArch64.
READ_OR_POLL = {"0", "7", "271"} if platform.machine() == "x86_64" else {"63", "73"}


def test_an_interruption_that_came_before_the_wait_ends_it() -> None:
    """It is noted, and no signal comes any more that would have `read` return."""
    person = Person([])

    main = Path(f"/proc/self/task/{threading.get_native_id()}/syscall")

    def interrupt() -> None:
        deadline = time.monotonic() + 20
        while main.read_text().split()[0] not in READ_OR_POLL and time.monotonic() < deadline:
            time.sleep(0.01)
        _thread.interrupt_main()
        if not ended.wait(20):
            late.set()
            os.write(person.master, b"\n")

    ended, late = threading.Event(), threading.Event()
    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            Terminal(person.slave).ask("Key passphrase")
    finally:
        ended.set()
        interrupting.join()
        person.close()
    assert not late.is_set(), "it waited until Enter came"


def test_no_terminal() -> None:
    result = run_without_terminal(
        "from sigul_stack.cli.secret_input import *\n"
        "from sigul_stack.config.shared import NSSSettings\n"
        "settings = NSSSettings(directory='sql:/x')\n"
        "assert with_nss_password(settings, SecretReader(batch=False)) is settings\n"
        "try: SecretReader(batch=False).read('Password')\n"
        "except SecretInputError as error: print(error)\n"
    )
    assert "no terminal" in result.stdout
    assert "--batch" in result.stdout


def test_the_nss_password_is_asked_where_the_configuration_has_none(batch: Batch) -> None:
    reader, _ = batch(b"pw\0")
    configured = NSSSettings(directory="sql:/x", password=Secret("own"))
    assert with_nss_password(configured, reader) is configured
    asked = with_nss_password(NSSSettings(directory="sql:/x"), reader)
    assert asked.password == Secret("pw")


# ---------------------------------------------------------------------------- core dumps


def test_no_core_dump() -> None:
    result = run_without_terminal(
        "import os, resource, signal\n"
        "from sigul_stack.cli.hardening import disable_core_dumps\n"
        "disable_core_dumps()\n"
        "disable_core_dumps()\n"
        "print(*resource.getrlimit(resource.RLIMIT_CORE))\n"
        "pid = os.fork()\n"
        "if pid == 0: os.kill(os.getpid(), signal.SIGSEGV)\n"
        "status = os.waitpid(pid, 0)[1]\n"
        "print(os.WTERMSIG(status), os.WCOREDUMP(status))\n"
    )
    limit = 0 if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0 else 1
    assert result.stdout.splitlines() == [f"{limit} {limit}", "11 False"], result.stderr


def test_no_tracing() -> None:
    result = run_without_terminal(
        "import ctypes\n"
        "from sigul_stack.cli.hardening import forbid_tracing\n"
        "pr_get_dumpable = 3\n"
        "before = ctypes.CDLL(None).prctl(pr_get_dumpable)\n"
        "forbid_tracing()\n"
        "print(before, ctypes.CDLL(None).prctl(pr_get_dumpable))\n"
    )
    assert result.stdout == "1 0\n", result.stderr
