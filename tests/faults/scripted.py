"""The test's end of a scripted peer: starts `tests.peers`, sends scripts, waits for answers."""

from __future__ import annotations

import contextlib
import queue
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.peers import dumps, loads
from tests.site import Site, popen

#: Seconds for a peer to say what a test waits for, unless the test gives another limit.
PEER_SECONDS = 40.0
TOP = Path(__file__).parents[2]
_NICKNAMES = {
    "client": "sigul-client-cert",
    "crowd": "sigul-client-cert",
    "server": "sigul-server-cert",
    "bridge": "sigul-bridge-cert",
}
_DATABASES = {
    "client": "clients/admin",
    "crowd": "clients/admin",
    "server": "server",
    "bridge": "bridge",
}


class Peer:
    """A scripted peer of a site, in a process of its own.

    `kind` is what it plays; `database` (below the site's `pki`) and its `nickname` are who it is.
    """

    def __init__(
        self,
        site: Site,
        kind: str,
        *,
        database: str | None = None,
        nickname: str | None = None,
        port: int | None = None,
        address: str = "127.0.0.1",
        tls: str = "tls1.2",
        prefix: tuple[str, ...] = (),
    ) -> None:
        default = site.client_port if kind in ("client", "crowd") else site.server_port
        command = [
            *prefix, sys.executable, "-m", "tests.peers", kind,
            "--database", str(site.path("pki") / (database or _DATABASES[kind])),
            "--nickname", nickname or _NICKNAMES[kind],
            "--name", site.bridge_name, "--server-name", site.server_name,
            "--port", str(port or default), "--second-port", str(site.client_port),
            "--address", address, "--tls", tls,
        ]  # fmt: skip
        self._errors = site.path(f"log/peer-{kind}-{id(self):x}.err")
        with self._errors.open("wb") as errors:
            self.popen = popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                env=site.environment, cwd=TOP, text=True,
            )  # fmt: skip
        self._said: queue.Queue[dict[str, Any]] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.wait_for("ready")

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self._said.put(loads(line))
        self._said.put({"gone": True})

    def _next(self, seconds: float, what: str) -> dict[str, Any]:
        try:
            said = self._said.get(timeout=seconds)
        except queue.Empty:
            raise AssertionError(f"the peer did not say {what} in {seconds} s") from None
        assert "gone" not in said, f"the peer has ended:\n{self._errors.read_text()}"
        return said

    def start(self, **script: object) -> None:
        """Begin to follow a script."""
        self._tell(dumps(script))

    def go(self, count: int = 1) -> None:
        """Let a script that waits for the test go on; of a crowd, so many of its clients."""
        for _ in range(count):
            self._tell("")

    def _tell(self, line: str) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(line + "\n")
        self.popen.stdin.flush()

    def wait_for(self, event: str, seconds: float = PEER_SECONDS) -> dict[str, Any]:
        """Wait for an event, which other events may precede; a result fails."""
        while True:
            said = self._next(seconds, event)
            assert "result" not in said, f"the script ended before '{event}': {said}"
            if said["event"] == event:
                return said

    def outcome(self, seconds: float = PEER_SECONDS) -> dict[str, Any]:
        """Wait for the script's end: its `result` and its `error`, None where all went well."""
        while True:
            said = self._next(seconds, "how the script ended")
            if "result" in said:
                return said

    def result(self, seconds: float = PEER_SECONDS) -> Any:
        """Wait for the script's result; it must have ended well."""
        said = self.outcome(seconds)
        assert said["error"] is None, said
        return said["result"]

    def run(self, **script: object) -> Any:
        """Follow a script to its end; its result."""
        self.start(**script)
        return self.result()

    def attempt(self, **script: object) -> dict[str, Any]:
        """Follow a script to its end, however it ends."""
        self.start(**script)
        return self.outcome()

    def stop(self) -> None:
        """End the process."""
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait(10)
        self._reader.join(10)
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        # What a killed peer had not taken is of no interest.
        with contextlib.suppress(BrokenPipeError):
            self.popen.stdin.close()
        self.popen.stdout.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.stop()
