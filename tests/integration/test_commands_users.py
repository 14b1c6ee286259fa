"""The commands about users, and how secrets are given, against a running site."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.site import PROGRAM_SECONDS, Site, module, without_ids

from .commands_support import (
    ADMIN,
    AUTHENTICATION,
    Dialogue,
    change_database,
    database_content,
    done,
    error_line,
    failure,
    misused,
    openssl,
    refused,
    rows,
    verifies,
)

pytestmark = pytest.mark.once("rights, the database and the command line")

EXISTS = "The specified object already exists"
NO_USER = "The specified user was not found"
NO_KEY = "The specified key was not found"


@pytest.fixture(scope="module")
def running(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A running site with the users admin, alice (a password, no administrator) and bob (none).

    Any user may be named with the administrator's certificate.
    """
    site = Site.copy(template, tmp_path_factory.mktemp("users") / "site")
    site.extra = {"server": {"server": "proxy-usernames: admin\n"}}
    site.configure()
    site.client_configuration("alice", "alice")
    with site.running():
        done(site, "new-user", "alice", "--with-password", secrets=[ADMIN, "alice-pw"])
        done(site, "new-user", "bob", secrets=[ADMIN])
        yield site


@pytest.fixture
def carol(running: Site) -> Iterator[str]:
    """A user whom the test may change; gone afterwards, under whatever name."""
    stored = openssl("passwd", "-6", "-salt", "saltsaltsaltsalt", "carol-pw").strip()
    change_database(
        running, "INSERT INTO users (name, sha512_password, admin) VALUES ('carol', ?, 0)", stored
    )
    yield "carol"
    change_database(running, "DELETE FROM users WHERE name NOT IN ('admin', 'alice', 'bob')")


def user(site: Site, name: str) -> tuple[object, ...] | None:
    found = rows(site, "SELECT sha512_password, admin FROM users WHERE name = ?", name)
    return found[0] if found else None


# ------------------------------------------------------------------------------- each command


def test_list_users_prints_the_names_sorted_one_a_line(running: Site, carol: str) -> None:
    assert done(running, "list-users", secrets=[ADMIN]) == b"admin\nalice\nbob\ncarol\n"


def test_a_new_user_has_no_password_unless_one_is_asked_for(running: Site, carol: str) -> None:
    assert done(running, "new-user", "dave", secrets=[ADMIN]) == b""
    assert user(running, "dave") == (None, 0)


def test_a_new_users_password_is_stored_as_sha512_crypt(running: Site, carol: str) -> None:
    done(running, "new-user", "dave", "--with-password", secrets=[ADMIN, "dave-pw"])
    stored, admin = user(running, "dave") or (None, None)
    assert isinstance(stored, bytes)
    assert re.fullmatch(rb"\$6\$[./0-9A-Za-z]{16}\$[./0-9A-Za-z]{86}", stored)
    assert verifies("dave-pw", stored)
    assert admin == 0


def test_a_new_administrator_may_administer(running: Site, carol: str) -> None:
    assert done(running, "new-user", "--admin", "eve", secrets=[ADMIN, "eve-pw"]) == b""
    assert user(running, "eve")[1] == 1  # type: ignore[index]
    assert b"eve\n" in done(running, "list-users", options=["-u", "eve"], secrets=["eve-pw"])


def test_a_new_administrators_password_may_be_asked_for_with_both_options(
    running: Site, carol: str
) -> None:
    done(running, "new-user", "eve", "--admin", "--with-password", secrets=[ADMIN, "eve-pw"])
    assert done(
        running, "user-info", "eve", options=["--user-name", "eve"], secrets=["eve-pw"]
    ) == (b"Administrator: yes\n")


