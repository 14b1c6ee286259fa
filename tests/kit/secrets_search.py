"""Looking for secrets: in whatever form, in texts and in what processes of the machine show."""

from __future__ import annotations

import base64
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

#: How often the machine's processes are looked at, in seconds.
LOOK_SECONDS = 0.05
#: After so many looks the environments of all are read again: one a second.
ALL_LOOKS = 20


def forms(secret: bytes) -> Iterator[bytes]:
    """The secret as it is, in hex, and in base64 wherever it begins."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    for before in range(3):
        text = base64.b64encode(bytes(before) + secret)
        # The characters at both ends depend on what stands beside it.
        yield text[(0, 2, 3)[before] : -4 or None]


def found(text: bytes, secrets: Iterable[bytes]) -> list[bytes]:
    """Those of the secrets that are in the text, in whatever form."""
    return [secret for secret in secrets if any(form in text for form in forms(secret))]


def found_in_stream(pieces: Iterable[bytes], secrets: Iterable[bytes]) -> bool:
    """Whether one of the secrets is in what may be large, in whatever form.

    grep looks for all forms at once, where `found` goes through the text for each.
    """
    with tempfile.NamedTemporaryFile() as sought:
        sought.write(b"\n".join(form for secret in secrets for form in forms(secret)))
        sought.flush()
        with subprocess.Popen(
            ["grep", "--text", "--count", "--fixed-strings", f"--file={sought.name}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"},
        ) as grep:
            assert grep.stdin and grep.stdout
            with grep.stdin:
                for piece in pieces:
                    grep.stdin.write(piece)
            count = int(grep.stdout.read())
    assert grep.returncode == (0 if count else 1)
    return count > 0


@dataclass
class Processes:
    """Notes all argument lists and environments of the machine in `seen`, while it is entered."""

    seen: set[bytes]
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Processes:
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _watch(self) -> None:
        looks = 0
        shown: dict[str, bytes] = {}
        while not self._stop.wait(LOOK_SECONDS):
            # What a process is started with changes only as it starts another program, and that
            # has other arguments. Where they have not changed, the environment is not read again.
            before = shown if looks % ALL_LOOKS else {}
            looks += 1
            shown = {}
            with os.scandir("/proc") as entries:
                processes = [entry.name for entry in entries if entry.name.isdigit()]
            for process in processes:
                arguments = _read(f"/proc/{process}/cmdline")
                # The kernel's own have none.
                if arguments:
                    shown[process] = arguments
                    if before.get(process) != arguments:
                        self.seen |= {arguments, _read(f"/proc/{process}/environ")}


def _read(path: str) -> bytes:
    """What the file of a process holds, which may have ended; quicker than with pathlib."""
    pieces = []
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        while piece := os.read(file, 1 << 20):
            pieces.append(piece)
    except OSError:
        pass
    finally:
        os.close(file)
    return b"".join(pieces)
