"""The programs that prepare a site: database, first administrator, a client's certificates."""

from __future__ import annotations

import os
import pty
import pwd
import select
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)

from sigul_stack.keystore.passwords import verify_password
from sigul_stack.pki import Bundle, NSSDatabase, read_certificates
from sigul_stack.pki.leaf import Leaf
from sigul_stack.secret import Secret
from tests.held_data import held
from tests.site import fork
from tests.unit.test_database_schemas import build

pytestmark = [pytest.mark.system, pytest.mark.once("questions, files and the database")]

NSS_PASSWORD = "nss-pw"


class Machine:
    """A home and a server's configuration; runs the programs there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.home = directory / "home"
        self.home.mkdir()
        self.data = directory / "data"
        self.data.mkdir(mode=0o700)
        self.database = self.data / "server.sqlite"
        self.configuration = directory / "server.conf"
        self.nss = directory / "nss"
        shutil.copytree(held("legacy-site", "nss", "server"), self.nss)
        self.configure()

    def configure(self, extra: str = "", password: str | None = NSS_PASSWORD) -> None:
        line = f"nss-password: {password}\n" if password is not None else ""
        self.configuration.write_text(
            "[server]\nbridge-hostname: localhost\nmax-file-payload-size: 1073741824\n"
            f"[database]\ndatabase-path: {self.database}\n[nss]\nnss-dir: {self.nss}\n{line}{extra}"
        )

    def command(self, program: str, *arguments: str) -> list[str]:
        options = () if program in ("setup_client", "stack") else ("-c", str(self.configuration))
        return [sys.executable, "-m", f"sigul_stack.cli.{program}", *options, *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "HOME": str(self.home)}

    def run(
        self, program: str, *arguments: str, given: bytes = b""
    ) -> subprocess.CompletedProcess[str]:
        pipe = subprocess.PIPE
        command = self.command(program, *arguments)
        with fork(command, env=self.environment, stdin=pipe, stdout=pipe, stderr=pipe) as process:
            try:
                told = process.communicate(given, 60)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(
            command, process.returncode, *(text.decode() for text in told)
        )

    def talk(self, program: str, *arguments: str, answers: dict[str, str]) -> tuple[int, str]:
        """Run a program on a terminal of its own; each prompt that ends so gets its answer."""
        master, slave = pty.openpty()
        process = subprocess.Popen(
            ["setsid", "--ctty", *self.command(program, *arguments)],
            stdin=slave, stdout=slave, stderr=slave, env=self.environment,
        )  # fmt: skip
        os.close(slave)
        shown, left = "", dict(answers)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if not select.select([master], [], [], 0.1)[0]:
                continue
            try:
                shown += os.read(master, 1000).decode()
            except OSError:  # the terminal's last user has gone
                break
            for prompt in left:
                if shown.endswith(prompt):
                    os.write(master, left.pop(prompt).encode() + b"\n")
                    break
        os.close(master)
        code = process.wait(timeout=60)
        assert not left, f"never asked for: {left}\n{shown}"
        return code, shown.replace("\r\n", "\n")

    def users(self) -> list[tuple[str, bytes, int]]:
        with sqlite3.connect(self.database) as connection:
            found = connection.execute("SELECT name, sha512_password, admin FROM users").fetchall()
        connection.close()
        return found


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def assert_error(result: subprocess.CompletedProcess[str], text: str) -> None:
    assert result.returncode == 1, result.stderr
    assert result.stderr.startswith("Error: ")
    assert text in result.stderr
    assert result.stderr.count("\n") == 1


# ------------------------------------------------------------------------------- database


def test_create_db(machine: Machine) -> None:
    result = machine.run("server_create_db")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert machine.users() == []
    assert machine.database.stat().st_mode & 0o777 == 0o600
    before = machine.database.read_bytes()
    assert_error(machine.run("server_create_db"), "there is a database already")
    assert machine.database.read_bytes() == before


def test_create_db_without_a_configuration_or_directory(machine: Machine) -> None:
    shutil.rmtree(machine.data)
    assert_error(machine.run("server_create_db"), str(machine.database))
    machine.configuration.unlink()
    assert_error(machine.run("server_create_db"), "server.conf: cannot be read")


def test_a_misspelt_option_is_a_warning(machine: Machine) -> None:
    machine.configure("[gnupg]\ngnupg-hom: /x\n")
    result = machine.run("server_create_db")
    assert result.returncode == 0
    assert result.stderr.startswith(f"WARNING: {machine.configuration}: [gnupg] gnupg-hom is")
    assert "did you mean gnupg-home?" in result.stderr


def test_what_root_makes_belongs_to_the_servers_user(machine: Machine) -> None:
    if os.geteuid() != 0:
        # Anybody else makes it as himself.
        machine.configure("[daemon]\nunix-user: nobody\n")
        assert machine.run("server_create_db").returncode == 0
        assert machine.database.stat().st_uid == os.geteuid()
        return
    nobody = pwd.getpwnam("nobody")
    # Where the server's user gets to: pytest's own directory is for root alone.
    with tempfile.TemporaryDirectory() as place:
        data = Path(place)
        os.chown(data, nobody.pw_uid, nobody.pw_gid)
        machine.database = data / "server.sqlite"
        machine.configure("[daemon]\nunix-user: nobody\n")
        assert machine.run("server_create_db").stderr == ""
        found = machine.database.stat()
        owner = (found.st_uid, found.st_gid, found.st_mode & 0o777)
        assert owner == (nobody.pw_uid, nobody.pw_gid, 0o600)
        result = machine.run("server_add_admin", "--batch", "-n", "admin", given=b"pw\0")
        assert (result.returncode, result.stderr) == (0, "")
        assert {path.stat().st_uid for path in data.iterdir()} == {nobody.pw_uid}
        assert [name for name, _, _ in machine.users()] == ["admin"]


# --------------------------------------------------------------------------- administrator


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        (["-n", "admin"], b"pw\0rest"),
        ([], b"admin\0pw\0"),
        ([], b"admin\npw\0"),
    ],
)
def test_add_admin(machine: Machine, arguments: list[str], given: bytes) -> None:
    machine.run("server_create_db")
    result = machine.run("server_add_admin", "--batch", *arguments, given=given)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    ((name, stored, admin),) = machine.users()
    assert (name, admin) == ("admin", 1)
    assert verify_password(Secret("pw"), stored)


def test_add_admin_asks_a_person(machine: Machine) -> None:
    machine.configure(password=None)
    machine.run("server_create_db")
    code, shown = machine.talk(
        "server_add_admin",
        answers={
            "NSS database password: ": NSS_PASSWORD,
            "Administrator's user name: ": "admin",
            "Administrator's password: ": "hidden",
            "Administrator's password (again): ": "hidden",
        },
    )
    assert code == 0, shown
    assert "hidden" not in shown
    assert NSS_PASSWORD not in shown
    assert shown.index("NSS database") < shown.index("user name") < shown.index("(again)")
    assert [name for name, _, _ in machine.users()] == ["admin"]


@pytest.mark.parametrize(
    ("arguments", "given", "text"),
    [
        (["-n", "admin"], b"pw\n", "there was a newline instead"),
        (["-n", "admin"], b"\0", "must not be empty"),
        (["-n", "\N{SNOWMAN}"], b"pw\0", "is no user name"),
        (["-n", ""], b"", "Administrator's user name"),
        ([], b"", "Administrator's user name"),
    ],
)
def test_add_admin_refuses(machine: Machine, arguments: list[str], given: bytes, text: str) -> None:
    machine.run("server_create_db")
    assert_error(machine.run("server_add_admin", "--batch", *arguments, given=given), text)
    assert machine.users() == []


def test_add_admin_twice(machine: Machine) -> None:
    machine.run("server_create_db")
    machine.run("server_add_admin", "--batch", "-n", "admin", given=b"pw\0")
    result = machine.run("server_add_admin", "--batch", "-n", "admin", given=b"other\0")
    assert_error(result, "The specified object already exists: there is a user 'admin' already")
    ((_, stored, _),) = machine.users()
    assert verify_password(Secret("pw"), stored)


def test_add_admin_needs_the_nss_database_and_its_password(machine: Machine) -> None:
    machine.run("server_create_db")
    machine.configure(password="hidden")
    result = machine.run("server_add_admin", "--batch", "-n", "admin", given=b"pw\0")
    assert (result.returncode, result.stderr) == (1, "Provided NSS password is incorrect\n")
    shutil.rmtree(machine.nss)
    result = machine.run("server_add_admin", "--batch", "-n", "admin", given=b"pw\0")
    assert_error(result, f"'{machine.nss}' does not contain a valid NSS database")
    assert machine.users() == []


# ------------------------------------------------------------------------ asking for NSS's password


def asking(machine: Machine, program: str) -> list[str]:
    """Configure `program` without the NSS password; its arguments."""
    if program == "sigul":
        machine.configuration.write_text(
            "[client]\nbridge-hostname: localhost\nbridge-port: 1\nserver-hostname: localhost\n"
            f"[nss]\nnss-dir: {machine.nss}\n"
        )
        return ["list-users"]
    machine.configure(password=None)
    return [] if program == "server" else ["-n", "admin"]


@pytest.mark.parametrize("program", ["sigul", "server_add_admin"])
@pytest.mark.parametrize(
    ("given", "seen"),
    [
        (b"", "nothing was there"),
        (b"hidden\n", "there was a newline instead, as `echo password |` gives it"),
    ],
)
def test_the_nss_password_needs_its_nul(
    machine: Machine, program: str, given: bytes, seen: str
) -> None:
    words = asking(machine, program)
    result = machine.run(program, "--batch", *words, given=given)
    assert_error(result, "NSS database password: input ended before the NUL byte")
    assert seen in result.stderr
    assert r"printf 'password\0' |" in result.stderr
    assert "hidden" not in result.stderr


@pytest.mark.parametrize("program", ["sigul", "server_add_admin"])
def test_the_nss_password_is_not_given_at_the_prompt(machine: Machine, program: str) -> None:
    words = asking(machine, program)
    prompt = "NSS database password: "
    for key, error in (("\x04", "input ended before the secret did"), ("\x03", "interrupted")):
        code, shown = machine.talk(program, *words, answers={prompt: key})
        assert code == 1
        (line,) = [line for line in shown.splitlines() if "Error" in line]
        assert f"Error: {error}" in line
        assert "Traceback" not in shown
    result = machine.run(program, *words)
    assert_error(result, "there is no terminal to ask for a secret on")


def test_a_daemon_is_interrupted_at_the_prompt(machine: Machine) -> None:
    words = asking(machine, "server")
    code, shown = machine.talk("sigul_server", *words, answers={"NSS database password: ": "\x03"})
    assert (code, shown.split("\n", 1)[1].strip()) == (1, "Error: interrupted")


@pytest.mark.parametrize("password", [b"\xff\xfd", b"x" * 3000])
def test_a_password_that_nss_does_not_take_is_wrong(machine: Machine, password: bytes) -> None:
    secret = machine.directory / "password"
    secret.write_bytes(password)
    machine.configure(f"nss-password-file: {secret}\n", password=None)
    result = machine.run("server_add_admin", "--batch", "-n", "admin", given=b"pw\0")
    assert (result.returncode, result.stderr) == (1, "Provided NSS password is incorrect\n")


def test_the_dbm_prefix(machine: Machine) -> None:
    def said() -> subprocess.CompletedProcess[str]:
        return machine.run("server_add_admin", "--batch", "-n", "admin", given=b"pw\0")

    text = machine.configuration.read_text()
    machine.configuration.write_text(text.replace("nss-dir: ", "nss-dir: dbm:"))
    assert_error(said(), f"'{machine.nss}' holds a database of the current format (cert9.db)")
    assert "remove that prefix" in said().stderr
    shutil.rmtree(machine.nss)
    assert_error(said(), f"'{machine.nss}' does not contain a valid NSS database")
    machine.nss.mkdir()
    (machine.nss / "cert8.db").write_bytes(b"\0\x06\x15\x61")
    assert_error(said(), f"'{machine.nss}' holds a database of the old dbm format (cert8.db)")
    assert f"sigul-stack pki convert {machine.nss}" in said().stderr


def test_add_admin_needs_a_database(machine: Machine) -> None:
    result = machine.run("server_add_admin", "--batch", "-n", "admin", given=b"pw\0")
    assert_error(result, "sigul_server_create_db")
    assert not machine.database.exists()


# ----------------------------------------------------------------------------------- client


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The legacy site's client certificate in the files that a site's own CA may hand out."""
    directory = tmp_path_factory.mktemp("brought")
    # A copy: newer pk12util opens a database for writing even to read from it.
    shutil.copytree(held("legacy-site", "nss", "client"), directory / "nss")
    database = NSSDatabase(directory / "nss", Secret(NSS_PASSWORD))
    certificate = database.find("sigul-client-cert").certificate
    key = database.export_key("sigul-client-cert")
    authority = read_certificates(held("legacy-site", "ca.pem"))
    bundle = Bundle(Leaf(certificate, key), authority)
    assert bundle.leaf.key is not None
    locked = BestAvailableEncryption(b"file-pw")
    (directory / "both.p12").write_bytes(
        pkcs12.serialize_key_and_certificates(b"me", key, certificate, authority, locked)
    )
    public = certificate.public_bytes(Encoding.PEM)
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "cert.pem").write_bytes(public)
    (directory / "both.pem").write_bytes(public + plain)
    (directory / "locked-key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked)
    )
    shutil.copy(held("legacy-site", "ca.pem"), directory / "ca.pem")
    # Not encrypted, whatever its looks.
    (directory / "open-key.pem").write_bytes(b"this one is not ENCRYPTED\n" + plain)
    shutil.copytree(held("legacy-site", "nss", "ca"), directory / "ca")
    own = NSSDatabase(directory / "ca", Secret(NSS_PASSWORD)).export_key("my-ca")
    (directory / "ca-key.pem").write_bytes(
        own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return directory


def check(directory: Path, password: str = "new-pw", nickname: str = "sigul-client-cert") -> None:
    """The database holds the user's certificate with its key, and the CA's, nothing else."""
    held = NSSDatabase(directory, Secret(password)).certificates()
    assert sorted(item.common_name for item in held if not item.is_authority) == ["root"]
    assert [item.nickname for item in held if item.has_private_key] == [nickname]
    assert len(held) == 2
    assert directory.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        (["--certificate", "both.p12"], b"file-pw\0new-pw\0"),
        (["--certificate", "both.pem", "--ca", "ca.pem"], b"new-pw\0"),
        (
            ["--certificate", "cert.pem", "--key", "locked-key.pem", "--ca", "ca.pem"],
            b"file-pw\0new-pw\0",
        ),
    ],
)
def test_setup_client(machine: Machine, brought: Path, arguments: list[str], given: bytes) -> None:
    words = [str(brought / word) if "." in word else word for word in arguments]
    result = machine.run("setup_client", "--batch", *words, given=given)
    assert (result.returncode, result.stderr) == (0, "")
    check(machine.home / ".sigul")
    assert "certificate of root" in result.stdout
    assert f"write {machine.home}/.sigul/client.conf" in result.stdout
    assert "nss-dir" not in result.stdout