def test_names_may_hold_all_of_printable_ascii(running: Site, carol: str) -> None:
    name = 'O\'Brien "~" 100%; DROP TABLE users -- $6$'
    done(running, "new-user", name, secrets=[ADMIN])
    assert name.encode() in done(running, "list-users", secrets=[ADMIN]).splitlines()
    done(running, "delete-user", name, secrets=[ADMIN])
    assert user(running, name) is None


@pytest.mark.parametrize("name", ["jürgen", "line\nbreak", "tab\tbed", "x" * 256])
def test_names_that_the_protocol_cannot_carry_are_refused(running: Site, name: str) -> None:
    before = rows(running, "SELECT name FROM users")
    assert "name" in failure(running, "new-user", name, secrets=[ADMIN])
    assert rows(running, "SELECT name FROM users") == before


def test_the_longest_name_that_the_protocol_carries(running: Site, carol: str) -> None:
    name = "x" * 255
    done(running, "new-user", name, secrets=[ADMIN])
    assert user(running, name) == (None, 0)


def test_a_user_who_is_there_is_not_made_again(running: Site) -> None:
    before = user(running, "alice")
    refused(running, EXISTS, "new-user", "alice", secrets=[ADMIN])
    refused(running, EXISTS, "new-user", "--admin", "alice", secrets=[ADMIN, "new-pw"])
    assert user(running, "alice") == before


def test_delete_user(running: Site, carol: str) -> None:
    assert done(running, "delete-user", carol, secrets=[ADMIN]) == b""
    assert user(running, carol) is None


@pytest.mark.parametrize(("name", "answer"), [("admin", "yes"), ("alice", "no"), ("bob", "no")])
def test_user_info(running: Site, name: str, answer: str) -> None:
    assert (
        done(running, "user-info", name, secrets=[ADMIN]) == f"Administrator: {answer}\n".encode()
    )


def test_modify_user_makes_and_unmakes_administrators(running: Site, carol: str) -> None:
    assert done(running, "modify-user", carol, "--admin", "yes", secrets=[ADMIN]) == b""
    assert done(running, "user-info", carol, secrets=[ADMIN]) == b"Administrator: yes\n"
    assert done(running, "list-users", options=["-u", carol], secrets=["carol-pw"])
    assert done(running, "modify-user", "--admin=no", carol, secrets=[ADMIN]) == b""
    assert done(running, "user-info", carol, secrets=[ADMIN]) == b"Administrator: no\n"
    refused(running, AUTHENTICATION, "list-users", options=["-u", carol], secrets=["carol-pw"])


def test_modify_user_renames(running: Site, carol: str) -> None:
    before = user(running, carol)
    assert done(running, "modify-user", carol, "--new-name", "caroline", secrets=[ADMIN]) == b""
    assert user(running, carol) is None
    assert user(running, "caroline") == before
    refused(running, EXISTS, "modify-user", "caroline", "--new-name", "bob", secrets=[ADMIN])
    assert user(running, "caroline") == before


def test_modify_user_changes_the_password(running: Site, carol: str) -> None:
    done(running, "modify-user", carol, "--admin", "yes", secrets=[ADMIN])
    done(running, "modify-user", carol, "--change-password", secrets=[ADMIN, "other-pw"])
    refused(running, AUTHENTICATION, "list-users", options=["-u", carol], secrets=["carol-pw"])
    assert done(running, "list-users", options=["-u", carol], secrets=["other-pw"])


def test_modify_user_changes_all_at_once(running: Site, carol: str) -> None:
    done(
        running, "modify-user", "--new-name", "dora", "--admin", "yes", carol, "--change-password",
        secrets=[ADMIN, "dora-pw"],
    )  # fmt: skip
    assert b"dora\n" in done(running, "list-users", options=["-u", "dora"], secrets=["dora-pw"])
    assert user(running, carol) is None


def test_modify_user_without_an_option_changes_nothing(running: Site, carol: str) -> None:
    before = user(running, carol)
    assert done(running, "modify-user", carol, secrets=[ADMIN]) == b""
    assert user(running, carol) == before


