"""The client's command line, as far as it goes without a server: table, help, secrets, refusals."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from sigul_stack.cli.commands.arguments import OUTPUT
from sigul_stack.cli.commands.execution import CommandContext, execute, read_secrets
from sigul_stack.cli.commands.parsing import parse, parser_of
from sigul_stack.cli.commands.registry import command_named, commands
from sigul_stack.cli.secret_input import SecretReader
from sigul_stack.config.client import ClientSettings
from sigul_stack.config.shared import BindingSettings, NSSSettings
from sigul_stack.errors import SigulError
from sigul_stack.protocol.operations import OPERATIONS
from tests.held_data import held
from tests.site import fork

COMMANDS = tuple(commands())

#: For each command, as 1.2 has it: an example, and the secrets in the order they are read.
ORDER: list[tuple[str, list[str]]] = [
    ("list-users", ["password"]),
    ("new-user u", ["password"]),
    ("new-user u --admin", ["password", "new_password"]),
    ("new-user --with-password u", ["password", "new_password"]),
    ("delete-user u", ["password"]),
    ("user-info u", ["password"]),
    ("modify-user u --admin no --new-name v", ["password"]),
    ("modify-user u --change-password", ["password", "new_password"]),
    ("key-user-info u k", ["password"]),
    ("modify-key-user u k --key-admin yes", ["password"]),
    ("modify-key-user u k --only all --rpm-name *", ["password"]),
    ("list-keys", ["password"]),
    ("new-key k --key-type ECC --key-admin u", ["password", "passphrase"]),
    (
        "new-key k --gnupg-name-real R --gnupg-name-comment C --gnupg-name-email E"
        " --gnupg-expire-date 2030-01-31",
        ["password", "passphrase"],
    ),
    ("import-key k f --key-type RSA --key-admin u", ["password", "passphrase", "new_passphrase"]),
    ("delete-key k", ["password"]),
    ("modify-key k --new-name l", ["password"]),
    ("list-key-users k", ["passphrase"]),
    ("list-key-users k --password", ["password"]),
    ("grant-key-access k u", ["passphrase", "new_passphrase"]),
    (
        "grant-key-access k u --only sign-rpm,sign-rpms --rpm-name a* --rpm-name b",
        ["passphrase", "new_passphrase"],
    ),
    ("grant-key-access k u -b test -b pkcs11,token=a", ["passphrase", "new_passphrase"]),
    ("grant-key-access k u -c test -w f", ["passphrase"]),
    ("revoke-key-access k u", ["passphrase"]),
    ("revoke-key-access --password k u", ["password"]),
    ("get-public-key k", ["passphrase"]),
    ("get-public-key k --password", ["password"]),
    ("change-key-expiration k", ["passphrase"]),
    ("change-key-expiration k --expire-date 2030-01-31 --subkey 1", ["passphrase"]),
    ("list-certificates k", ["passphrase"]),
    ("list-certificates k --password", ["password"]),
    ("delete-certificate k c", ["passphrase"]),
    ("delete-certificate --password k c", ["password"]),
    ("change-passphrase k", ["passphrase", "new_passphrase"]),
    ("change-passphrase k --client-binding-method test -w f", ["passphrase"]),
    ("sign-text k f", ["passphrase"]),
    ("sign-data k f -a", ["passphrase"]),
    ("sign-data k f g --output-dir d", ["passphrase"]),
    ("verify k f s", ["passphrase"]),
    ("verify --password k f", ["password"]),
    ("decrypt k f", ["passphrase"]),
    ("sign-git-tag k t", ["passphrase"]),
    ("sign-container k f r -o o", ["passphrase"]),
    ("sign-ostree k h f --commitmeta m", ["passphrase"]),
    (
        "sign-certificate i s --issuer-certificate-name r --subject-certificate-name c"
        " --validity 1y --certificate-type ca -s CN=x",
        ["passphrase"],
    ),
    ("sign-pe k c f -o o", ["passphrase"]),
    ("sign-rpm k f", ["passphrase"]),
    ("sign-rpm k f --file-signing-key i", ["passphrase", "file_signing_key_passphrase"]),
    ("sign-rpms -o d k f g", ["passphrase"]),
    ("sign-rpms k f -o d --file-signing-key i g", ["passphrase", "file_signing_key_passphrase"]),
    ("list-binding-methods", []),
    ("list-server-binding-methods", ["password"]),
]


#: What most of its command lines begin with.
CERTIFICATE = "sign-certificate i s --subject-certificate-name c --certificate-type ca"


def settings(tmp_path: Path, *enabled: str) -> ClientSettings:
    return ClientSettings(
        bridge_hostname="bridge.example.org",
        server_hostname="server.example.org",
        nss=NSSSettings(directory=f"sql:{tmp_path}"),
        binding=BindingSettings(enabled=enabled),
    )


def parsed(line: str) -> tuple[str, argparse.Namespace]:
    name, *words = line.split()
    command = command_named(name)
    assert command is not None
    return name, parse(command, words)


def read(line: str, tmp_path: Path, passphrase_file: Path | None = None) -> tuple[list[str], bytes]:
    """The secrets' names in the order in which their values came in, and what was left."""
    name, arguments = parsed(line)
    command = command_named(name)
    assert command is not None
    reader, writer = os.pipe()
    try:
        os.write(writer, b"0\x001\x002\x003\x00")
        os.close(writer)
        secrets = read_secrets(
            command,
            arguments,
            CommandContext(
                settings(tmp_path, "test"),
                SecretReader(batch=True, stdin=reader),
                passphrase_file,
            ),
        )
        rest = os.read(reader, 100)
    finally:
        os.close(reader)
    return sorted(secrets, key=lambda name: secrets[name].reveal()), rest


