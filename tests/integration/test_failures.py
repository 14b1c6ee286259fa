"""Starts that cannot go well: every program says what is wrong, where, and what to do about it."""

from __future__ import annotations

import re
import shutil
import sqlite3
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.site import Site, module

from .commands_support import ADMIN, WHOLE_LINES, Dialogue, done, error_line, rows

PROGRAMS = ("sigul", "bridge", "server", "server_add_admin")
#: Whose configuration and NSS database each program uses.
CONFIGURATION = {
    "sigul": "client", "bridge": "bridge", "server": "server", "server_add_admin": "server",
}  # fmt: skip
NSS = {"client": "pki/clients/admin", "bridge": "pki/bridge", "server": "pki/server"}


@pytest.fixture(scope="module")
def idle(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site that does not run, with a writable copy of everything; `configured` changes it."""
    return Site.copy(template, tmp_path_factory.mktemp("idle") / "site")


@pytest.fixture
def configured(idle: Site) -> Iterator[Callable[..., Site]]:
    """Gives the idle site with further lines in one file, and takes them away afterwards."""

    def configure(file: str, **sections: str) -> Site:
        idle.extra = {file: sections}
        idle.configure()
        return idle

    yield configure
    idle.extra = {}
    idle.configure()


def attempt(
    site: Site, program: str, *, config: str | None = None, stdin: bytes = b"admin-pw\0"
) -> subprocess.CompletedProcess[bytes]:
    """Start a program, which must soon end with exit code 1."""
    path = str(site.path(config or f"{CONFIGURATION[program]}.conf"))
    options = {
        "sigul": ["--batch", "-c", path, "list-users"],
        "server_add_admin": ["-c", path, "--batch", "-n", "another"],
    }.get(program, ["-c", path])
    return site.run(*module(program), *options, stdin=stdin, code=1)


def said(result: subprocess.CompletedProcess[bytes], program: str) -> str:
    """The one error that a program that could not start has told.

    A daemon says a line that scripts know twice: in its log, and by itself.
    """
    if program in ("sigul", "server_add_admin"):
        return error_line(result)
    lines = [
        re.sub(r"^\S+Z ERROR \[\d+\] |^Error: ", "", line)
        for line in result.stderr.decode().splitlines()
        if " ERROR " in line or line.startswith("Error: ") or line in WHOLE_LINES
    ]
    if len(lines) == 2 and lines[1] in WHOLE_LINES:
        assert lines.pop() == lines[0], result.stderr.decode()
    assert len(lines) == 1, result.stderr.decode()
    assert "Traceback" not in result.stderr.decode()
    return lines[0]


def replace(path: Path, old: str, new: str) -> None:
    """Change a file's text, which must hold `old`."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# -------------------------------------------------------------------------------- NSS databases


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_wrong_nss_password(
    configured: Callable[..., Site], tmp_path: Path, program: str
) -> None:
    site = configured("none")
    name = CONFIGURATION[program]
    (tmp_path / "wrong").write_text("not the password")
    replace(
        site.path(f"{name}.conf"),
        f"nss-password-file: {site.path(NSS[name])}/nss-password",
        f"nss-password-file: {tmp_path}/wrong",
    )
    assert said(attempt(site, program), program) == "Provided NSS password is incorrect"
    assert rows(site, "SELECT name FROM users") == [("admin",)]


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_nss_database_there(
    configured: Callable[..., Site], tmp_path: Path, program: str
) -> None:
    site = configured("none")
    name = CONFIGURATION[program]
    for directory in (tmp_path / "missing", tmp_path):
        site.configure()
        replace(
            site.path(f"{name}.conf"), f"nss-dir: {site.path(NSS[name])}", f"nss-dir: {directory}"
        )
        error = said(attempt(site, program), program)
        assert error.startswith(f"'{directory}' does not contain a valid NSS database")
        assert f"certutil -N -d sql:{directory}" in error


@pytest.mark.parametrize("program", ["sigul", "bridge", "server"])
def test_fault_20_an_old_database_is_recognised(
    configured: Callable[..., Site], tmp_path: Path, program: str
) -> None:
    site = configured("none")
    name = CONFIGURATION[program]
    (tmp_path / "cert8.db").write_bytes(b"\0\x06\x15\x61")
    replace(site.path(f"{name}.conf"), f"nss-dir: {site.path(NSS[name])}", f"nss-dir: {tmp_path}")
    error = said(attempt(site, program), program)
    assert "cert8.db" in error
    assert f"sigul-stack pki convert {tmp_path}" in error


@pytest.mark.parametrize("program", ["sigul", "bridge", "server"])
def test_a_nickname_that_is_not_in_the_database(
    configured: Callable[..., Site], program: str
) -> None:
    name = CONFIGURATION[program]
    site = configured(name, **{name: f"{name}-cert-nickname: no-such-nickname\n"})
    error = said(attempt(site, program), program)
    assert "'no-such-nickname'" in error
    assert str(site.path(NSS[name])) in error
    assert "sigul-stack pki list" in error


def without_password(site: Site, name: str) -> str:
    """Take the NSS password from a configuration; returns it."""
    line = f"nss-password-file: {site.path(NSS[name])}/nss-password\n"
    replace(site.path(f"{name}.conf"), line, "")
    return (site.path(NSS[name]) / "nss-password").read_text().strip()


def test_the_nss_password_is_asked_for_first(configured: Callable[..., Site]) -> None:
    site = configured("none")
    password = without_password(site, "client")
    with site.running():
        site.configure()
        without_password(site, "client")
        assert done(site, "list-users", secrets=[password, ADMIN]) == b"admin\n"
        dialogue = Dialogue.of_sigul(site, "list-users")
        dialogue.answer("NSS database password", password)
        dialogue.answer("Administrator's password", ADMIN)
        assert dialogue.end().endswith("\nadmin\n")
        dialogue = Dialogue.of_sigul(site, "list-users")
        dialogue.answer("NSS database password", "wrong")
        assert dialogue.end(code=1).endswith("\nProvided NSS password is incorrect\n")


@pytest.mark.parametrize("program", ["bridge", "server"])
def test_a_daemon_without_password_or_terminal_says_so(
    configured: Callable[..., Site], program: str
) -> None:
    site = configured("none")
    without_password(site, program)
    result = site.run(
        "setsid", "--wait", *module(program), "-c", str(site.path(f"{program}.conf")),
        stdin=b"", code=1,
    )  # fmt: skip
    assert "nss-password" in said(result, program)


# -------------------------------------------------------------------------------- configuration


@pytest.mark.once("our own files and settings")
@pytest.mark.parametrize(
    ("file", "section", "line", "problem"),
    [
        ("client", "client", "bridge-port: 0", "[client] bridge-port: 0 is out of range"),
        ("client", "nss", "nss-max-tls: tls9", "[nss] nss-max-tls: 'tls9' is not possible"),
        (
            "client",
            "nss",
            "nss-min-tls: tls1.3\nnss-max-tls: tls1.2",
            "[nss] nss-min-tls: tls1.3 is newer",
        ),
        ("bridge", "bridge", "server-listen-port: 70000", "[bridge] server-listen-port: 70000"),
        ("bridge", "bridge", "listen-address: not/an/address", "[bridge] listen-address"),
        ("bridge", "daemon", "unix-user: no-such-user", "there is no user 'no-such-user'"),
        ("server", "server", "workers: 0", "[server] workers: 0 is out of range"),
        ("server", "server", "signing-timeout: soon", "[server] signing-timeout: 'soon'"),
        ("server", "server", "spool-directory: /no/such", "spool-directory: '/no/such'"),
        ("server", "gnupg", "gnupg-home: /no/such", "gnupg-home: '/no/such'"),
        ("server", "keys", "keys-storage: /no/such", "keys-storage: '/no/such'"),
        ("server", "database", "database-path: /no/such/db", "database-path: '/no/such"),
        ("server", "binding", "enabled: nosuch", "[binding] enabled: there is no binding method"),
        ("server", "binding", "forced-binding-methods: nix", "the method 'nix' is not enabled"),
        ("client", "binding", "default-binding-methods: nix", "the method 'nix' is not enabled"),
        ("server", "gnupg", "gnupg-key-type: FOO", "[gnupg] gnupg-key-type: 'FOO' is no algorithm"),
        ("server", "binding", "forced-binding-methods: te st", "'te st' is no name of a binding"),
    ],
    ids=lambda value: value if ": " in value else "",
)
def test_a_value_that_cannot_be_right(
    configured: Callable[..., Site], file: str, section: str, line: str, problem: str
) -> None:
    site = configured(file)
    path = site.path(f"{file}.conf")
    option = line.partition(":")[0]
    # The later file counts, so that an option of the site's own is no repetition.
    text = re.sub(rf"^{option}:.*\n", "", path.read_text(), flags=re.MULTILINE)
    if f"[{section}]\n" in text:
        text = text.replace(f"[{section}]\n", f"[{section}]\n{line}\n")
    else:
        text += f"[{section}]\n{line}\n"
    path.write_text(text)
    program = {"client": "sigul"}.get(file, file)
    error = said(attempt(site, program), program)
    assert problem in error
    # It also says what to do.
    assert re.search(r"[;:,(] ?\w+", error.partition(problem)[2]), error


@pytest.mark.once("our own files and settings")
@pytest.mark.parametrize(
    ("program", "option"),
    [("sigul", "bridge-hostname"), ("sigul", "server-hostname"), ("server", "bridge-hostname")],
)
def test_an_option_that_has_to_be_given(
    configured: Callable[..., Site], program: str, option: str
) -> None:
    site = configured("none")
    path = site.path(f"{CONFIGURATION[program]}.conf")
    path.write_text(re.sub(rf"^{option}:.*\n", "", path.read_text(), flags=re.MULTILINE))
    error = said(attempt(site, program), program)
    assert f"{path}: [{CONFIGURATION[program]}] {option} is not set" in error


@pytest.mark.once("our own files and settings")
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_configuration_file_that_cannot_be_read(idle: Site, program: str) -> None:
    error = said(attempt(idle, program, config="no-such.conf"), program)
    assert f"{idle.path('no-such.conf')}: cannot be read: No such file" in error


@pytest.mark.once("our own files and settings")
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_configuration_file_of_another_form(idle: Site, program: str) -> None:
    idle.path("odd.conf").write_text("bridge-hostname: without a section\n")
    error = said(attempt(idle, program, config="odd.conf"), program)
    assert str(idle.path("odd.conf")) in error


@pytest.mark.once("our own files and settings")
def test_fault_17_what_a_program_does_not_know_is_named_with_its_place(
    configured: Callable[..., Site],
) -> None:
    site = configured("none")
    site.extra = {
        "client": {"client": "bridge-prot: 1\nnss-dir: /x\n", "bindings": "enabled: test\n"},
        "bridge": {"bridge": "max-file-payload-size: 1\n", "nss": "nss-min-tsl: tls1.2\n"},
        "server": {"server": "database-path: /x\n", "gnupg": "gnupg-home-dir: /x\n"},
    }
    site.configure()
    expected = {
        "client": (
            "[client] bridge-prot is unknown and ignored; did you mean bridge-port?",
            "[client] nss-dir is unknown and ignored; it belongs in section [nss]",
            "section [bindings] is unknown and ignored; did you mean [binding]?",
            "[bindings] enabled is unknown and ignored; it belongs in section [binding]",
        ),
        "bridge": (
            "[bridge] max-file-payload-size is unknown and ignored; it belongs in section"
            " [server] of server.conf",
            "[nss] nss-min-tsl is unknown and ignored; did you mean nss-min-tls?",
        ),
        "server": (
            "[server] database-path is unknown and ignored; it belongs in section [database]",
            "[gnupg] gnupg-home-dir is unknown and ignored; did you mean gnupg-home?",
        ),
    }
    with site.running() as (bridge, server):
        result = site.sigul("list-users", secrets=[ADMIN])
        assert result.stdout == b"admin\n"
        lines = result.stderr.decode().splitlines()
        assert sorted(lines) == sorted(
            f"WARNING: {site.path('client.conf')}: {text}" for text in expected["client"]
        )
        for name, process in (("bridge", bridge), ("server", server)):
            for text in expected[name]:
                assert f"WARNING [{process.popen.pid}] {site.path(f'{name}.conf')}: {text}" in (
                    process.text
                )


# ----------------------------------------------------------------- database, ports, PID files


def test_a_database_that_is_not_there_or_something_else(
    configured: Callable[..., Site], tmp_path: Path
) -> None:
    site = configured("none")
    path = site.path("server.conf")
    own = f"database-path: {site.path('server/server.sqlite')}"
    replace(path, own, f"database-path: {tmp_path}/new.sqlite")
    for program in ("server", "server_add_admin"):
        error = said(attempt(site, program), program)
        assert f"{tmp_path}/new.sqlite" in error
        assert "sigul_server_create_db" in error
        assert not (tmp_path / "new.sqlite").exists()
    (tmp_path / "new.sqlite").write_bytes(b"no database at all" * 100)
    assert f"{tmp_path}/new.sqlite" in said(attempt(site, "server"), "server")
    (tmp_path / "new.sqlite").unlink()
    with sqlite3.connect(tmp_path / "new.sqlite") as database:
        database.execute("CREATE TABLE somebody_elses (id INTEGER)")
    database.close()
    assert "not a Sigul server's database" in said(attempt(site, "server"), "server")


def test_a_database_is_not_made_over_another(idle: Site) -> None:
    before = rows(idle, "SELECT * FROM users")
    result = idle.run(*module("server_create_db"), "-c", str(idle.path("server.conf")), code=1)
    assert str(idle.path("server/server.sqlite")) in error_line(result)
    assert rows(idle, "SELECT * FROM users") == before


@pytest.mark.once("our own files and settings")
def test_an_administrator_is_added_once(idle: Site) -> None:
    command = [*module("server_add_admin"), "-c", str(idle.path("server.conf"))]
    result = idle.run(*command, "--batch", "-n", "admin", secrets=["other"], code=1)
    assert "there is a user 'admin' already" in error_line(result)
    for given, seen in ((b"pw\n", "newline"), (b"", "nothing")):
        result = idle.run(*command, "--batch", "-n", "second", stdin=given, code=1)
        assert "NUL" in error_line(result)
        assert seen in error_line(result)
    assert rows(idle, "SELECT name FROM users") == [("admin",)]
    dialogue = Dialogue(idle, *command)
    dialogue.expect("Administrator's user name: ")
    dialogue.type("second\n")
    dialogue.answer("Administrator's password", "second-pw")
    dialogue.answer("Administrator's password (again)", "second-pw")
    assert "second-pw" not in dialogue.end()
    idle.run(*command, "--batch", stdin=b"third\0third-pw\0")
    assert rows(idle, "SELECT name, admin FROM users ORDER BY 1") == [
        ("admin", 1), ("second", 1), ("third", 1),
    ]  # fmt: skip
    with sqlite3.connect(idle.path("server/server.sqlite")) as database:
        database.execute("DELETE FROM users WHERE name != 'admin'")
    database.close()


@pytest.mark.once("our own files and settings")
def test_second_daemons_are_refused_and_the_first_ones_go_on(site: Site) -> None:
    pid_directory = site.path("run")

    def start(program: str) -> list[str]:
        return [
            *module(program), "-c", str(site.path(f"{program}.conf")),
            f"--internal-pid-dir={pid_directory}",
        ]  # fmt: skip

    with site.running() as (bridge, server):
        # The same ports.
        error = said(site.run(*module("bridge"), "-c", str(site.path("bridge.conf")), code=1),
                     "bridge")  # fmt: skip
        assert f"port {site.server_port}: Address already in use" in error
        # The same PID file.
        server.stop()
        first = subprocess.Popen(start("server"), stderr=subprocess.DEVNULL, env=site.environment)
        try:
            bridge.wait_for("Server authenticated", 4)
            assert (pid_directory / "sigul_server.pid").read_text() == f"{first.pid}\n"
            error = said(site.run(*start("server"), code=1), "server")
            assert str(first.pid) in error
            assert "running" in error
            assert (pid_directory / "sigul_server.pid").read_text() == f"{first.pid}\n"
            assert done(site, "list-users", secrets=[ADMIN]) == b"admin\n"
        finally:
            first.terminate()
            assert first.wait(30) == 0
        assert list(pid_directory.iterdir()) == []


def test_a_gnupg_home_that_others_may_read_is_refused(site: Site) -> None:
    home = site.path("server/gnupg")
    home.chmod(0o755)
    (home / "gpg.conf").write_text("")
    error = said(attempt(site, "server"), "server")
    assert f"chmod 700 '{home}'" in error
    shutil.rmtree(home)
    home.mkdir(mode=0o700)
    site.start_bridge()
    site.start_server()


def test_a_gnupg_home_and_a_directory_of_keys_that_are_missing_are_made(site: Site) -> None:
    for name in ("gnupg", "keys"):
        shutil.rmtree(site.path(f"server/{name}"))
    site.start_bridge()
    site.start_server()
    for name in ("gnupg", "keys"):
        assert stat.S_IMODE(site.path(f"server/{name}").stat().st_mode) == 0o700
    for kind in ("gnupg", "ECC"):
        done(site, "new-key", kind, "--key-type", kind, secrets=[ADMIN, "k-pw"])