@pytest.mark.parametrize(
    "arguments",
    [("delete-user",), ("user-info",), ("modify-user", "--admin", "yes"), ("modify-user",)],
    ids=" ".join,
)
def test_a_user_who_is_not_there(running: Site, arguments: tuple[str, ...]) -> None:
    refused(running, NO_USER, *arguments, "nobody", secrets=[ADMIN])


def test_key_user_info_says_what_is_missing_in_order(running: Site) -> None:
    refused(running, NO_USER, "key-user-info", "nobody", "nokey", secrets=[ADMIN])
    refused(running, NO_KEY, "key-user-info", "alice", "nokey", secrets=[ADMIN])


def test_the_servers_binding_methods_are_none_unless_enabled(running: Site) -> None:
    assert done(running, "list-server-binding-methods", secrets=[ADMIN]) == b""


# ------------------------------------------------------------------------------------- rights

#: Every operation of administrators, and the secrets it takes after the administrator's password.
ADMINISTRATION = [
    ("list-users",),
    ("new-user", "zoe"),
    ("new-user", "zoe", "--admin", "zoe-pw"),
    ("delete-user", "bob"),
    ("user-info", "bob"),
    ("modify-user", "bob", "--admin", "yes"),
    ("key-user-info", "bob", "nokey"),
    ("modify-key-user", "bob", "nokey", "--key-admin", "yes"),
    ("list-keys",),
    ("new-key", "k", "--key-type", "ECC", "k-pw"),
    ("import-key", "k", "/etc/hostname", "file-pw", "k-pw"),
    ("delete-key", "nokey"),
    ("modify-key", "nokey", "--new-name", "other"),
    ("list-server-binding-methods",),
    ("list-key-users", "nokey", "--password"),
    ("revoke-key-access", "nokey", "bob", "--password"),
    ("get-public-key", "nokey", "--password"),
]


def split(command: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """A command's arguments, and its further secrets, which end in `-pw`."""
    return (
        [word for word in command if not word.endswith("-pw")],
        [word for word in command if word.endswith("-pw")],
    )


@pytest.mark.parametrize("command", ADMINISTRATION, ids=" ".join)
def test_who_is_no_administrator_is_refused(running: Site, command: tuple[str, ...]) -> None:
    # Every way of having no right to each operation: test_rights_timing.py.
    arguments, further = split(command)
    before = database_content(running)
    for name, password in (("admin", "wrong"), ("alice", "alice-pw")):
        refused(
            running, AUTHENTICATION, *arguments,
            options=["-u", name], secrets=[password, *further],
        )  # fmt: skip
    assert database_content(running) == before


def test_an_unknown_user_is_refused(running: Site) -> None:
    for password in (ADMIN, ""):
        refused(running, AUTHENTICATION, "list-users", options=["-u", "nobody"], secrets=[password])


def test_a_user_without_a_password_has_none_that_would_do(running: Site, carol: str) -> None:
    done(running, "new-user", "frank", secrets=[ADMIN])
    done(running, "modify-user", "frank", "--admin", "yes", secrets=[ADMIN])
    for password in ("", "frank", "None"):
        refused(running, AUTHENTICATION, "list-users", options=["-u", "frank"], secrets=[password])


def test_an_empty_or_longer_password_is_wrong(running: Site) -> None:
    for password in ("", ADMIN + " ", ADMIN + "\n", ADMIN[:-1], "x" * 255):
        refused(running, AUTHENTICATION, "list-users", secrets=[password])


def test_a_certificate_speaks_for_its_own_user_alone(running: Site) -> None:
    refused(
        running, AUTHENTICATION, "list-users",
        config="alice.conf", options=["-u", "admin"], secrets=[ADMIN],
    )  # fmt: skip
    with_own = running.sigul("list-users", config="alice.conf", secrets=["alice-pw"], code=1)
    assert error_line(with_own) == AUTHENTICATION
    log = running.processes[-1].text
    assert "the certificate of 'alice' does not allow it to speak for 'admin'" in log
    assert "user 'alice' is not an administrator" in log


def test_the_log_says_which_refusal_it_was_and_no_secret(running: Site) -> None:
    refused(running, AUTHENTICATION, "list-users", secrets=["a-wrong-one"])
    refused(
        running, AUTHENTICATION, "list-users", options=["-u", "nobody"], secrets=["a-wrong-one"]
    )
    log = running.processes[-1].text
    assert "wrong password for user 'admin'" in log
    assert "user 'nobody' does not exist" in log
    assert "a-wrong-one" not in log + running.processes[0].text


# ------------------------------------------------------------------------------ secrets, batch


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        (b"", "nothing was there"),
        (b"admin-pw\n", "newline instead"),
        (b"admin-pw", "no NUL"),
        (b"\n", "newline instead"),
    ],
)
def test_a_secret_without_nul_is_explained(running: Site, given: bytes, seen: str) -> None:
    requests = running.processes[0].text.count("Client connected")
    line = error_line(running.sigul("list-users", stdin=given, code=1))
    assert "NUL" in line
    assert seen in line
    assert r"printf 'password\0' |" in line
    assert "admin-pw" not in line
    assert running.processes[0].text.count("Client connected") == requests