@pytest.mark.parametrize(("line", "names"), ORDER, ids=[line for line, _ in ORDER])
def test_secrets_are_read_in_the_tables_order(tmp_path: Path, line: str, names: list[str]) -> None:
    assert read(line, tmp_path) == (names, b"0\x001\x002\x003\x00"[2 * len(names) :])


def test_the_order_of_every_command_is_tested_here() -> None:
    assert {line.split()[0] for line, _ in ORDER} == {command.name for command in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_has_help_and_something_to_run(command: object) -> None:
    found = next(row for row in COMMANDS if row is command)
    text = " ".join(parser_of(found).format_help().split())
    assert text.isascii()
    assert text.startswith(f"usage: sigul {found.name} [-h]")
    assert found.help in text
    for argument in found.arguments:
        name = argument.names[0]
        assert (name if name.startswith("-") else name.upper().replace("_", "-")) in text
    for secret in found.secrets:
        assert secret.prompt in text
    assert callable(found.plan)


def test_each_command_is_there_once_and_has_its_operation() -> None:
    names = [command.name for command in COMMANDS]
    assert len(names) == len(set(names))
    # The client's own methods need no operation, the server's have another name on the wire, and
    # verify asks for a public key.
    on_the_wire = {*names, "list-binding-methods"} - {"list-server-binding-methods", "verify"}
    assert on_the_wire <= set(OPERATIONS)


@pytest.mark.parametrize(
    "line",
    [
        "sign-data key file -a -o out",
        "sign-data -a key -o out file",
        "sign-data key --armor file --output=out",
        "sign-data -o out -a -- key file",
    ],
)
def test_options_and_operands_may_be_mixed(line: str) -> None:
    _, arguments = parsed(line)
    assert (arguments.key, arguments.file, arguments.armor) == ("key", ["file"], True)
    assert arguments.output == Path("out")


@pytest.mark.parametrize(
    ("line", "operands"),
    [
        ("user-info -- -dash", {"user": "-dash"}),
        ("user-info -- --", {"user": "--"}),
        ("key-user-info -- -u --key", {"user": "-u", "key": "--key"}),
        ("key-user-info u -- -k", {"user": "u", "key": "-k"}),
        ("key-user-info u -- --", {"user": "u", "key": "--"}),
        ("sign-data -a k -- -a", {"key": "k", "file": ["-a"]}),
        ("sign-data --output-dir d k f -- -o --", {"key": "k", "file": ["f", "-o", "--"]}),
        ("verify k f -- -s", {"key": "k", "file": "f", "signature": "-s"}),
        ("verify k -- -f", {"key": "k", "file": "-f", "signature": None}),
    ],
)
def test_two_dashes_protect_operands_that_begin_with_one(
    line: str, operands: dict[str, object]
) -> None:
    _, arguments = parsed(line)
    assert {name: getattr(arguments, name) for name in operands} == operands


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("list-users x", "unrecognized arguments: x"),
        ("delete-user", "the following arguments are required: USER"),
        ("sign-data k", "required: FILE"),
        ("sign-data k f g", "--output-dir DIR is needed"),
        ("sign-data k f --output-dir d -o o", "give -o/--output or --output-dir"),
        ("modify-user u --admin maybe", "invalid choice: 'maybe'"),
        ("new-key k --key-type DSA", "invalid choice: 'DSA'"),
        ("new-key k --gnupg-expire-date 20300131", "not a date of the form YYYY-MM-DD"),
        ("change-key-expiration k --expire-date 2030-02-30", "not a date"),
        ("change-key-expiration k --subkey -1", "not the number of a subkey"),
        ("change-key-expiration k --subkey 0", "'0' is not the number of a subkey (1, 2"),
        ("user-info -dash", "the following arguments are required: USER"),
        ("user-info -- -dash -x", "error: unrecognized arguments: -x\n"),
        ("list-users -- --", "error: unrecognized arguments: --\n"),
        ("sign-text k f --armor", "unrecognized arguments: --armor"),
        ("grant-key-access k u -c test", "Client-side binding requires a passphrase file\n"),
        ("change-passphrase k -c test -c test -b test", "requires a passphrase file\n"),
        (f"{CERTIFICATE} --validity 0y -s CN=x", "not a number of years such as 10y"),
        (f"{CERTIFICATE} --validity 1 -s CN=x", "not a number of years such as 10y"),
        (f"{CERTIFICATE} -s CN=x", "required: --validity"),
        (f"{CERTIFICATE} --validity 1y", "give the subject, either"),
        (f"{CERTIFICATE} --validity 1y -s CN=x --subject-state S", "give the subject, either"),
    ],
)
def test_a_command_line_that_does_not_fit_exits_2(
    capsys: pytest.CaptureFixture[str], line: str, reason: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        parsed(line)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("usage: sigul ")
    assert reason in error


# ------------------------------------------------------------------------- passphrase files


def test_a_bound_passphrase_file_stands_for_the_keys_passphrase(tmp_path: Path) -> None:
    file = tmp_path / "bound"
    file.write_text('\n[{"may_unbind": "1", "value": "9", "method": "test"}]\n')
    everything = b"0\x001\x002\x003\x00"
    assert read("sign-data k f", tmp_path, file) == (["passphrase"], everything)
    assert read("grant-key-access k u", tmp_path, file) == (
        ["new_passphrase", "passphrase"],
        everything[2:],
    )
    assert read("list-key-users k --password", tmp_path, file) == (["password"], everything[2:])
    # The file signing key has a file of its own.
    assert read("sign-rpm k f --file-signing-key i", tmp_path, file) == (
        ["file_signing_key_passphrase", "passphrase"],
        everything[2:],
    )
    line = f"sign-rpms -o d k f --file-signing-key i --file-signing-key-passphrase-file {file}"
    assert read(line, tmp_path) == (["passphrase", "file_signing_key_passphrase"], everything[2:])
    # What a new key or an imported file is locked with is never the bound one.
    assert read("new-key k", tmp_path, file) == (["password", "passphrase"], everything[4:])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("plain", "Passphrase file is unbound!"),
        ("", "Passphrase file is unbound!"),
        ('[{"value": "x", "method": "test"}]', "Unable to unbind the passphrase on the client"),
        ('[{"value": "x", "method": "pkcs11"}]', "Unable to unbind the passphrase on the client"),
        ("[broken", "Unable to unbind the passphrase on the client"),
    ],
)
def test_a_passphrase_file_that_does_not_open(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "bound"
    file.write_text(content)
    with pytest.raises(SigulError) as caught:
        read("sign-data k f", tmp_path, file)
    assert str(caught.value).startswith(message)


def test_a_passphrase_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SigulError, match="cannot be read: No such file"):
        read("sign-data k f", tmp_path, tmp_path / "none")