def test_setup_client_elsewhere_again_and_instead(machine: Machine, brought: Path) -> None:
    (machine.home / ".sigul").mkdir()
    (machine.home / ".sigul" / "client.conf").write_text("")
    elsewhere = machine.directory / "elsewhere"
    arguments = (
        "--batch", "--nss-dir", str(elsewhere), "--certificate", str(brought / "both.p12"),
        "--nickname", "mine",
    )  # fmt: skip
    result = machine.run("setup_client", *arguments, given=b"file-pw\0new-pw\0")
    assert result.returncode == 0
    assert result.stdout.count("\n") == 1
    check(elsewhere, nickname="mine")
    result = machine.run("setup_client", *arguments, given=b"file-pw\0new-pw\0")
    assert_error(result, "the nickname 'mine' is taken")
    # Its own option, not that of another program.
    assert "--replace (sigul-stack pki import, sigul_setup_client)" in result.stderr
    result = machine.run("setup_client", *arguments, "--replace", given=b"file-pw\0new-pw\0")
    assert result.returncode == 0, result.stderr
    check(elsewhere, nickname="mine")
    result = machine.run("setup_client", *arguments, "--replace", given=b"file-pw\0other\0")
    assert result.returncode == 1
    assert result.stderr.startswith("Provided NSS password is incorrect\nthis password does not")


