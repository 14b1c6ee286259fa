"""Looking for secrets: in whatever form, in texts and in what processes of the machine show."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

#: How often the machine's processes are looked at, in seconds.
LOOK_SECONDS = 0.05


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
        while not self._stop.wait(LOOK_SECONDS):
            for process in Path("/proc").iterdir():
                for name in ("cmdline", "environ") if process.name.isdigit() else ():
                    with suppress(OSError):
                        self.seen.add((process / name).read_bytes())