# ---------------------------------------------------------------------- outputs that are inputs


def run_without_server(line: str, tmp_path: Path, passphrase_file: Path | None = None) -> None:
    """Run a command as far as it goes where no NSS database is."""
    name, arguments = parsed(line)
    command = command_named(name)
    assert command is not None
    nowhere, reads_nothing = settings(tmp_path / "none"), SecretReader(batch=True, stdin=-1)
    execute(command, arguments, CommandContext(nowhere, reads_nothing, passphrase_file))


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The input `file` in the current directory, with links to it."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "file"
    file.write_bytes(b"precious")
    (tmp_path / "hard").hardlink_to(file)
    (tmp_path / "symbolic").symlink_to("file")
    return file


#: A command line for each command with an input `file` and an output that is something else.
KEEPS_ITS_INPUT = [
    "sign-text k file", "sign-data k file", "sign-data -a k file", "decrypt k file",
    "sign-container k file r", "sign-ostree k h file", "sign-pe k c file",
]  # fmt: skip


def test_every_command_with_an_input_and_an_output_is_tested_here() -> None:
    found = {command.name for command in COMMANDS if OUTPUT in command.arguments}
    assert found == {line.split()[0] for line in KEEPS_ITS_INPUT}


@pytest.mark.parametrize("output", ["file", "./file", "symbolic", "hard", "../{}/file"])
@pytest.mark.parametrize("line", KEEPS_ITS_INPUT)
def test_an_output_that_is_the_input_is_refused(beside: Path, line: str, output: str) -> None:
    before = sorted(beside.parent.iterdir()), beside.stat()
    place = output.format(beside.parent.name)
    with pytest.raises(SigulError) as caught:
        run_without_server(f"{line} -o {place}", beside.parent)
    assert str(caught.value) == (
        f"writing to '{Path(place)}' would destroy 'file', which is read; nothing was changed: give"
        " -o another file"
    )
    assert (sorted(beside.parent.iterdir()), beside.stat()) == before
    # Any other place is good, as far as can be said here.
    for other in ("new", "/dev/null"):
        with pytest.raises(SigulError, match="does not contain a valid NSS database"):
            run_without_server(f"{line} -o {other}", beside.parent)


