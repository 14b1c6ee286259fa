"""The modules that a GitHub action imports: what they give, ask, and keep to themselves."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sigul_stack.cli.client_modules import ClientConfiguration, ConfigurationError
from tests.checkout import TOP

MODULES = TOP / "images/files/client/usr/share/sigul"
WORDS = "of-the-database"
TEXT = f"""\
[client]
bridge-hostname: Bridge.Example.org
bridge-port = 44444
server-hostname: server.example.org
user-name: builder
client-cert-nickname: cert-of-builder
[nss]
nss-dir = /somewhere/nss
nss-password: {WORDS}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A HOME with a client's configuration."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".sigul").mkdir()
    (tmp_path / ".sigul/client.conf").write_text(TEXT)
    return tmp_path


@pytest.fixture
def configuration(home: Path) -> Path:
    return home / ".sigul/client.conf"


def load() -> ClientConfiguration:
    return ClientConfiguration("~/.sigul/client.conf")


@pytest.mark.usefixtures("home")
def test_its_attributes() -> None:
    config = load()
    assert (config.bridge_hostname, config.bridge_port) == ("Bridge.Example.org", 44444)
    assert (config.server_hostname, config.user_name) == ("server.example.org", "builder")
    assert (config.client_cert_nickname, config.nss_dir) == ("cert-of-builder", "/somewhere/nss")
    assert WORDS not in repr(vars(config))


def test_a_missing_password_is_asked_for_by_what_is_there_then(
    configuration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refused(Exception):
        pass

    def refuse(*_: object, **__: object) -> str:
        raise Refused

    configuration.write_text(TEXT.replace(f"nss-password: {WORDS}\n", ""))
    monkeypatch.setattr(getpass, "getpass", refuse)
    with pytest.raises(Refused):
        load()
    monkeypatch.setattr(getpass, "getpass", lambda *_: "typed")
    password = load().settings.nss.password
    assert password is not None and password.reveal() == b"typed"
    configuration.write_text(TEXT.replace(WORDS, ""))
    monkeypatch.setattr(getpass, "getpass", refuse)
    assert load().settings.nss.password is not None


@pytest.mark.parametrize(
    "line",
    [
        "nss-password-file: /root/very-private/secret-of-mine",
        "nss-password-file: very-private",
        "nss-password-file: /dev/full",
    ],
)
def test_errors_tell_no_secret(configuration: Path, line: str) -> None:
    configuration.write_text(TEXT.replace(f"nss-password: {WORDS}", line))
    with pytest.raises(ConfigurationError) as caught:
        load()
    error = caught.value
    assert error.__cause__ is None and error.__context__ is None
    for word in (WORDS, "very-private", "secret-of-mine"):
        assert word not in str(error)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("server-hostname: server.example.org\n", "", "server-hostname"),
        ("44444", "444444", "bridge-port"),
        ("[client]", "client", "before any section"),
    ],
)
def test_other_errors_tell_what_is_wrong(
    configuration: Path, old: str, new: str, expected: str
) -> None:
    configuration.write_text(TEXT.replace(old, new))
    with pytest.raises(ConfigurationError, match=expected):
        load()


def test_the_second_file_may_be_missing(configuration: Path) -> None:
    configuration.unlink()
    # Here the first one is missing, too.
    with pytest.raises(ConfigurationError, match="there is no configuration"):
        load()


def test_importing_them_says_and_does_nothing(home: Path) -> None:
    """With their directory first on the path, from a directory of others, for no known user."""
    code = (
        f"import sys; sys.path.insert(0, {str(MODULES)!r})\n"
        "before = set(sys.modules)\n"
        "import client, utils\n"
        "new = set(sys.modules) - before\n"
        "assert not any(name.partition('.')[0] == 'nss' for name in new), new\n"
        "assert issubclass(utils.ConfigurationError, Exception)\n"
        "assert issubclass(utils.NSSInitError, Exception)\n"
        "import nss.nss\n"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", code], cwd=home, capture_output=True, text=True, timeout=60,
        env={"PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(MODULES.rglob("__pycache__"))


def test_no_standard_module_is_hidden() -> None:
    names = {path.stem for path in (TOP / "images/files").glob("*/usr/share/sigul/*.py")}
    assert names == {"client", "utils", "bridge", "server"}
    assert not names & sys.stdlib_module_names
