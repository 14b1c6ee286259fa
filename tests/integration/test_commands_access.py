"""The commands about who may use a key, and the bindings of passphrases, against a running site."""

from __future__ import annotations

import json
import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.site import Site

from .commands_support import (
    ADMIN,
    AUTHENTICATION,
    Dialogue,
    change_database,
    database_content,
    done,
    failure,
    gpg_in,
    misused,
    person,
    refused,
    rows,
)

pytestmark = pytest.mark.once("rights, the database and the command line")

EXISTS = "The specified object already exists"
NO_USER = "The specified user was not found"
NO_KEY = "The specified key was not found"
NO_ACCESS = "The specified user can not access this key"
ONLY_ONE = "This is the only user with access to this key"
HAS_ACCESS = "The specified user can access one or more keys"
WRONG_TYPE = "Unsupported keytype for operation"

TEST = "test,may_unbind=1"
CLOSED = "test,may_unbind=0"


def make_site(template: Site, directory: Path, binding: str = "") -> Site:
    """A site with administrator and proxy admin, whose server and client have `binding`."""
    site = Site.copy(template, directory / "site")
    section = {"binding": binding} if binding else {}
    site.extra = {"server": {"server": "proxy-usernames: admin\n", **section}, "client": section}
    site.configure()
    return site


def make_users_and_key(site: Site) -> None:
    """Users alice (a password, no administrator) and bob (none); admin's ECC key `k`."""
    done(site, "new-user", "alice", "--with-password", secrets=[ADMIN, "alice-pw"])
    done(site, "new-user", "bob", secrets=[ADMIN])
    done(site, "new-key", "k", "--key-type", "ECC", secrets=[ADMIN, "k-pw"])