@pytest.mark.parametrize(
    "line",
    [
        "sign-data -o symbolic k other",
        "sign-rpm -o hard k other",
        "sign-rpm -o hard k other-1-2.noarch",
        "sign-rpm --file-signing-key i --file-signing-key-passphrase-file file -o hard k other",
    ],
)
def test_an_output_that_is_a_passphrase_file_is_refused(beside: Path, line: str) -> None:
    (beside.parent / "other").write_bytes(b"data")
    passphrase_file = None if "--file-signing-key-passphrase-file" in line else Path("file")
    with pytest.raises(SigulError, match="would destroy 'file', which is read"):
        run_without_server(line, beside.parent, passphrase_file)
    assert beside.read_bytes() == b"precious"


def test_rpms_are_not_signed_over_each_other(beside: Path) -> None:
    (beside.parent / "in").mkdir()
    for link in ("symbolic", "hard"):
        other = beside.parent / "in" / link
        other.write_bytes(b"another")
        with pytest.raises(SigulError) as caught:
            run_without_server(f"sign-rpms -o . k in/{link} file", beside.parent)
        assert str(caught.value) == (
            f"'in/{link}', signed, would take the place of another RPM that is to be signed:"
            f" '{link}' is a link to it; name another directory"
        )
    # An RPM's own place is no other's.
    for words in ("-o . k file", "-o in k file in/hard", "-o out k file symbolic in/hard"):
        with pytest.raises(SigulError, match="does not contain a valid NSS database"):
            run_without_server(f"sign-rpms {words}", beside.parent)
    assert beside.read_bytes() == b"precious"


