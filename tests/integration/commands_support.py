"""What the tests of commands share: how a command ends, what is in the stores, a gpg of one's own.

Results are looked at from outside: with gpg, openssl and sqlite3, not with the code under test.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.site import PROGRAM_SECONDS, Site, module, without_ids

AUTHENTICATION = "Authentication failed"
ADMIN = "admin-pw"
#: The end of an error of a request that a server may have done.
MAYBE = "the server may have done it: look there before you ask again"

#: Seconds for a prompt to come.
PROMPT_SECONDS = 30.0


# ---------------------------------------------------------------------------------- how it ends

#: Errors that scripts compare, as lines without `Error: ` before them.
WHOLE_LINES = (
    "Provided NSS password is incorrect",
    "Unable to unbind the passphrase on the client",
    "Passphrase file is unbound!",
)


def done(site: Site, *arguments: str, secrets: Sequence[str] = (), **further: object) -> bytes:
    """Run a command that succeeds and says nothing else; its standard output."""
    result = site.sigul(*arguments, secrets=secrets, **further)  # type: ignore[arg-type]
    assert result.stderr == b"", result.stderr
    return result.stdout


def refused(
    site: Site, text: str, *arguments: str, secrets: Sequence[str] = (), **further: object
) -> None:
    """Run a command that ends with exactly `Error: TEXT`, exit code 1 and no output."""
    result = site.sigul(*arguments, secrets=secrets, code=1, **further)  # type: ignore[arg-type]
    line = text if text in WHOLE_LINES else f"Error: {text}"
    assert result.stderr.decode() == f"{line}\n"
    assert result.stdout == b""


def failure(
    site: Site,
    *arguments: str,
    secrets: Sequence[str] = (),
    code: int | None = 1,
    **further: object,
) -> str:
    """Run a command that ends with one line `Error: …` and the exit code; the line's text.

    `code` None: any of a failure.
    """
    result = site.sigul(*arguments, secrets=secrets, code=code, **further)  # type: ignore[arg-type]
    assert result.returncode
    return error_line(result)


def error_line(result: subprocess.CompletedProcess[bytes]) -> str:
    """The text of the one line `Error: …` that is all of standard error."""
    lines = without_ids(result.stderr).decode().splitlines()
    assert len(lines) == 1, result.stderr
    if lines[0] in WHOLE_LINES:
        return lines[0]
    assert lines[0].startswith("Error: "), result.stderr
    return lines[0].removeprefix("Error: ")


def signing_errors(stderr: bytes) -> list[str]:
    """All of standard error of `sign-rpms`: a line for each RPM that failed, with what explains it.

    On standard error that is a line of its own.
    """
    found: list[str] = []
    for line in without_ids(stderr).decode().splitlines():
        if line.startswith("  "):
            assert not found[-1].endswith("\n"), stderr
            found[-1] += f": {line[2:]}\n"
        else:
            assert line.startswith("ERROR: Error signing "), stderr
            found.append(line.removeprefix("ERROR: "))
    return [line.rstrip("\n") for line in found]


def misused(site: Site, *arguments: str, secrets: Sequence[str] = ()) -> str:
    """Run a command line that does not fit: exit code 2, a usage message, nothing done."""
    result = site.sigul(*arguments, secrets=secrets, code=2)
    assert result.stdout == b""
    assert result.stderr.startswith(b"usage: sigul"), result.stderr
    return result.stderr.decode()


# ------------------------------------------------------------------------------------ the stores


def rows(site: Site, query: str, *values: object) -> list[tuple[object, ...]]:
    """What the server's database answers, read by sqlite3."""
    with contextlib.closing(
        sqlite3.connect(f"file:{site.path('server/server.sqlite')}?mode=ro", uri=True)
    ) as database:
        found: list[tuple[object, ...]] = database.execute(query, values).fetchall()
        return found


def database_content(site: Site) -> list[list[tuple[object, ...]]]:
    """All rows of all tables."""
    return [
        rows(site, f"SELECT * FROM {table} ORDER BY id")  # noqa: S608 - three names
        for table in ("users", "keys", "key_accesses")
    ]


def change_database(site: Site, statement: str, *values: object) -> None:
    """Change the server's database by sqlite3, for what a test needs and does not itself show."""
    with contextlib.closing(sqlite3.connect(site.path("server/server.sqlite"))) as database:
        database.execute(statement, values)
        database.commit()