@pytest.fixture(scope="module")
def running(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A running site with the method `test` enabled on both sides."""
    site = make_site(template, tmp_path_factory.mktemp("access"), "enabled: test\n")
    with site.running():
        make_users_and_key(site)
        yield site


@pytest.fixture
def key(running: Site) -> Iterator[str]:
    """The key `k`, to which only admin has access, before and after; with `k-pw`."""
    yield "k"
    change_database(
        running, "DELETE FROM key_accesses WHERE user_id !="
        " (SELECT id FROM users WHERE name = 'admin')"
    )  # fmt: skip


def envelope(site: Site, user: str) -> bytes:
    ((found,),) = rows(
        site,
        "SELECT encrypted_passphrase FROM key_accesses JOIN users ON users.id = user_id"
        " WHERE users.name = ?",
        user,
    )
    assert isinstance(found, bytes)
    return found


def content(site: Site, user: str, passphrase: str, tmp_path: Path) -> str:
    """What is in a user's envelope, opened by gpg as a 1.2 server opens it."""
    with person(tmp_path / "opener") as gpg:
        return gpg(f"--passphrase={passphrase}", "--decrypt", data=envelope(site, user)).decode()


def opens(site: Site, user: str, passphrase: str, **further: object) -> bool:
    """Whether `passphrase` gives `user` the right to the key's public part."""
    options = ["-u", user, *further.pop("options", [])]  # type: ignore[misc]
    result = site.sigul(
        "get-public-key", "k", options=options, secrets=[passphrase], code=None, **further,  # type: ignore[arg-type]
    )  # fmt: skip
    if result.returncode == 0:
        assert result.stdout.startswith(b"-----BEGIN PUBLIC KEY-----\n")
        return True
    assert result.stderr.splitlines()[-1] == b"Error: Authentication failed"
    return False


# ---------------------------------------------------------------------------- granting, revoking


def test_grant_and_revoke(running: Site, key: str) -> None:
    assert done(running, "list-key-users", key, secrets=["k-pw"]) == b"admin\n"
    assert not opens(running, "bob", "bob-k-pw")
    assert done(running, "grant-key-access", key, "bob", secrets=["k-pw", "bob-k-pw"]) == b""
    assert opens(running, "bob", "bob-k-pw")
    assert not opens(running, "bob", "k-pw")
    assert not opens(running, "admin", "bob-k-pw")
    assert done(running, "list-key-users", key, secrets=["k-pw"]) == b"admin\nbob\n"
    assert done(running, "list-key-users", "--password", key, secrets=[ADMIN]) == b"admin\nbob\n"
    assert done(running, "revoke-key-access", key, "bob", secrets=["k-pw"]) == b""
    assert not opens(running, "bob", "bob-k-pw")
    assert done(running, "list-key-users", key, secrets=["k-pw"]) == b"admin\n"


def test_granting_what_is_there_or_to_nobody(running: Site, key: str) -> None:
    before = envelope(running, "admin")
    refused(running, EXISTS, "grant-key-access", key, "admin", secrets=["k-pw", "new-pw"])
    refused(running, NO_USER, "grant-key-access", key, "nobody", secrets=["k-pw", "new-pw"])
    assert envelope(running, "admin") == before


def test_revoking_what_is_not_there_or_the_last(running: Site, key: str) -> None:
    for secrets, options in ((["k-pw"], ()), ([ADMIN], ("--password",))):
        command = ("revoke-key-access", *options, key)
        refused(running, NO_USER, *command, "nobody", secrets=secrets)
        refused(running, NO_ACCESS, *command, "bob", secrets=secrets)
        refused(running, ONLY_ONE, *command, "admin", secrets=secrets)
    assert opens(running, "admin", "k-pw")
    refused(running, HAS_ACCESS, "delete-user", "admin", secrets=[ADMIN])


def test_an_administrator_asks_for_a_key_that_is_not_there(running: Site) -> None:
    refused(running, NO_KEY, "list-key-users", "nokey", "--password", secrets=[ADMIN])
    line = failure(running, "revoke-key-access", "nokey", "bob", "--password", secrets=[ADMIN])
    assert line in (NO_ACCESS, NO_KEY)


def test_a_new_user_of_a_key_is_no_administrator_of_it(running: Site, key: str) -> None:
    done(running, "grant-key-access", key, "alice", secrets=["k-pw", "a-pw"])
    for command, secrets in (
        (["list-key-users", key], ["a-pw"]),
        (["grant-key-access", key, "bob"], ["a-pw", "b-pw"]),
        (["revoke-key-access", key, "admin"], ["a-pw"]),
        (["change-key-expiration", key], ["a-pw"]),
    ):
        refused(running, AUTHENTICATION, *command, options=["-u", "alice"], secrets=secrets)
    assert opens(running, "alice", "a-pw")


def test_key_administrators_are_made_and_unmade(running: Site, key: str) -> None:
    def info() -> bytes:
        return done(running, "key-user-info", "alice", key, secrets=[ADMIN])

    assert info() == b"No access defined\n"
    done(running, "grant-key-access", key, "alice", secrets=["k-pw", "a-pw"])
    assert info() == b"Access defined, key administrator: no\n"
    command = ("modify-key-user", "alice", key)
    assert done(running, *command, "--key-admin", "yes", secrets=[ADMIN]) == b""
    assert info() == b"Access defined, key administrator: yes\n"
    alice = ["-u", "alice"]
    assert done(running, "list-key-users", key, options=alice, secrets=["a-pw"]) == (
        b"admin\nalice\n"
    )
    done(running, "grant-key-access", key, "bob", options=alice, secrets=["a-pw", "b-pw"])
    done(running, "revoke-key-access", key, "bob", options=alice, secrets=["a-pw"])
    assert done(running, *command, secrets=[ADMIN]) == b""
    assert info() == b"Access defined, key administrator: yes\n"
    assert done(running, *command, "--key-admin", "no", secrets=[ADMIN]) == b""
    assert info() == b"Access defined, key administrator: no\n"
    refused(running, AUTHENTICATION, "list-key-users", key, options=alice, secrets=["a-pw"])


def test_modify_key_user_says_what_is_missing_in_order(running: Site, key: str) -> None:
    for command in (("key-user-info",), ("modify-key-user", "--key-admin", "yes")):
        refused(running, NO_USER, *command, "nobody", "nokey", secrets=[ADMIN])
        refused(running, NO_KEY, *command, "bob", "nokey", secrets=[ADMIN])
    refused(running, NO_ACCESS, "modify-key-user", "bob", key, "--key-admin", "yes",
            secrets=[ADMIN])  # fmt: skip


# -------------------------------------------------------------------------------------- rights

#: Every operation of this issue that a key's passphrase gives the right to.
KEY_OPERATIONS = [
    ("list-key-users", "KEY"),
    ("grant-key-access", "KEY", "bob", "b-pw"),
    ("revoke-key-access", "KEY", "admin"),
    ("get-public-key", "KEY"),
    ("change-key-expiration", "KEY"),
    ("change-passphrase", "KEY", "new-pw"),
    ("sign-text", "KEY", "/etc/hostname"),
    ("sign-data", "KEY", "/etc/hostname", "-a"),
    ("decrypt", "KEY", "/etc/hostname"),
]


#: Who has no right to a key's operations: user, key and passphrase.
STRANGERS = {
    "wrong passphrase": ("admin", "k", "wrong"),
    "unknown key": ("admin", "nokey", "k-pw"),
    "no access": ("alice", "k", "k-pw"),
    "unknown user": ("nobody", "k", "k-pw"),
}


def refuse_stranger(site: Site, command: tuple[str, ...], stranger: tuple[str, str, str]) -> None:
    user, key, passphrase = stranger
    further = [word for word in command if word.endswith("-pw")]
    arguments = [key if word == "KEY" else word for word in command if word not in further]
    before = database_content(site)
    refused(site, AUTHENTICATION, *arguments, options=["-u", user], secrets=[passphrase, *further])
    assert database_content(site) == before


@pytest.mark.parametrize("command", KEY_OPERATIONS, ids=lambda command: command[0])
def test_a_wrong_passphrase_is_refused(running: Site, key: str, command: tuple[str, ...]) -> None:
    # Every way of having no right to each operation: test_rights_timing.py.
    refuse_stranger(running, command, STRANGERS["wrong passphrase"])


@pytest.mark.parametrize("stranger", STRANGERS.values(), ids=STRANGERS.keys())
def test_who_cannot_open_the_key_is_refused(
    running: Site, key: str, stranger: tuple[str, str, str]
) -> None:
    refuse_stranger(running, ("get-public-key", "KEY"), stranger)


def test_what_signs_and_expires_is_for_openpgp_keys(running: Site, key: str) -> None:
    for command in (
        ("sign-text", key, "/etc/hostname"),
        ("sign-data", "-a", key, "/etc/hostname"),
        ("decrypt", key, "/etc/hostname"),
        ("change-key-expiration", key),
    ):
        refused(running, WRONG_TYPE, *command, secrets=["k-pw"])


def test_change_passphrase(running: Site, key: str) -> None:
    done(running, "grant-key-access", key, "alice", secrets=["k-pw", "a-pw"])
    others = envelope(running, "admin")
    result = done(
        running, "change-passphrase", key, options=["-u", "alice"], secrets=["a-pw", "b-pw"]
    )
    assert result == b""
    assert not opens(running, "alice", "a-pw")
    assert opens(running, "alice", "b-pw")
    assert envelope(running, "admin") == others


def test_secrets_are_asked_for_in_order_at_the_terminal(running: Site, key: str) -> None:
    dialogue = Dialogue.of_sigul(running, "grant-key-access", key, "bob")
    dialogue.answer("Key passphrase", "k-pw")
    dialogue.answer("Key passphrase for the new user", "bob-k-pw")
    dialogue.answer("Key passphrase for the new user (again)", "bob-k-pw")
    assert "-pw" not in dialogue.end()
    dialogue = Dialogue.of_sigul(running, "-u", "bob", "change-passphrase", key)
    dialogue.answer("Key passphrase", "bob-k-pw")
    dialogue.answer("New key passphrase", "other-pw")
    dialogue.answer("New key passphrase (again)", "other-pw")
    dialogue.end()
    assert opens(running, "bob", "other-pw")
    dialogue = Dialogue.of_sigul(running, "revoke-key-access", "--password", key, "bob")
    dialogue.answer("User password", ADMIN)
    dialogue.end()
    assert not opens(running, "bob", "other-pw")


def test_an_envelope_is_what_a_1_2_server_reads(template: Site, tmp_path: Path) -> None:
    """By a server that is started: one that is forked saves the hashing (tests/fork_server.py)."""
    site = make_site(template, tmp_path)
    site.fresh = True
    with site.running():
        done(site, "new-key", "k", "--key-type", "ECC", secrets=[ADMIN, "k-pw"])
    sealed = envelope(site, "admin")
    packets = gpg_in(
        tmp_path, "--list-packets", "--passphrase=k-pw", data=sealed
    ).stdout.decode()  # fmt: skip
    assert re.search(r":symkey enc packet: version 4, cipher 9, .*s2k 3, hash 8", packets)
    assert "count 65011712 (255)" in packets
    assert re.search(r":encrypted data packet:\n.*\n\s*mdc_method: 2", packets)
    # The key's own passphrase: random, and nobody's.
    assert re.fullmatch(r"[-_0-9A-Za-z]{64}", content(site, "admin", "k-pw", tmp_path))


# ------------------------------------------------------------------------ bindings on the server


def test_the_methods_that_are_enabled(running: Site) -> None:
    assert done(running, "list-server-binding-methods", secrets=[ADMIN]) == b"test\n"
    assert done(running, "list-binding-methods") == b"test\n"


def test_a_binding_asked_for(running: Site, key: str, tmp_path: Path) -> None:
    done(running, "grant-key-access", "-b", TEST, key, "bob", secrets=["k-pw", "b-pw"])
    ((bound),) = json.loads(content(running, "bob", "b-pw", tmp_path))
    assert (bound["method"], bound["may_unbind"]) == ("test", "1")
    assert bound["value"] == content(running, "admin", "k-pw", tmp_path)
    assert bound.keys() == {"method", "may_unbind", "value"}
    assert opens(running, "bob", "b-pw")


def test_a_binding_that_does_not_open_is_a_wrong_passphrase(running: Site, key: str) -> None:
    server = running.processes[-1]
    said = server.text.count("Failed to unbind")
    done(running, "grant-key-access", key, "bob", "--server-binding-method", CLOSED,
         secrets=["k-pw", "b-pw"])  # fmt: skip
    refused(running, AUTHENTICATION, "get-public-key", key, options=["-u", "bob"], secrets=["b-pw"])
    assert server.text.count("Failed to unbind") == said + 1
    assert (
        "Failed to unbind with any of the following: method: test, args: {'may_unbind': '0'}"
        in server.text
    )
    # With a wrong passphrase there is nothing to unbind.
    refused(running, AUTHENTICATION, "get-public-key", key, options=["-u", "bob"], secrets=["k-pw"])
    assert server.text.count("Failed to unbind") == said + 1


def test_of_alternatives_any_one_will_do(running: Site, key: str, tmp_path: Path) -> None:
    done(running, "grant-key-access", key, "bob", "-b", f"{CLOSED}|{TEST}|test",
         secrets=["k-pw", "b-pw"])  # fmt: skip
    alternatives = json.loads(content(running, "bob", "b-pw", tmp_path))
    assert [found.get("may_unbind") for found in alternatives] == ["0", "1", None]
    assert opens(running, "bob", "b-pw")


def test_layers_open_one_after_the_other(running: Site, key: str, tmp_path: Path) -> None:
    done(running, "change-passphrase", key, "-b", f"{TEST},layer=inner", "-b",
         f"{TEST},layer=outer", secrets=["k-pw", "k-pw"])  # fmt: skip
    ((outer),) = json.loads(content(running, "admin", "k-pw", tmp_path))
    ((inner),) = json.loads(outer["value"])
    assert (outer["layer"], inner["layer"]) == ("outer", "inner")
    assert opens(running, "admin", "k-pw")
    # A layer below that does not open closes the whole.
    done(running, "grant-key-access", key, "bob", "-b", CLOSED, "-b", TEST,
         secrets=["k-pw", "b-pw"])  # fmt: skip
    assert not opens(running, "bob", "b-pw")
    done(running, "change-passphrase", key, secrets=["k-pw", "k-pw"])
    assert not content(running, "admin", "k-pw", tmp_path).startswith("[")


@pytest.mark.parametrize(
    ("binding", "said"),
    [
        ("pkcs11", "binding method 'pkcs11' is not enabled"),
        ("nosuch,may_unbind=1", "binding method 'nosuch' is not enabled"),
        ("test|tpm", "binding method 'tpm' is not enabled"),
        ("test,value=x", "argument 'value' that is reserved"),
        ("test,may_unbind", "'may_unbind' is no key=value"),
        ("", "'' is no name of a binding method"),
    ],
)
def test_a_binding_that_cannot_be_made(running: Site, key: str, binding: str, said: str) -> None:
    before = rows(running, "SELECT * FROM key_accesses")
    line = failure(running, "grant-key-access", key, "bob", "-b", binding, secrets=["k-pw", "b-pw"])
    assert said in line
    assert rows(running, "SELECT * FROM key_accesses") == before


def test_forced_and_default_bindings(template: Site, tmp_path: Path) -> None:
    site = make_site(
        template,
        tmp_path,
        "enabled: test\n"
        f"forced-binding-methods: {TEST},name=forced\n"
        f"default-binding-methods: {CLOSED},name=default|{TEST},name=default\n",
    )

    def layers(user: str, passphrase: str) -> list[str]:
        text = content(site, user, passphrase, tmp_path)
        names = []
        while text.startswith("["):
            alternatives = json.loads(text)
            names.append("|".join(found["name"] for found in alternatives))
            text = alternatives[-1]["value"]
        return names

    with site.running():
        make_users_and_key(site)
        # A new key takes none but the forced ones.
        assert layers("admin", "k-pw") == ["forced"]
        done(site, "grant-key-access", "k", "alice", secrets=["k-pw", "a-pw"])
        # The outermost comes first here: what is forced first is bound first.
        assert layers("alice", "a-pw") == ["default|default", "forced"]
        done(site, "grant-key-access", "k", "bob", "-b", f"{TEST},name=asked",
             secrets=["k-pw", "b-pw"])  # fmt: skip
        assert layers("bob", "b-pw") == ["asked", "forced"]
        assert opens(site, "alice", "a-pw")
        assert opens(site, "bob", "b-pw")
        site.stop_all()
        site.extra["server"]["binding"] += "forced-binding-methods-position: last\n"
        site.configure()
        with site.running():
            done(site, "change-passphrase", "k", options=["-u", "bob"], secrets=["b-pw", "c-pw"])
            assert layers("bob", "c-pw") == ["forced", "default|default"]
            assert opens(site, "bob", "c-pw")


# ------------------------------------------------------------------------ bindings on the client


def test_a_passphrase_file_is_written_and_used(running: Site, key: str, tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    result = done(
        running, "grant-key-access", key, "bob", "-c", TEST, "-w", str(file), secrets=["k-pw"]
    )
    assert result == b""
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    ((bound),) = json.loads(file.read_bytes())
    assert (bound["method"], bound["may_unbind"]) == ("test", "1")
    assert re.fullmatch(r"[-_0-9A-Za-z]{128}", bound["value"])
    # The file stands for the passphrase, on the command line and on standard input.
    public = done(running, "get-public-key", key, options=["-u", "bob", "-f", str(file)], stdin=b"")
    assert public.startswith(b"-----BEGIN PUBLIC KEY-----\n")
    assert opens(running, "bob", bound["value"])
    # What is asked for after it still comes from standard input.
    done(
        running, "change-passphrase", key,
        options=["-u", "bob", "--passphrase-file", str(file)], secrets=["typed-pw"],
    )  # fmt: skip
    assert opens(running, "bob", "typed-pw")
    refused(
        running, AUTHENTICATION, "get-public-key", key,
        options=["-u", "bob", "-f", str(file)], stdin=b"",
    )  # fmt: skip


def test_change_passphrase_writes_a_file(running: Site, key: str, tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    done(running, "grant-key-access", key, "bob", secrets=["k-pw", "b-pw"])
    done(
        running, "change-passphrase", key, "--client-binding-method", f"{CLOSED}|{TEST}",
        "-c", TEST, "--write-passphrase-file", str(file), "-b", TEST,
        options=["-u", "bob"], secrets=["b-pw"],
    )  # fmt: skip
    assert not opens(running, "bob", "b-pw")
    ((outer),) = json.loads(file.read_bytes())
    assert [found["may_unbind"] for found in json.loads(outer["value"])] == ["0", "1"]
    assert done(running, "get-public-key", key, options=["-u", "bob", "-f", str(file)], stdin=b"")


def test_a_passphrase_file_that_is_there_is_kept(running: Site, key: str, tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    file.write_bytes(b"precious")
    line = failure(
        running, "grant-key-access", key, "bob", "-c", TEST, "-w", str(file), secrets=["k-pw"]
    )
    assert str(file) in line
    assert file.read_bytes() == b"precious"
    assert not rows(running, "SELECT 1 FROM key_accesses WHERE user_id ="
                    " (SELECT id FROM users WHERE name = 'bob')")  # fmt: skip


def test_a_refused_request_leaves_no_passphrase_file(
    running: Site, key: str, tmp_path: Path
) -> None:
    file = tmp_path / "passphrase"
    refused(
        running, AUTHENTICATION, "grant-key-access", key, "bob", "-c", TEST, "-w", str(file),
        secrets=["wrong"],
    )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_dash_w_goes_with_dash_c(running: Site, tmp_path: Path) -> None:
    assert "-c" in misused(running, "change-passphrase", "k", "-w", str(tmp_path / "file"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("policy", "words", "names"),
    [
        ("default-binding-methods: {}\n", [], ["default"]),
        ("forced-binding-methods: {}\n", [], ["forced"]),
        ("forced-binding-methods: {}\ndefault-binding-methods: {}\n", [], ["default", "forced"]),
        (
            "forced-binding-methods: {}\nforced-binding-methods-position: last\n",
            ["-c", f"{TEST},name=asked"],
            ["forced", "asked"],
        ),
    ],
)
def test_the_clients_own_forced_and_default_bindings(
    running: Site, key: str, tmp_path: Path, policy: str, words: list[str], names: list[str]
) -> None:
    file = tmp_path / "passphrase"
    layers = [f"{TEST},name={name}" for name in re.findall("(forced|default)-.*{}", policy)]
    running.extra["policy"] = {"binding": f"enabled: test\n{policy.format(*layers)}"}
    config = running.client_configuration("admin", "policy").name
    done(
        running, "grant-key-access", key, "bob", *words, "-w", str(file), secrets=["k-pw"],
        config=config,
    )  # fmt: skip
    text, found = file.read_text(), []
    while text.startswith("["):
        ((bound),) = json.loads(text)
        found.append(bound["name"])
        text = bound["value"]
    assert found == names
    assert opens(running, "bob", text)
    options = ["-u", "bob", "-f", str(file)]
    assert done(running, "get-public-key", key, options=options, stdin=b"", config=config)


@pytest.mark.parametrize(
    "said",
    [
        '[[{"may_unbind": "1"}]]', "[[{}]]", "{", "no JSON", "[[[[", '[["a"], 7]', "\x7f",
        '[[{"method": "nosuch"}]]', "",
    ],
)  # fmt: skip
def test_what_a_client_says_of_its_own_binding_never_counts(
    running: Site, key: str, said: str
) -> None:
    """Clients of 1.2 leave the methods' names out: the first case is what they send."""
    assert binds(running, key, "bob", said) == b"granted\n"
    assert opens(running, "bob", "b-pw")


#: Grants with any `client-binding`: NSS is opened in a process of its own.
BINDER = """
import sys
from pathlib import Path
from sigul_stack.client import Client
from sigul_stack.config import load_client
from sigul_stack.secret import Secret
config, key, user, said = sys.argv[1:]
Client(load_client(Path(config)).settings).call(
    "grant-key-access", {"key": key, "name": user},
    {"passphrase": Secret("k-pw"), "new-passphrase": Secret("b-pw"),
     "client-binding": Secret(said)})
print("granted")
"""


def binds(site: Site, key: str, user: str, said: str) -> bytes:
    """What comes of a grant with that `client-binding`."""
    config = str(site.path("client.conf"))
    return site.run(sys.executable, "-c", BINDER, config, key, user, said).stdout


def test_dash_c_goes_with_dash_w(running: Site, key: str) -> None:
    said = "Client-side binding requires a passphrase file"
    words = ["grant-key-access", key, "bob", "-c", TEST]
    assert said in misused(running, *words, secrets=["k-pw", "b-pw"])
    assert done(running, "list-key-users", key, secrets=["k-pw"]) == b"admin\n"
    assert said in misused(running, "change-passphrase", key, "-c", TEST, secrets=["k-pw", "x-pw"])
    assert opens(running, "admin", "k-pw")


def test_a_file_that_does_not_open(running: Site, key: str, tmp_path: Path) -> None:
    requests = running.processes[0].text.count("Client connected")
    bound = tmp_path / "bound"
    bound.write_text(json.dumps([
        {"may_unbind": "0", "value": "k-pw", "method": "test"},
        {"method": "nosuch", "value": "k-pw"},
    ]))  # fmt: skip
    result = running.sigul("get-public-key", key, options=["-f", str(bound)], stdin=b"", code=1)
    lines = result.stderr.decode().splitlines()
    assert lines[0] == (
        "WARNING: Failed to unbind with any of the following: method: test,"
        " args: {'may_unbind': '0'}, method: nosuch, args: {}"
    )
    assert lines[1] == "Unable to unbind the passphrase on the client"
    assert len(lines) == 3  # the last one says why
    assert "k-pw" not in result.stderr.decode()
    assert running.processes[0].text.count("Client connected") == requests


def test_an_unbound_file_is_refused(running: Site, key: str, tmp_path: Path) -> None:
    unbound = tmp_path / "unbound"
    unbound.write_text("k-pw\n")
    refused(
        running, "Passphrase file is unbound!", "get-public-key", key,
        options=["-f", str(unbound)], stdin=b"",
    )  # fmt: skip
    unbound.write_text("\n")
    empty = running.sigul(
        "get-public-key", key, options=["-f", str(unbound)], stdin=b"", code=1
    ).stderr.decode()
    assert empty == f"Passphrase file is unbound!\n'{unbound}' is empty\n"
    line = failure(
        running, "get-public-key", key, options=["-f", str(tmp_path / "missing")], stdin=b""
    )
    assert str(tmp_path / "missing") in line


def test_a_file_with_a_single_object_stands_for_a_list_of_one(
    running: Site, key: str, tmp_path: Path
) -> None:
    bound = tmp_path / "bound"
    bound.write_text(json.dumps({"method": "test", "value": "k-pw", "may_unbind": "1"}))
    assert done(running, "get-public-key", key, options=["-f", str(bound)], stdin=b"")