def test_the_second_secret_without_nul_is_named(running: Site) -> None:
    line = error_line(
        running.sigul("new-user", "zoe", "--admin", stdin=b"admin-pw\0zoe-pw\n", code=1)
    )
    assert "new user's password" in line.lower()
    assert "newline" in line
    assert user(running, "zoe") is None


def test_a_secret_may_hold_anything_but_nul(running: Site, carol: str) -> None:
    secret = "pass\nwort mit ümläuts \t'\"\\"
    done(
        running, "modify-user", carol, "--admin", "yes", "--change-password",
        secrets=[ADMIN, secret],
    )  # fmt: skip
    assert done(running, "list-users", options=["-u", carol], secrets=[secret])


@pytest.mark.parametrize("length", [255, 256])
def test_the_longest_secret(running: Site, carol: str, length: int) -> None:
    secret = "s" * length
    result = running.sigul(
        "modify-user", carol, "--change-password", secrets=[ADMIN, secret], code=length - 255
    )
    if length > 255:
        assert "255" in error_line(result)
        assert secret not in result.stderr.decode()
    else:
        assert verifies(secret, user(running, carol)[0])  # type: ignore[index, arg-type]


def test_a_new_secret_may_not_be_empty(running: Site) -> None:
    assert "empty" in failure(running, "new-user", "zoe", "--admin", secrets=[ADMIN, ""])
    assert user(running, "zoe") is None


def test_what_follows_the_secrets_is_left_for_others(running: Site) -> None:
    command = shlex.join([*module("sigul"), "--batch", "-c", str(running.path("client.conf"))])
    result = running.run(
        "sh", "-c", f"{command} list-users && cat", stdin=b"admin-pw\0for somebody else"
    )
    assert result.stdout == b"admin\nalice\nbob\nfor somebody else"


def test_secrets_are_in_no_argument_or_environment(running: Site) -> None:
    client = subprocess.Popen(
        [*module("sigul"), "--batch", "-c", str(running.path("client.conf")),
         "new-user", "zoe", "--admin"],
        stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=running.environment,
    )  # fmt: skip
    assert client.stdin is not None
    client.stdin.write(b"the-first-secret\0")
    client.stdin.flush()
    process = Path("/proc", str(client.pid))
    for name in ("cmdline", "environ"):
        assert b"the-first-secret" not in (process / name).read_bytes()
    # It still waits for the second.
    assert client.poll() is None
    _out, said = client.communicate(b"zoe-pw\0", timeout=PROGRAM_SECONDS)
    assert without_ids(said) == b"Error: Authentication failed\n"