def stored_fingerprints(site: Site) -> set[str]:
    """The fingerprints of all secret keys in the server's two stores, told by gpg and by names."""
    home = site.path("server/gnupg")
    # Not --list-secret-keys: that would start an agent, which stays.
    listing = gpg_in(home, "--with-colons", "--with-keygrip", "--list-keys").stdout.decode()
    primary = re.findall(
        r"^pub:.*\nfpr:+([0-9A-F]{40}):.*\n(?:(?!grp:).*\n)*grp:+([0-9A-F]{40}):",
        listing,
        re.MULTILINE,
    )
    gnupg = [name for name, grip in primary if (home / f"private-keys-v1.d/{grip}.key").exists()]
    pem = [
        path.stem
        for path in site.path("server/keys").iterdir()
        if re.fullmatch(r"[0-9a-f]{40}\.pem", path.name)
    ]
    return {*gnupg, *pem}


def secret_parts(site: Site) -> set[str]:
    """The names of all files with a secret in the GnuPG home and in the directory of PEM files."""
    return {path.name for path in site.path("server/gnupg/private-keys-v1.d").glob("*")} | {
        path.name for path in site.path("server/keys").iterdir()
    }


def assert_consistent(site: Site) -> None:
    """Database and stores hold the same keys, and nothing is left of making or deleting one."""
    assert {row[0] for row in rows(site, "SELECT fingerprint FROM keys")} == stored_fingerprints(
        site
    )
    assert leftovers(site) == []


def leftovers(site: Site) -> list[Path]:
    """Whatever an unfinished change of keys has left behind in the stores."""
    return [
        *site.path("server/gnupg").glob(".new-*"),
        *site.path("server/gnupg").glob("sigul-stack-change.json"),
        *(path for path in site.path("server/keys").iterdir() if path.name.startswith(".")),
        *site.path("server/spool").iterdir(),
    ]


# ------------------------------------------------------------------------------- gpg and openssl


def gpg_in(
    home: Path, *arguments: str, data: bytes = b"", code: int | None = 0
) -> subprocess.CompletedProcess[bytes]:
    """Run gpg as a person does, in `home`; it must exit with `code` (None: any)."""
    done = subprocess.run(
        ["gpg", "--homedir", str(home), "--batch", "--no-tty", "--pinentry-mode", "loopback",
         "--trust-model", "always", *arguments],
        input=data, capture_output=True, timeout=PROGRAM_SECONDS, check=False,
        env={**os.environ, "LC_ALL": "C"},
    )  # fmt: skip
    assert code is None or done.returncode == code, done.stderr.decode(errors="replace")
    return done


def end_agent(home: Path) -> None:
    """End the agent that gpg has started for `home`, if any."""
    subprocess.run(
        ["gpgconf", "--homedir", str(home), "--kill", "all"],
        timeout=PROGRAM_SECONDS, check=False, capture_output=True,
    )  # fmt: skip


class Gpg:
    """A person's own GnuPG home, which has nothing to do with the server's."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(mode=0o700, parents=True)
        # A low count, so that tests spend no time on this person's passphrases.
        (home / "gpg-agent.conf").write_text("s2k-count 65536\n")

    def __call__(self, *arguments: str, data: bytes = b"", code: int | None = 0) -> bytes:
        return gpg_in(self.home, *arguments, data=data, code=code).stdout

    def close(self) -> None:
        """End the agent."""
        end_agent(self.home)

    def make_key(self, name: str, passphrase: str, *, algorithm: str = "future-default") -> str:
        """A new key with a subkey for encryption; its fingerprint."""
        status = self(
            "--status-fd", "1", f"--passphrase={passphrase}",
            "--quick-gen-key", f"{name} <{name}@example.org>", algorithm, "default", "never",
        ).decode()  # fmt: skip
        (fingerprint,) = re.findall(r"KEY_CREATED \w (\w+)", status)
        return str(fingerprint)

    def secret_key(self, fingerprint: str, passphrase: str, *, armor: bool = True) -> bytes:
        """A secret key as a file."""
        return self(
            *(["--armor"] if armor else []), f"--passphrase={passphrase}",
            "--export-secret-keys", fingerprint,
        )  # fmt: skip

    def listed(self, fingerprint: str) -> list[list[str]]:
        """A key's lines of `--with-colons`, split."""
        text = self("--with-colons", "--fixed-list-mode", "--list-keys", fingerprint).decode()
        return [line.split(":") for line in text.splitlines()]

    def signer(self, *arguments: str | Path, data: bytes = b"") -> str:
        """Verify a signature, which must be good; the fingerprint of the primary key."""
        status = gpg_in(
            self.home, "--status-fd", "2", "--verify", *map(str, arguments), data=data
        ).stderr.decode()
        (primary,) = re.findall(r"VALIDSIG .* (\w{40})$", status, re.MULTILINE)
        return str(primary)