def test_setup_client_asks_a_person(machine: Machine, brought: Path) -> None:
    code, shown = machine.talk(
        "setup_client",
        answers={
            "Your certificate with its key (PKCS#12 or PEM file): ": str(brought / "cert.pem"),
            "Its private key (PEM file): ": str(brought / "locked-key.pem"),
            f"Password of '{brought}/locked-key.pem': ": "file-pw",
            "The CA's certificate (PEM file): ": str(brought / "ca.pem"),
            "New NSS database password: ": "new-pw",
            "New NSS database password (again): ": "new-pw",
        },
    )
    assert code == 0, shown
    check(machine.home / ".sigul")
    assert "new-pw" not in shown
    assert "file-pw" not in shown


def test_pki_export_asks_a_person(machine: Machine, brought: Path, tmp_path: Path) -> None:
    (tmp_path / "pw").write_text(NSS_PASSWORD)
    code, shown = machine.talk(
        *("stack", "pki", "export", str(brought / "nss"), "--to", str(tmp_path / "out")),
        *("--password-file", str(tmp_path / "pw"), "--ask-key-password"),
        answers={
            "New passphrase of the exported key: ": "key-pw",
            "New passphrase of the exported key (again): ": "key-pw",
        },
    )
    assert code == 0, shown
    assert "(encrypted)" in shown
    assert "key-pw" not in shown
    pem = (tmp_path / "out/sigul-client-cert.key").read_bytes()
    assert load_pem_private_key(pem, b"key-pw")