# ----------------------------------------------------------------------- the program itself


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a configuration whose NSS database is the legacy site's."""
    (tmp_path / ".sigul").mkdir()
    (tmp_path / ".sigul" / "client.conf").write_text(
        "[client]\nbridge-hostname: localhost\nbridge-port: 1\nserver-hostname: localhost\n"
        f"[nss]\nnss-dir: {held('legacy-site', 'nss', 'client')}\nnss-password: nss-pw\n"
        "[binding]\nenabled: test\n"
    )
    return tmp_path


def sigul(
    home: Path, *arguments: str, given: bytes = b"", stdout: int = subprocess.PIPE
) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "sigul_stack.cli.sigul", *arguments]
    pipe, env = subprocess.PIPE, {**os.environ, "HOME": str(home)}
    with fork(command, env, home, stdin=pipe, stdout=stdout, stderr=pipe) as process:
        try:
            told = process.communicate(given, 60)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, *told)


def error_of(result: subprocess.CompletedProcess[bytes]) -> str:
    """The one line `Error: …` of a command that failed."""
    error = result.stderr.decode()
    assert result.returncode == 1, error
    assert result.stdout in (b"", None)
    assert error.startswith("Error: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.system
@pytest.mark.once("the command line")
def test_version_and_commands(home: Path) -> None:
    result = sigul(home, "--version")
    assert result.returncode == 0
    assert result.stdout.startswith(b"sigul 1.")
    result = sigul(home, "--help-commands")
    assert result.returncode == 0
    lines = result.stdout.decode().splitlines()
    assert [line.split()[0] for line in lines] == [command.name for command in COMMANDS]
    result = sigul(home, "--help")
    assert result.returncode == 0
    assert b"--internal" not in result.stdout
    result = sigul(home, "--batch", "sign-data", "--help")
    assert result.returncode == 0
    assert result.stdout.startswith(b"usage: sigul sign-data")


@pytest.mark.system
@pytest.mark.once("the command line")
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "required: COMMAND"),
        (["lst-users"], "did you mean list-users?"),
        (["zzz"], "--help-commands lists the commands"),
        (["--no-such", "list-users"], "unrecognized arguments"),
        (["list-users", "--batch"], "unrecognized arguments: --batch"),
    ],
)
def test_usage_errors(home: Path, arguments: Sequence[str], reason: str) -> None:
    result = sigul(home, *arguments)
    assert result.returncode == 2
    assert reason in result.stderr.decode()


@pytest.mark.system
@pytest.mark.once("the command line")
def test_own_binding_methods(home: Path) -> None:
    result = sigul(home, "list-binding-methods")
    assert (result.returncode, result.stdout, result.stderr) == (0, b"test\n", b"")


@pytest.mark.system
@pytest.mark.once("the command line")
@pytest.mark.parametrize("words", [["list-binding-methods"], ["--help-commands"]])
@pytest.mark.parametrize(
    ("redirection", "problem"), [(">&-", "Bad file descriptor"), (">/dev/full", "No space left")]
)
def test_an_output_that_takes_nothing(
    home: Path, redirection: str, problem: str, words: list[str]
) -> None:
    done = redirected(home, redirection, *words)
    assert problem in error_of(done)