# ------------------------------------------------------------------------ secrets, at a terminal


def test_a_password_is_asked_for_without_echo(running: Site) -> None:
    dialogue = Dialogue.of_sigul(running, "list-users")
    dialogue.answer("Administrator's password", ADMIN)
    screen = dialogue.end()
    assert screen == "Administrator's password: \nadmin\nalice\nbob\n"


def test_new_passwords_are_asked_for_twice(running: Site, carol: str) -> None:
    dialogue = Dialogue.of_sigul(running, "modify-user", carol, "--change-password")
    dialogue.answer("Administrator's password", ADMIN)
    dialogue.answer("User's new password", "once-pw")
    dialogue.answer("User's new password (again)", "twice-pw")
    dialogue.expect("not the same")
    dialogue.answer("User's new password", "third-pw")
    dialogue.answer("User's new password (again)", "third-pw")
    screen = dialogue.end()
    assert "-pw" not in screen
    assert verifies("third-pw", user(running, carol)[0])  # type: ignore[index, arg-type]


def test_new_passwords_that_never_agree_change_nothing(running: Site, carol: str) -> None:
    before = user(running, carol)
    dialogue = Dialogue.of_sigul(running, "modify-user", carol, "--change-password")
    dialogue.answer("Administrator's password", ADMIN)
    for number in range(3):
        dialogue.answer("User's new password", f"one-{number}")
        dialogue.answer("User's new password (again)", f"other-{number}")
    assert "\nError: User's new password: " in dialogue.end(code=1)
    assert user(running, carol) == before


def test_a_wrong_password_at_the_terminal(running: Site) -> None:
    dialogue = Dialogue.of_sigul(running, "list-users")
    dialogue.answer("Administrator's password", "wrong")
    screen = without_ids(dialogue.end(code=1).encode())
    assert screen.endswith(b"\nError: Authentication failed\n")


def test_interrupting_a_question_restores_the_terminal(running: Site) -> None:
    dialogue = Dialogue.of_sigul(running, "list-users")
    dialogue.expect("Administrator's password: ")
    dialogue.type("\x03")
    assert dialogue.end(code=1).endswith("Error: interrupted\n")


def test_without_a_terminal_batch_is_advised(running: Site) -> None:
    result = running.run(
        "setsid", "--wait", *module("sigul"), "-c", str(running.path("client.conf")), "list-users",
        secrets=[ADMIN], code=1,
    )  # fmt: skip
    assert "--batch" in error_line(result)


# ----------------------------------------------------------------------- the command line itself


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("no-such-command",),
        ("list-users", "extra"),
        ("list-users", "--no-such-option"),
        ("new-user",),
        ("new-user", "a", "b"),
        ("modify-user", "alice", "--admin", "perhaps"),
        ("modify-user", "alice", "--new-name"),
        ("key-user-info", "alice"),
        ("modify-key-user", "alice", "k", "--key-admin", "true"),
        ("new-key", "k", "--key-type", "DSA"),
        ("new-key", "k", "--gnupg-expire-date", "tomorrow"),
        ("new-key", "k", "--gnupg-expire-date", "2030-02-30"),
        ("change-key-expiration", "k", "--expire-date", "20300101"),
        ("change-key-expiration", "k", "--subkey", "-1"),
        ("grant-key-access", "k", "alice", "-w", "/tmp/unused"),
    ],
    ids=lambda arguments: " ".join(arguments) or "nothing",
)
def test_a_command_line_that_does_not_fit(running: Site, arguments: tuple[str, ...]) -> None:
    requests = running.processes[0].text.count("Client connected")
    misused(running, *arguments, secrets=[ADMIN])
    assert running.processes[0].text.count("Client connected") == requests


def test_a_mistyped_command_is_recognised(running: Site) -> None:
    assert "list-users" in misused(running, "list-user", secrets=[ADMIN])


