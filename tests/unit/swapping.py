"""A daemon that stays root, and its own user who swaps names under it; run by test_privileges.

    python -m tests.unit.swapping KIND ATTACK UID DIRECTORY

The daemon does what it does with its files of one kind: `status`, `management`, `log` or `pid`.
Just before one of its steps the user, who owns the directory of these files and the one above, does
one thing:

* `symlink`: puts symbolic links to root's files in the place of the daemon's names;
* `hard link`: hard links. Made with root's rights, as where fs.protected_hardlinks is 0;
* `directory`: puts a link to a directory of root's in the place of the whole directory.

This is repeated for each step, of which Python's audit events tell. So no race decides what is
tried. Prints one JSON object: `steps` is how many there were, `changed` what of root's is not as it
was, by the number of the step.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from sigul_stack.cli import pidfile
from sigul_stack.cli.logs import set_up_daemon
from sigul_stack.config.identity import Identity
from sigul_stack.transport.status_socket import StatusSocket
from sigul_stack.transport.unix_socket import UnixListener

#: What is audited by name of a file; with `socket.bind`, by its address.
_EVENTS = {"open", "os.chmod", "os.chown", "os.remove", "os.rename", "os.truncate", "socket.bind"}
#: Seconds for the daemon, and what it leaves behind, to end.
_SECONDS = 30.0
_NAMES = {
    "status": ("s.sock", "s.sock.new"),
    "management": ("m.sock", "m.sock.new"),
    "log": ("sigul_test.log",),
    "pid": ("sigul_test.pid",),
}


class Trial:
    """One life of the daemon, with the user's deed before the step numbered `at` (-1: never)."""

    def __init__(self, kind: str, attack: str, uid: int, top: Path, at: int) -> None:
        self._kind, self._attack, self._uid, self._at = kind, attack, uid, at
        self._top = top
        self._home, self._roots = top / "home", top / "roots"
        self._directory = self._home / "run"
        self._steps = 0
        self._attacking = False

    def run(self) -> tuple[int, list[str]]:
        """Do it; how many steps there were, and what of root's has changed."""
        for directory in (self._directory, self._roots):
            directory.mkdir(parents=True)
        for directory in (self._home, self._directory):
            os.chown(directory, self._uid, self._uid)
        for name in ("victim", *_NAMES[self._kind]):
            (self._roots / name).write_text("root's")
        before = self._look()
        reader, writer = os.pipe()
        if os.fork() == 0:
            try:
                os.close(reader)
                sys.addaudithook(lambda event, arguments: self._note(event, arguments, writer))
                self._daemon(lambda: self._step(writer))
                os._exit(0)
            finally:
                os._exit(1)
        os.close(writer)
        steps = 0
        # It ends with the last process that the daemon has left.
        while select.select([reader], [], [], _SECONDS)[0]:
            if not (said := os.read(reader, 4096)):
                break
            steps += len(said)
        else:
            raise SystemExit("the daemon did not end")
        os.close(reader)
        if os.wait()[1] != 0:
            raise SystemExit("the daemon does not work where nobody disturbs it")
        after = self._look()
        shutil.rmtree(self._home)
        shutil.rmtree(self._roots)
        names = sorted(before.keys() | after.keys())
        return steps, [name for name in names if before.get(name) != after.get(name)]

    def _look(self) -> dict[str, object]:
        found: dict[str, object] = {}
        for path in (self._roots, *self._roots.iterdir()):
            info = path.lstat()
            content = path.read_bytes() if path.is_file() else b""
            found[path.name] = (info.st_mode, info.st_uid, info.st_gid, info.st_ino, content)
        return found

    # ------------------------------------------------------------------------------- the daemon

    def _daemon(self, step: Callable[[], None]) -> None:
        owner = Identity(self._uid, self._uid, ())
        # Where it is disturbed its start may fail: no gain for anybody.
        with contextlib.suppress(*([] if self._at < 0 else [Exception])):
            step()
            if self._kind == "status":
                status = StatusSocket(self._directory / "s.sock", lambda: b"", owner)
                step()
                status.close()
            elif self._kind == "management":
                listener = UnixListener(self._directory / "m.sock", "listen", owner, self._uid)
                step()
                listener.close()
            elif self._kind == "log":
                set_up_daemon("sigul_test", 0, stream=None, directory=self._directory, owner=owner)
                for _ in range(2):
                    step()
                    logging.getLogger("sigul_stack.test").warning("the user chose this text")
            else:
                with pidfile.held(self._directory / "sigul_test.pid", owner):
                    step()

    # --------------------------------------------------------------------------------- the user

    def _note(self, event: str, arguments: tuple[object, ...], writer: int) -> None:
        if event in _EVENTS and str(self._home) in str(arguments):
            self._step(writer)

    def _step(self, writer: int) -> None:
        if self._attacking:
            return
        os.write(writer, b".")
        if self._steps == self._at:
            self._attacking = True
            child = os.fork()
            if child == 0:
                try:
                    self._strike()
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
            self._attacking = False
        self._steps += 1

    def _strike(self) -> None:
        os.setresuid(0, 0, 0)  # the daemon may have lowered its own rights
        if self._attack != "hard link":
            os.setgroups([])
            os.setresgid(self._uid, self._uid, self._uid)
            os.setresuid(self._uid, self._uid, self._uid)
        if self._attack == "directory":
            self._directory.rename(self._home / "former")
            self._directory.symlink_to(self._roots)
            return
        for name in _NAMES[self._kind]:
            path = self._directory / name
            path.unlink(missing_ok=True)
            if self._attack == "symlink":
                path.symlink_to(self._roots / "victim")
            else:
                path.hardlink_to(self._roots / "victim")


def main() -> None:
    """Try every step."""
    kind, attack, uid, top = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])

    def run(at: int) -> tuple[int, list[str]]:
        return Trial(kind, attack, uid, top, at).run()

    steps, undisturbed = run(-1)
    changed = {at: what for at in range(steps) if (what := run(at)[1])}
    if undisturbed:
        changed[-1] = undisturbed
    print(json.dumps({"steps": steps, "changed": changed}))


if __name__ == "__main__":
    main()