def redirected(
    home: Path, redirection: str, *words: str, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[bytes]:
    """Run `sigul` with its standard output, or input, elsewhere."""
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" "$@" {redirection}', sys.executable, "-m",
         "sigul_stack.cli.sigul", *words],
        capture_output=True, timeout=60, check=False,
        env={**os.environ, "HOME": str(home), **variables}, cwd=cwd,
    )  # fmt: skip


@pytest.mark.system
@pytest.mark.once("the command line")
@pytest.mark.parametrize("words", [["--help"], ["--version"], ["user-info", "--help"]])
def test_help_that_nobody_takes_is_no_traceback(home: Path, words: list[str]) -> None:
    # With a buffer, so that the failure comes after argparse is done, and the exit code with it.
    done = redirected(home, ">/dev/full", *words, PYTHONUNBUFFERED="")
    assert "No space left" in error_of(done)
    done = redirected(home, ">/dev/full", *words, PYTHONUNBUFFERED="1")
    assert b"Traceback" not in done.stderr


@pytest.mark.system
@pytest.mark.once("the command line")
def test_two_dashes_before_an_operand_and_before_the_command(home: Path) -> None:
    for words in (["user-info", "--", "-dash"], ["--", "user-info", "--", "-dash"]):
        error = error_of(sigul(home, "--batch", *words))
        assert "Administrator's password" in error


@pytest.mark.system
@pytest.mark.once("the command line")
@pytest.mark.parametrize("command", [["grant-key-access", "k", "u"], ["change-passphrase", "k"]])
def test_dash_w_needs_a_layer_from_somewhere(home: Path, command: list[str]) -> None:
    result = sigul(home, "--batch", *command, "-w", "file")
    assert result.returncode == 2
    assert b"needs -c/--client-binding-method" in result.stderr
    assert result.stderr.startswith(f"usage: sigul {command[0]}".encode())
    configuration = home / ".sigul" / "client.conf"
    text = configuration.read_text()
    for name in ("forced", "default"):
        configuration.write_text(f"{text}{name}-binding-methods: test\n")
        error = error_of(sigul(home, "--batch", *command, "-w", "file"))
        assert "Key passphrase: input ended" in error


@pytest.mark.system
@pytest.mark.once("the command line")
@pytest.mark.parametrize(
    ("given", "seen"),
    [
        (b"", "nothing was there"),
        (b"hidden\n", "a newline instead"),
        (b"hidden", "text, but no NUL"),
    ],
)
def test_fault_8_a_secret_without_nul(home: Path, given: bytes, seen: str) -> None:
    error = error_of(sigul(home, "--batch", "list-users", given=given))
    assert "Administrator's password" in error
    assert seen in error
    assert r"printf 'password\0' |" in error
    assert "hidden" not in error


@pytest.mark.system
@pytest.mark.once("the command line")
def test_without_batch_and_without_a_terminal(home: Path) -> None:
    assert "no terminal" in error_of(sigul(home, "list-users", given=b"x\0"))


@pytest.mark.system
@pytest.mark.once("the command line")
def test_a_refused_connection(home: Path) -> None:
    error = error_of(sigul(home, "--batch", "list-users", given=b"x\0"))
    assert "localhost" in error


@pytest.mark.system
@pytest.mark.once("the command line")
def test_what_can_be_seen_without_a_server_comes_before_the_secrets(home: Path) -> None:
    (home / "file").write_bytes(b"data")
    for arguments, reason in (
        (["sign-data", "k", "none"], "'none' cannot be read: No such file"),
        (["sign-data", "k", "."], "'.' cannot be read: Is a directory"),
        (["sign-data", "k", "file", "-o", "none/out"], "'none/out' cannot be written"),
        (["-c", "none", "list-users"], "none: cannot be read: No such file"),
        (["sign-data", "k", "file", "-o", "file"], "writing to 'file' would destroy 'file'"),
        (["sign-rpm", "k", "/dev/stdin"], "'/dev/stdin' is a stream or device"),
    ):
        assert reason in error_of(sigul(home, "--batch", *arguments))
    assert (home / "file").read_bytes() == b"data"