def test_help_and_version_need_nothing(running: Site) -> None:
    listing = running.run(*module("sigul"), "--help-commands").stdout.decode()
    for name in (
        "list-users", "new-user", "delete-user", "user-info", "modify-user", "key-user-info",
        "modify-key-user", "list-keys", "new-key", "import-key", "delete-key", "modify-key",
        "list-key-users", "grant-key-access", "revoke-key-access", "get-public-key",
        "change-key-expiration", "change-passphrase", "sign-text", "sign-data", "decrypt",
        "list-binding-methods", "list-server-binding-methods",
    ):  # fmt: skip
        assert re.search(rf"^{name} ", listing, re.MULTILINE), name
        text = running.run(*module("sigul"), name, "--help").stdout.decode()
        assert text.startswith(f"usage: sigul {name}")
    assert re.fullmatch(r"sigul \S+\n", running.run(*module("sigul"), "--version").stdout.decode())


def test_a_protocol_version_that_nobody_knows(running: Site) -> None:
    line = failure(
        running, "list-users", options=["--internal-protocol-version=7"], secrets=[ADMIN]
    )
    assert ADMIN not in line
    assert done(running, "list-users", secrets=[ADMIN])


def test_with_dash_v_the_double_tls_can_be_followed(running: Site) -> None:
    result = running.sigul("list-users", options=["-v"], secrets=[ADMIN])
    assert result.stdout == b"admin\nalice\nbob\n"
    lines = result.stderr.decode().splitlines()
    assert "INFO: [DOUBLE_TLS] Starting TLS handshake" in lines
    assert "INFO: [DOUBLE_TLS] TLS handshake completed successfully" in lines


def test_with_dash_v_twice_nothing_stands_beside_what_scripts_compare(
    running: Site, tmp_path: Path
) -> None:
    twice = ["-v", "-v"]
    assert done(running, "list-users", secrets=[ADMIN], options=twice).startswith(b"admin\n")
    empty = tmp_path / "empty.rpm"
    empty.touch()
    zero = f"Cannot sign zero-length RPM file {empty}"
    for text, *command in (
        ("The specified user was not found", "user-info", "nobody"),
        (zero, "sign-rpm", "k", str(empty)),
    ):
        refused(running, text, *command, secrets=[ADMIN], options=twice)
    batch = ["sign-rpms", "-o", str(tmp_path / "out"), "k", str(empty)]
    said = running.sigul(*batch, secrets=[ADMIN], options=twice, code=1).stderr.decode()
    assert said == f"ERROR: Error signing {empty}: Error: {zero}\n"


def test_a_request_leaves_its_marks_in_both_logs(running: Site) -> None:
    bridge, server = running.processes[0], running.processes[-1]
    marks = {
        bridge: (
            "[BRIDGE_REQUEST] Client connected",
            "[BRIDGE_TLS] Starting TLS handshake with client",
            "[BRIDGE_TLS] Client TLS handshake completed",
            "[BRIDGE_TLS] Client authenticated with CN: 'admin'",
            "[FORWARD] forward_two_way loop completed normally",
            # Of the worker that is forked for the one that serves.
            "[BRIDGE_REQUEST] Server TCP connection accepted",
            "[BRIDGE_TLS] Starting TLS handshake with server",
            "[BRIDGE_TLS] Server TLS handshake completed",
            "[BRIDGE_TLS] Server authenticated with CN: 'sigul-server.example.org'",
            "[BRIDGE_REQUEST] Waiting for the client to connect",
        ),
        server: (
            "[DOUBLE_TLS] Starting TLS handshake",
            "[DOUBLE_TLS] TLS handshake completed successfully",
        ),
    }
    before = {mark: process.text.count(mark) for process in marks for mark in marks[process]}
    done(running, "list-users", secrets=[ADMIN])
    for process, expected in marks.items():
        for mark in expected:
            process.wait_for(mark, before[mark] + 1)