@pytest.mark.parametrize(
    ("arguments", "given", "text"),
    [
        ([], b"", "name it with --certificate FILE"),
        (["--certificate", "cert.pem"], b"", "name it with --key FILE"),
        (["--certificate", "both.pem"], b"new-pw\0", "name it with --ca FILE"),
        (["--certificate", "none.pem"], b"", "cannot be read: No such file"),
        (["--certificate", "both.p12"], b"wrong\0new-pw\0", "cannot be opened"),
        (
            ["--certificate", "both.p12"],
            b"wrong\0new-pw\0",
            "give the right one (to sigul-stack pki import: with --pkcs12-password-file)",
        ),
        (
            ["--certificate", "ca.pem", "--key", "ca-key.pem", "--ca", "ca.pem"],
            b"new-pw\0",
            "use: sigul-stack pki import --as-ca",
        ),
        (
            ["--certificate", "cert.pem", "--key", "open-key.pem"],
            b"file-pw\0new-pw\0",
            "give no password (to sigul-stack pki import: leave --key-password-file out)",
        ),
        (["--certificate", "both.p12", "--key", "locked-key.pem"], b"", "leave --key out"),
        (["--certificate", "both.p12"], b"file-pw\0\0", "must not be empty"),
    ],
)
def test_setup_client_refuses(
    machine: Machine, brought: Path, arguments: list[str], given: bytes, text: str
) -> None:
    words = [str(brought / word) if "." in word else word for word in arguments]
    assert_error(machine.run("setup_client", "--batch", *words, given=given), text)
    assert not (machine.home / ".sigul" / "cert9.db").exists()


# ------------------------------------------------------------------------------- old layouts


def test_the_database_command_tells_of_old_layouts_and_mends_them(machine: Machine) -> None:
    build(machine.database, "v1.2 migrated twice")
    command = [sys.executable, "-m", "sigul_stack.cli.stack", "database"]

    def run(action: str) -> str:
        told = subprocess.run(
            [*command, action, "-c", str(machine.configuration)],
            env=machine.environment, capture_output=True, timeout=60, check=True,
        )  # fmt: skip
        assert told.stderr == b""
        return told.stdout.decode()

    told = run("state")
    assert told.startswith("made by a 1.2 server\nlayout: v1.2, migrated from v1.1")
    assert told.count("\nfound: ") == 3
    assert "leads to keys_v10" in told
    told = run("migrate")
    assert told.count("mended: ") == 3
    (backup,) = machine.data.glob("server.sqlite.backup-*")
    assert f"\nbackup: {backup}\nschema: made by a 1.2 server -> current\n" in told
    assert "found" not in run("state")
    assert run("migrate") == "schema: current -> current\n"