@pytest.mark.system
@pytest.mark.once("the command line")
def test_standard_input_and_output_may_be_the_file(home: Path) -> None:
    """As far as can be told: what a shell has cut before is lost."""
    file = home / "file"
    file.write_bytes(b"data")
    for redirection, words in (
        (">>file", ["sign-text", "k", "file"]),
        (">>file", ["sign-text", "k", "file", "-o", "/dev/stdout"]),
        ("1<>file", ["sign-rpm", "k", "file", "-o", "/dev/stdout"]),
        ("<file", ["sign-text", "k", "/dev/stdin", "-o", "file"]),
    ):
        error = error_of(redirected(home, redirection, "--batch", *words, cwd=home))
        assert "which is read; nothing was changed" in error or "nothing can replace" in error
        assert file.read_bytes() == b"data"


@pytest.mark.system
@pytest.mark.once("the command line")
def test_an_import_that_is_too_large(home: Path) -> None:
    (home / "file").write_bytes(bytes(1024 * 1024 + 1))
    error = error_of(sigul(home, "--batch", "import-key", "k", "file", given=b"a\0b\0c\0"))
    assert "1048576 bytes" in error


@pytest.mark.system
@pytest.mark.once("the command line")
def test_no_configuration_a_wrong_one_and_a_misspelt_one(home: Path) -> None:
    configuration = home / ".sigul" / "client.conf"
    text = configuration.read_text()
    configuration.write_text(text.replace("bridge-port: 1", "bridge-port: http"))
    assert "[client] bridge-port: 'http' is not a number" in error_of(sigul(home, "list-users"))
    configuration.write_text(text.replace("bridge-port: 1", "bridge-prot: 1"))
    result = sigul(home, "list-binding-methods")
    assert result.returncode == 0
    assert result.stderr.decode().startswith(f"WARNING: {configuration}: [client] bridge-prot is")
    configuration.unlink()
    assert "client.conf" in error_of(sigul(home, "list-users"))


@pytest.mark.system
@pytest.mark.once("the command line")
def test_a_wrong_nss_password_and_no_database(home: Path) -> None:
    configuration = home / ".sigul" / "client.conf"
    text = configuration.read_text()
    configuration.write_text(text.replace("nss-pw", "hidden"))
    result = sigul(home, "--batch", "list-users", given=b"x\0")
    assert (result.returncode, result.stderr) == (1, b"Provided NSS password is incorrect\n")
    configuration.write_text(text.replace("nss-dir: ", f"nss-dir: {home}/none"))
    assert "does not contain a valid NSS database" in error_of(sigul(home, "list-users"))


@pytest.mark.system
@pytest.mark.once("the command line")
def test_an_nss_password_that_is_not_configured_comes_first(home: Path) -> None:
    configuration = home / ".sigul" / "client.conf"
    text = configuration.read_text()
    configuration.write_text(text.replace("nss-password: nss-pw\n", ""))
    result = sigul(home, "--batch", "list-users", given=b"wrong\0x\0")
    assert (result.returncode, result.stderr) == (1, b"Provided NSS password is incorrect\n")
    error = error_of(sigul(home, "--batch", "list-users", given=b"nss-pw\0"))
    assert "Administrator's password" in error


@pytest.mark.system
@pytest.mark.once("the command line")
def test_the_passphrase_file_is_read_by_the_program(home: Path) -> None:
    (home / "bound").write_text('[{"value": "hidden", "method": "test"}]')
    (home / "file").write_bytes(b"data")
    result = sigul(home, "--batch", "-f", "bound", "sign-data", "k", "file", "-o", "out")
    lines = result.stderr.decode().splitlines()
    assert result.returncode == 1
    assert lines[0] == (
        "WARNING: Failed to unbind with any of the following: method: test, args: {}"
    )
    assert lines[1] == "Unable to unbind the passphrase on the client"
    assert len(lines) == 3  # the last one says why
    assert "hidden" not in result.stderr.decode()
    assert not (home / "out").exists()