@contextlib.contextmanager
def person(home: Path, *public: bytes) -> Iterator[Gpg]:
    """A fresh GnuPG home that has the keys `public`."""
    gpg = Gpg(home)
    try:
        for key in public:
            gpg("--import", data=key)
        yield gpg
    finally:
        gpg.close()
        shutil.rmtree(home, ignore_errors=True)


def fingerprint_of(gpg: Gpg, public: bytes) -> str:
    """The fingerprint of an armoured public key."""
    listing = gpg("--with-colons", "--import-options", "show-only", "--import", data=public)
    found = re.search(r"^fpr:+(\w{40}):", listing.decode(), re.MULTILINE)
    assert found is not None
    return found[1]


def openssl(*arguments: str, data: bytes = b"") -> bytes:
    """Run openssl, which must succeed; its standard output."""
    done = subprocess.run(
        ["openssl", *arguments], input=data, capture_output=True, timeout=PROGRAM_SECONDS,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def verifies(password: str, stored: bytes) -> bool:
    """Whether `stored` is the SHA-512 crypt hash of `password`, as openssl computes it."""
    kind, salt = stored.decode("ascii").split("$")[1:3]
    assert kind == "6"
    return openssl("passwd", "-6", "-salt", salt, "-stdin", data=password.encode()).strip() == (
        stored
    )


# -------------------------------------------------------------------------------- at a terminal


class Dialogue:
    """A program at a terminal of its own, and a person who types."""

    def __init__(self, site: Site, *command: str, stdout: int | None = None) -> None:
        self.screen = b""
        self._seen = 0
        self._master, slave = os.openpty()
        try:
            # setsid makes the terminal the program's controlling one.
            self._process = subprocess.Popen(
                ["setsid", "--ctty", *command],
                stdin=slave,
                stdout=slave if stdout is None else stdout,
                stderr=slave,
                env=site.environment,
            )
        finally:
            os.close(slave)

    @classmethod
    def of_sigul(cls, site: Site, *arguments: str, stdout: int | None = None) -> Dialogue:
        """`sigul`, asking on the terminal."""
        return cls(
            site, *module("sigul"), "-c", str(site.path("client.conf")), *arguments, stdout=stdout
        )

    def expect(self, text: str) -> None:
        """Wait until the program shows `text`, after what was seen before."""
        wanted = text.encode()
        end = time.monotonic() + PROMPT_SECONDS
        while (at := self.screen.find(wanted, self._seen)) < 0:
            assert self._read(end), f"{text!r} did not come:\n{self.screen.decode()}"
        self._seen = at + len(wanted)

    def _read(self, end: float) -> bool:
        left = end - time.monotonic()
        if left <= 0 or not select.select([self._master], [], [], left)[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # what Linux says once nobody has the terminal open any more
            return False
        self.screen += data
        return bool(data)

    def type(self, text: str) -> None:
        """Type `text`."""
        os.write(self._master, text.encode())

    def answer(self, prompt: str, secret: str) -> None:
        """Wait for `prompt`, then type a secret and Enter."""
        self.expect(f"{prompt}: ")
        self.type(f"{secret}\n")

    def end(self, code: int = 0) -> str:
        """Wait for the program's end, which must be with `code`; all that the screen showed."""
        end = time.monotonic() + PROGRAM_SECONDS
        while self._read(end):
            pass
        try:
            found = self._process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(PROGRAM_SECONDS)
            raise
        finally:
            os.close(self._master)
        screen = self.screen.decode().replace("\r\n", "\n")
        assert found == code, screen
        return screen
