"""Run gpg in one home, and ask it which keys there are.

gpg gets no `gpg.conf`: an option there (as `ignore-mdc-error`) could undo what the callers rely
on. It gets passphrases through pipes, and its agent asks nobody.

The agent stays when a run of gpg is over: the server's processes all use the same one. So gpg does
not start it: all that gpg starts ends with it. It is started before, behind a wall of its own (its
home and Unix sockets, nothing else), with gpgconf, which does so under a lock of GnuPG's.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from ...errors import KeystoreError
from ...secret import Secret
from ...system.programs import ToolTimeout, run, secret_pipe
from ...system.wall import MIB, Reach, Wall
from ...tools import GPG, RAISE_SIGNING_TIMEOUT
from .agent import AgentConnection
from .directory import short_path
from .locks import foreign_locks
from .output import ListedKey, StatusLines, parse_keys, parse_status

#: How long anything takes that is no signature and makes no key, in seconds.
_QUICK = 30.0
#: How long an agent that ends is given to remove its socket, and how often that is looked for, in
#: seconds. Somebody else may have started the next agent meanwhile, whose socket stays.
_SOCKET_GONE, _SOCKET_POLL = 5.0, 0.01
#: The agent's socket, where it is in the home, and how long it is tried, in seconds.
_SOCKET_NAME, _SOCKET_SECONDS = "S.gpg-agent", 5.0
#: Address space of an agent, in bytes: it has a thread with a stack for each connection.
_AGENT_MEMORY = 8192 * MIB


@dataclass(frozen=True, slots=True)
class GnuPGResult:
    """Result of a run of gpg: exit code, status lines, messages and (if captured) output."""

    returncode: int
    status: StatusLines
    messages: str
    output: bytes

    @property
    def last_words(self) -> str:
        """The last line that gpg said, or its exit code."""
        words = [line for line in self.messages.splitlines() if line.strip()]
        return words[-1].strip() if words else f"exit code {self.returncode}"

    def failure(self, what: str, cure: str) -> KeystoreError:
        """An error that says `what` failed, gpg's last words about it, and the `cure`."""
        return KeystoreError(f"{what} failed ({self.last_words})", cure)


class GnuPG:
    """gpg in the home `path`. `time_limit` is for one run, in seconds."""

    def __init__(self, path: Path, *, time_limit: float = 60.0) -> None:
        self.path = path.absolute()
        self.time_limit = time_limit
        self._socket: Path | None = None

    def run(
        self,
        arguments: Sequence[str],
        *,
        passphrase: Secret | None = None,
        stdin: int | bytes = b"",
        stdout: int | None = None,
        inherit: Sequence[int] = (),
        time_limit: float | None = None,
        watch: Callable[[], None] | None = None,
        max_file_size: int | None = None,
        agent: bool = True,
        keyring: bool = True,
        files: Sequence[Path] = (),
    ) -> GnuPGResult:
        """Run gpg with `arguments`; what its failing means is for the caller to say.

        `passphrase` is for every secret key that it uses; the descriptors, `watch` and
        `max_file_size` are as in `programs.run`. It runs behind a wall that leaves it the home and
        the agent; `agent` False: not the agent, and none is started; `keyring` False: no keys
        of the home, for what parses hostile files and needs nothing there; `files` are what it
        reads by name. Raises `ToolMissing`, and `KeystoreError` where gpg does not end or writes
        without end.
        """
        if agent:
            self._need_agent()
        with ExitStack() as cleanup:
            options = [] if agent else ["--no-autostart"]
            if not keyring:
                options += ["--no-default-keyring", "--lock-never", "--no-random-seed-file"]
            if passphrase is not None:
                descriptor = cleanup.enter_context(secret_pipe(passphrase))
                options += ["--passphrase-fd", str(descriptor)]
                inherit = [*inherit, descriptor]
            finished = run(
                [
                    *("gpg", "--homedir", str(short_path(self.path)), "--no-options"),
                    *("--batch", "--no-tty", "--pinentry-mode", "loopback"),
                    *("--trust-model", "always", "--no-auto-check-trustdb"),
                    *options,
                    *arguments,
                ],
                package=GPG.package,
                timeout_cure=RAISE_SIGNING_TIMEOUT,
                time_limit=time_limit or self.time_limit,
                stdin=stdin,
                stdout=stdout,
                inherit=inherit,
                status_option="--status-fd",
                watch=watch,
                max_file_size=max_file_size,
                wall=Wall(
                    read=(self.path / "trustdb.gpg", *files),
                    write=(self.path,) if keyring else (),
                    reach=Reach.LOCAL if agent else Reach.NOTHING,
                ),
            )
        return GnuPGResult(
            finished.returncode, parse_status(finished.status), finished.stderr, finished.stdout
        )

    def list_keys(self) -> list[ListedKey]:
        """All keys, with secrets and without. Raises `KeystoreError`."""
        return self._list([])

    def key(self, fingerprint: str) -> ListedKey | None:
        """The key with that fingerprint of its primary key, if there is one."""
        found = self._list([fingerprint])
        return next((key for key in found if key.fingerprint == fingerprint), None)

    def _list(self, which: Sequence[str]) -> list[ListedKey]:
        outcome = self.run(
            # Nothing is changed but for the empty ring of a new home, and no lock is waited for.
            [
                *("--lock-never", "--with-colons", "--with-secret", "--with-keygrip"),
                *("--list-keys", "--", *which),
            ],
            time_limit=_QUICK,
        )
        # A key that is not there is a failure to gpg.
        if outcome.returncode and not which:
            raise outcome.failure(f"listing the keys in {self.path}", "check the GnuPG home")
        return parse_keys(outcome.output.decode("utf-8", "replace"))

    def export(self, fingerprint: str, *, armor: bool) -> bytes:
        """The public key `fingerprint`. Raises `KeystoreError` if it is not there."""
        outcome = self.run(
            [*(["--armor"] if armor else []), "--export", "--", fingerprint],
            time_limit=_QUICK,
        )
        if outcome.returncode or not outcome.output:
            raise outcome.failure(
                f"exporting key {fingerprint} from {self.path}",
                "check the key store against the database",
            )
        return outcome.output

    def exported_at_rest(self, fingerprint: str) -> bytes | None:
        """The public key `fingerprint`, by a look that leaves the home as it is; None for none.

        No agent is started, and nothing is locked or made.
        """
        if not any((self.path / name).is_file() for name in ("pubring.kbx", "pubring.gpg")):
            return None
        outcome = self.run(
            ["--lock-never", "--export", "--", fingerprint], time_limit=_QUICK, agent=False
        )
        return outcome.output or None

    def agent(self) -> AgentConnection:
        """A connection to the agent, which is started if need be. Raises `KeystoreError`."""
        # Mostly it is there, and this is on the way of every signature: no program is run to ask.
        with suppress(KeystoreError):
            return AgentConnection(self._usual_socket(), self.time_limit)
        # Not there, elsewhere, or about to end, which still takes connections.
        return AgentConnection(self._need_agent(), self.time_limit)

    def _usual_socket(self) -> Path:
        """The agent's socket, unless the user has a directory below /run."""
        return short_path(self.path) / _SOCKET_NAME

    def agent_socket(self) -> Path:
        """Path of the socket at which the agent listens, or would."""
        if self._socket is None:
            self._socket = Path(self.configure("--list-dirs", "agent-socket").decode().strip())
        return self._socket

    def _need_agent(self) -> Path:
        """Start the agent unless it runs, behind a wall of its own; the path of its socket."""
        usual = self._usual_socket()
        if _listens(usual):
            return usual
        if _listens(self.agent_socket()):
            return self.agent_socket()
        wall = Wall(
            write=(self.path, self.agent_socket().parent),
            reach=Reach.LOCAL,
            children=True,
            lasting=True,
            memory=_AGENT_MEMORY,
        )
        try:
            self.configure("--launch", "gpg-agent", wall=wall)
        except ToolTimeout:
            for lock in foreign_locks(self.path):
                raise lock.error() from None
            raise
        return usual if usual.exists() else self.agent_socket()

    def stop_agent(self) -> None:
        """End the agent, if it runs. The next run of gpg that needs one starts it again."""
        path = self.agent_socket()
        if path.exists():
            # Most likely it ended by itself and left its socket.
            with suppress(KeystoreError), AgentConnection(path, _QUICK) as agent:
                agent.kill()
                # It removes its socket a moment after it has let go of the connection.
                end = time.monotonic() + _SOCKET_GONE
                while path.exists() and time.monotonic() < end:
                    time.sleep(_SOCKET_POLL)

    def configure(self, *arguments: str, wall: Wall | None = None) -> bytes:
        """Run gpgconf for this home, behind `wall` (None: one that lets it read the home), and
        return its output. Raises `KeystoreError`.
        """
        finished = run(
            ["gpgconf", "--homedir", str(short_path(self.path)), *arguments],
            package=GPG.package,
            timeout_cure=RAISE_SIGNING_TIMEOUT,
            time_limit=_QUICK,
            wall=wall or Wall(read=(self.path,)),
        )
        if finished.returncode:
            raise KeystoreError(
                f"gpgconf {' '.join(arguments)} failed in {self.path} ({finished.reason})",
                "check the GnuPG home, and that gpg-agent is installed",
            )
        return finished.stdout


def _listens(path: Path) -> bool:
    """True if somebody listens at the socket `path`."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_SOCKET_SECONDS)
        try:
            connection.connect(str(path))
        except OSError:
            return False
    return True
