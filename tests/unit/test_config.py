"""Configuration: what is read, what is refused and how it is said."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sigul_stack.config import PROGRAMS, load_bridge, load_client, load_server, read
from sigul_stack.config.bridge import BridgeSettings
from sigul_stack.config.client import ClientSettings
from sigul_stack.config.fields import Loaded
from sigul_stack.config.identity import identity
from sigul_stack.config.server import ServerSettings
from sigul_stack.config.values import relative_to
from sigul_stack.errors import ConfigurationError
from sigul_stack.protocol.versions import LATEST, VERSIONS
from sigul_stack.secret import Secret
from tests.held_data import held

CLIENT = "[client]\nbridge-hostname: bridge.example.org\nserver-hostname: server.example.org\n"
BRIDGE = "[bridge]\nserver-cn: server.example.org\n"
SERVER = "[server]\nbridge-hostname: bridge.example.org\n"

Load = Callable[[str], Loaded[ServerSettings]]


@pytest.fixture
def client(tmp_path: Path) -> Callable[..., Loaded[ClientSettings]]:
    def load(text: str, **options: str) -> Loaded[ClientSettings]:
        file = tmp_path / "client.conf"
        file.write_text(CLIENT + text)
        return load_client(file, system_directory=tmp_path / "none", **options)

    return load


@pytest.fixture
def bridge(tmp_path: Path) -> Callable[[str], Loaded[BridgeSettings]]:
    def load(text: str) -> Loaded[BridgeSettings]:
        file = tmp_path / "bridge.conf"
        file.write_text(BRIDGE + text)
        return load_bridge(file, system_directory=tmp_path / "none")

    return load


@pytest.fixture
def server(tmp_path: Path) -> Load:
    def load(text: str) -> Loaded[ServerSettings]:
        file = tmp_path / "server.conf"
        file.write_text(SERVER + text)
        return load_server(file, system_directory=tmp_path / "none")

    return load


def test_client_defaults(client: Callable[..., Loaded[ClientSettings]]) -> None:
    loaded = client("")
    settings = loaded.settings
    assert loaded.warnings == ()
    assert settings.bridge_hostname == "bridge.example.org"
    assert settings.server_hostname == "server.example.org"
    assert settings.bridge_port == 44334
    assert settings.client_cert_nickname == "sigul-client-cert"
    assert settings.user_name == pwd.getpwuid(os.getuid()).pw_name
    assert settings.passphrase_length == 128
    assert (settings.connect_timeout, settings.handshake_timeout) == (30, 30)
    assert settings.reply_timeout == 1200
    assert settings.bridge_address is None
    assert settings.nss.directory == f"sql:{Path.home()}/.sigul"
    assert settings.nss.password is None
    assert (settings.nss.min_tls, settings.nss.max_tls) == ("tls1.2", "tls1.3")
    assert settings.nss.old_ciphers is False
    assert settings.binding.enabled == ()
    assert settings.koji.koji_config is None


def test_bridge_defaults(bridge: Callable[[str], Loaded[BridgeSettings]]) -> None:
    loaded = bridge("")
    settings = loaded.settings
    assert loaded.warnings == ()
    assert (settings.client_listen_port, settings.server_listen_port) == (44334, 44333)
    assert settings.bridge_cert_nickname == "sigul-bridge-cert"
    assert settings.server_cn == ("server.example.org",)
    assert settings.listen_address == ("::", "0.0.0.0")  # noqa: S104 - a default, not bound here
    assert settings.max_rpms_payloads_size == 10737418240
    assert settings.required_fas_group is None
    assert settings.fas_user_name is None
    assert settings.fas_password is None
    assert (settings.handshake_timeout, settings.header_timeout) == (10, 10)
    assert (settings.server_wait_timeout, settings.idle_timeout) == (120, 900)
    assert (settings.close_timeout, settings.shutdown_timeout) == (10, 60)
    assert (settings.max_handshakes, settings.max_clients) == (128, 256)
    assert settings.max_waiting_servers == 64
    assert (settings.unix_user, settings.unix_group) == (None, None)
    assert settings.protocol_versions == tuple(VERSIONS)
    assert settings.server_protocol_versions == ()


def test_versions_of_the_protocol(
    bridge: Callable[[str], Loaded[BridgeSettings]], client: Callable[..., Loaded[ClientSettings]]
) -> None:
    settings = bridge(
        "protocol-versions: 1\nserver-protocol-versions: old=0, both=0 both=1, CN=x=1\n"
    ).settings
    assert settings.protocol_versions == (1,)
    assert settings.server_protocol_versions == (("old", 0), ("both", 0), ("both", 1), ("CN=x", 1))
    assert client("").settings.protocol == LATEST.number
    assert client("protocol: 0\n").settings.protocol == 0
    for wrong in ("old", "=0", "old=2", "old="):
        with pytest.raises(ConfigurationError, match="server-protocol-versions"):
            bridge(f"server-protocol-versions: {wrong}\n")
    for wrong in ("2", "0, 1", ""):
        with pytest.raises(ConfigurationError, match="protocol"):
            client(f"protocol: {wrong}\n")


def test_server_defaults(server: Load) -> None:
    loaded = server("")
    settings = loaded.settings
    (warning,) = loaded.warnings
    assert "[server] max-file-payload-size is not set" in warning
    assert (settings.max_spool_size, settings.max_spool_size_per_user) == (None, None)
    assert settings.spool_min_free is None
    assert settings.bridge_port == 44333
    assert settings.max_file_payload_size is None
    assert settings.max_memory_payload_size == 1048576
    assert settings.max_rpms_payloads_size == 10737418240
    assert settings.server_cert_nickname == "sigul-server-cert"
    assert settings.signing_timeout == 60
    assert settings.lenient_username_check is False
    assert settings.proxy_usernames == ()
    assert (settings.workers, settings.max_requests) == (None, None)
    assert settings.spool_directory is None
    assert settings.database_path == Path("/var/lib/sigul/server.sqlite")
    assert settings.database_url is None
    assert settings.gnupg_home == Path("/var/lib/sigul/gnupg")
    assert (settings.gnupg_key_type, settings.gnupg_key_length) == ("RSA", None)
    assert (settings.gnupg_subkey_type, settings.gnupg_subkey_length) == ("RSA", None)
    assert (settings.gnupg_key_usage, settings.passphrase_length) == ("sign", 64)
    assert settings.allowed_key_types == ("ECC", "RSA")
    assert settings.ecc_default_curve == "SECP256R1"
    assert (settings.rsa_key_size, settings.min_key_bits) == (2048, 2048)
    assert settings.keys_storage == Path("/var/lib/sigul/keys")
    assert settings.nss.directory == "sql:/var/lib/sigul"


def test_both_delimiters_comments_case_and_unusual_values(server: Load) -> None:
    settings = server(
        "# a comment\n; another\nBridge-Port = 5\nproxy-usernames: koji, robot\n"
        "lenient-username-check: YES\n"
        "[gnupg]\ngnupg-subkey-type:\ngnupg-home = ~/gnupg home\n"
        "[nss]\nnss-password: 100%%x:=#;y\nnss-dir: dbm:/srv/nss\n"
        "[daemon]\nunix-user:\nunix-group: 12\n"
        "[keys]\nallowed-key-types: ecc\n"
    ).settings
    assert settings.bridge_port == 5
    assert settings.proxy_usernames == ("koji", "robot")
    assert settings.lenient_username_check is True
    assert settings.gnupg_subkey_type == ""
    assert settings.gnupg_home == Path.home() / "gnupg home"
    assert settings.nss.password == Secret("100%%x:=#;y")
    assert settings.nss.directory == "dbm:/srv/nss"
    assert (settings.unix_user, settings.unix_group) == (None, "12")
    assert settings.allowed_key_types == ("ECC",)


def test_the_named_file_overrides_the_system_file(tmp_path: Path) -> None:
    system = tmp_path / "etc"
    system.mkdir()
    (system / "client.conf").write_text(CLIENT + "bridge-port: 1\npassphrase-length: 32\n")
    assert load_client(None, system_directory=system).settings.bridge_port == 1
    named = tmp_path / "own.conf"
    named.write_text("[client]\nbridge-port: 2\n")
    settings = load_client(named, system_directory=system).settings
    assert (settings.bridge_port, settings.passphrase_length) == (2, 32)
    assert settings.bridge_hostname == "bridge.example.org"


def test_default_section_stands_for_all(tmp_path: Path) -> None:
    file = tmp_path / "client.conf"
    file.write_text("[DEFAULT]\nbridge-port: 7\nno-such: 1\n" + CLIENT)
    loaded = load_client(file, system_directory=tmp_path)
    assert loaded.settings.bridge_port == 7
    assert len(loaded.warnings) == 1
    assert "[DEFAULT] no-such" in loaded.warnings[0]


def test_user_name(client: Callable[..., Loaded[ClientSettings]]) -> None:
    assert client("user-name: alice\n").settings.user_name == "alice"
    assert client("user-name: alice\n", user_name="bob").settings.user_name == "bob"


# ---------------------------------------------------------------- what a file does not know


@pytest.mark.parametrize("program", ["bridge", "server"])
def test_the_wrong_name_of_the_old_sample_files_is_warned_of(tmp_path: Path, program: str) -> None:
    """It is in use to this day; the right one's default holds."""
    file = tmp_path / f"{program}.conf"
    begin = BRIDGE if program == "bridge" else SERVER
    file.write_text(f"{begin}max-rpms-payload-size: 5\n[nss]\nnss-dir: /x\n")
    load = load_bridge if program == "bridge" else load_server
    loaded = load(file, system_directory=tmp_path / "none")
    assert (
        f"[{program}] max-rpms-payload-size is unknown and ignored; did you mean max-rpms-payloads"
        in ("\n".join(loaded.warnings))
    )
    assert loaded.settings.max_rpms_payloads_size == 10 * 1024**3


@pytest.mark.parametrize(
    ("text", "place", "cure"),
    [
        ("nss-dir: /x\n", "[client] nss-dir", "it belongs in section [nss]"),
        ("brige-port: 1\n", "[client] brige-port", "did you mean bridge-port?"),
        ("[nss]\nnss_password: x\n", "[nss] nss_password", "did you mean nss-password?"),
        ("workers: 1\n", "[client] workers", "it belongs in section [server] of server.conf"),
        ("[koji]\nrequired-fas-group-x: g\n", "[koji] required-fas-group-x", "of bridge.conf"),
        ("[nss]\nbridge-prt: 1\n", "[nss] bridge-prt", "did you mean bridge-port of section"),
        ("zzzzzz: 1\n", "[client] zzzzzz", "correct its name or remove it"),
        ("[bridge]\nx: 1\n", "section [bridge]", "it belongs in bridge.conf"),
        ("[bindings]\nx: 1\n", "section [bindings]", "did you mean [binding]?"),
        ("[zzzzz]\n", "section [zzzzz]", "the sections here are [binding], [client], [koji]"),
        ("[bindings]\nenabled: test\n", "[bindings] enabled", "it belongs in section [binding]"),
    ],
)
def test_fault_17_a_misplaced_option_is_named_with_its_place(
    client: Callable[..., Loaded[ClientSettings]], tmp_path: Path, text: str, place: str, cure: str
) -> None:
    warnings = [w for w in client(text).warnings if place in w]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"{tmp_path}/client.conf: ")
    assert cure in warnings[0]


def test_a_warning_never_shows_a_value(client: Callable[..., Loaded[ClientSettings]]) -> None:
    loaded = client("nss-password: hidden\nnss-pasword: hidden\n[nope]\nx: hidden\n")
    assert len(loaded.warnings) == 3
    assert "hidden" not in "".join(loaded.warnings)


def test_old_options_stay_known(bridge: Callable[[str], Loaded[BridgeSettings]]) -> None:
    loaded = bridge(
        "required-fas-group: signers\nfas-user-name: bot\nfas-password: pw\n"
        "[koji]\nkoji-config: /k\nkoji-instances: a b\nkoji-config-a: /a\n"
        "required-fas-group-b: bs\n"
    )
    assert loaded.warnings == ()
    assert loaded.settings.fas_password == Secret("pw")
    assert loaded.settings.koji.instances == ("a", "b")
    assert loaded.settings.koji.instance_configs == {"a": Path("/a")}
    assert loaded.settings.koji.required_groups == {"b": "bs"}


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_option_of_1_2_is_unknown(name: str, tmp_path: Path) -> None:
    files, warnings = read(
        PROGRAMS[name](), held("configuration-1.2", f"{name}.conf"), tmp_path / "none"
    )
    assert warnings == ()
    assert len(list(files.entries())) > 15


def test_a_server_file_of_1_2_gives_no_warning(tmp_path: Path) -> None:
    file = tmp_path / "server.conf"
    text = held("configuration-1.2", "server.conf").read_text()
    # Its PKCS#11 library is looked for where the tests run.
    file.write_text(text[: text.index("[binding]")])
    assert load_server(file, system_directory=tmp_path / "none").warnings == ()


def test_a_bridge_without_server_cn_warns(tmp_path: Path) -> None:
    file = tmp_path / "bridge.conf"
    file.write_text("[bridge]\n")
    loaded = load_bridge(file, system_directory=tmp_path / "none")
    assert loaded.settings.server_cn == ()
    assert len(loaded.warnings) == 1
    assert "server-cn is not set" in loaded.warnings[0]


# ------------------------------------------------------------------- what cannot be right


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("bridge-port: 0\n", "[server] bridge-port", "0 is out of range"),
        ("bridge-port: 65536\n", "[server] bridge-port", "from 1 to 65535"),
        ("bridge-port: http\n", "[server] bridge-port", "'http' is not a number"),
        ("bridge-port: -1\n", "[server] bridge-port", "'-1' is not a number"),
        ("bridge-address: a:b\n", "[server] bridge-address", "neither a host name nor an IP"),
        ("bridge-address: a b\n", "[server] bridge-address", "is not a host name"),
        ("lenient-username-check: maybe\n", "[server] lenient-username-check", "write `yes` or"),
        ("signing-timeout: 0\n", "[server] signing-timeout", "out of range"),
        ("signing-timeout: nan\n", "[server] signing-timeout", "out of range"),
        ("signing-timeout: 5s\n", "[server] signing-timeout", "without a unit"),
        ("workers: 0\n", "[server] workers", "from 1 to 1024"),
        ("protocol-versions:\n", "[server] protocol-versions", "name at least one version"),
        ("protocol-versions: 1, 2\n", "[server] protocol-versions", "'2' is no version"),
        ("max-file-payload-size: 0\n", "[server] max-file-payload-size", "(bytes)"),
        ("workers:\n", "[server] workers", "'' is not a number"),
        ("protocol-versions:\n", "[server] protocol-versions", "is empty"),
        ("[nss]\nnss-min-tls: tls1.4\n", "[nss] nss-min-tls", "write one of"),
        ("[nss]\nnss-max-tls: tls1.1\n", "[nss] nss-max-tls", "tls1.2, tls1.3"),
        (
            "[nss]\nnss-min-tls: tls1.3\nnss-max-tls: tls1.2\n",
            "[nss] nss-min-tls",
            "set nss-max-tls to tls1.3",
        ),
        ("[keys]\nallowed-key-types: ECC, DSA\n", "[keys] allowed-key-types", "'DSA'"),
        ("[keys]\necc-default-curve: P-1\n", "[keys] ecc-default-curve", "SECP256R1"),
        ("[keys]\nrsa-key-size: 512\n", "[keys] rsa-key-size", "(bits)"),
        ("[gnupg]\npassphrase-length: 0\n", "[gnupg] passphrase-length", "(characters)"),
        ("[gnupg]\ngnupg-key-type: RSA\n  x\n", "[gnupg] gnupg-key-type", "GnuPG"),
        ("[gnupg]\ngnupg-key-type: FOO\n", "[gnupg] gnupg-key-type", "'FOO' is no algorithm"),
        ("[gnupg]\ngnupg-key-type: 2\n", "[gnupg] gnupg-key-type", "write RSA"),
        ("[gnupg]\ngnupg-subkey-type: FOO\n", "[gnupg] gnupg-subkey-type", "'FOO' is no"),
        (
            "[binding]\nenabled: test\nforced-binding-methods: test|nix,a=b\n",
            "[binding] forced-binding-methods",
            "'nix' is not enabled; add it to `enabled` (test)",
        ),
        (
            "[binding]\ndefault-binding-methods: test\n",
            "[binding] default-binding-methods",
            "'test' is not enabled; add it to `enabled` (which is empty)",
        ),
        ("[binding]\nforced-binding-methods-position: middle\n", "[binding] forced", "first, last"),
        ("[database]\ndatabase-path: ~nobody-here/x\n", "[database] database-path", "home"),
        (
            "[database]\ndatabase-path: /x\ndatabase-url: postgresql://u:hidden@h/d\n",
            "[database] database",
            "give one of the two",
        ),
        ("[nss]\nnss-password: hidden\nnss-password-file: /x\n", "[nss] nss-pass", "not both"),
        ("[nss]\nnss-password-file: /no/such\n", "[nss] nss-password-file", "No such file"),
    ],
)
def test_a_value_that_cannot_be_right_is_an_error(
    server: Load, tmp_path: Path, text: str, place: str, problem: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        server(text)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/server.conf: {place}")
    assert problem in message
    assert "hidden" not in message


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("bridge-port\n", "line 3: neither a [section] nor `option: value`"),
        ("bridge-port: 1\nnonsense\n", "line 4: neither a [section] nor `option: value`"),
    ],
)
def test_a_file_of_the_wrong_form(server: Load, tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        server(text)
    assert str(caught.value).startswith(f"{tmp_path}/server.conf: {problem}")


def test_a_file_without_a_section_shows_no_value(tmp_path: Path) -> None:
    file = tmp_path / "x.conf"
    file.write_text("nss-password: hidden\n")
    with pytest.raises(ConfigurationError, match="line 1: an option before any section") as caught:
        load_client(file, system_directory=tmp_path)
    assert "hidden" not in str(caught.value)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "x.conf"
    file.write_bytes(b"[client]\n\xff\n")
    with pytest.raises(ConfigurationError, match="line 2 is not UTF-8"):
        load_client(file, system_directory=tmp_path)


def test_a_missing_option_a_missing_file_and_none_at_all(tmp_path: Path) -> None:
    empty = tmp_path / "empty.conf"
    empty.write_text("")
    with pytest.raises(ConfigurationError, match=r"empty.conf: \[client\] bridge-hostname is not"):
        load_client(empty, system_directory=tmp_path)
    with pytest.raises(ConfigurationError, match=r"gone.conf: cannot be read: No such file"):
        load_client(tmp_path / "gone.conf", system_directory=tmp_path)
    with pytest.raises(ConfigurationError, match="there is no configuration"):
        load_client(None, system_directory=tmp_path)


#: Becomes a user who may not enter `closed`, which then holds what the code below is about.
STRANGER = (
    "import os, sys; from pathlib import Path\n"
    "from sigul_stack.cli.sigul import main\n"
    "from sigul_stack.config import load_bridge, load_client\n"
    "from sigul_stack.errors import ConfigurationError\n"
    "Path('closed').mkdir(mode=0)\n"
    "if os.geteuid() == 0: os.setresuid(65534, 65534, 65534)\n"
)


def as_stranger(directory: Path, code: str) -> subprocess.CompletedProcess[str]:
    directory.chmod(0o755)
    (directory / "client.conf").write_text(CLIENT)
    (directory / "bridge.conf").write_text(BRIDGE)
    return subprocess.run(
        [sys.executable, "-c", STRANGER + code], cwd=directory, timeout=60, check=False,
        capture_output=True, text=True, env={**os.environ, "HOME": str(directory / "closed")},
    )  # fmt: skip


@pytest.mark.parametrize("program", ["client", "bridge"])
def test_a_system_directory_that_may_not_be_entered_is_told(tmp_path: Path, program: str) -> None:
    done = as_stranger(
        tmp_path,
        f"closed, load = Path('closed'), load_{program}\n"
        f"print(load(Path('{program}.conf'), system_directory=closed).warnings)\n"
        "try: load(None, system_directory=closed)\n"
        "except ConfigurationError as error: print(error)\n",
    )
    assert done.returncode == 0, done.stderr
    warnings, error = done.stdout.splitlines()
    assert f"closed/{program}.conf: this user may not look for it" in warnings
    assert "'closed'" in warnings
    assert f"'closed/{program}.conf' is where this user may not look" in error


def test_a_home_that_may_not_be_entered_is_one_without_a_configuration(tmp_path: Path) -> None:
    code = "sys.exit(main([{}'list-binding-methods']))"
    done = as_stranger(tmp_path, code.format("'-c', 'client.conf', "))
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "closed").rmdir()
    done = as_stranger(tmp_path, code.format(""))
    assert done.returncode == 1
    assert done.stderr.startswith("Error: there is no configuration: "), done.stderr


def test_a_system_file_that_cannot_be_looked_at(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(
        ConfigurationError, match=r"loop/server\.conf: cannot be looked at: Too many"
    ):
        load_server(None, system_directory=tmp_path / "loop")


def test_both_ports_alike(bridge: Callable[[str], Loaded[BridgeSettings]]) -> None:
    with pytest.raises(ConfigurationError, match="44333 is the port for clients and for servers"):
        bridge("client-listen-port: 44333\n")


def test_an_old_tls_version_is_raised_to_the_floor(server: Load) -> None:
    loaded = server("max-file-payload-size: 1\n[nss]\nnss-min-tls: tls1.0\n")
    assert loaded.settings.nss.min_tls == "tls1.2"
    assert len(loaded.warnings) == 1
    assert "tls1.0 is older than Sigul allows" in loaded.warnings[0]


def test_an_ipv6_address_is_a_host(server: Load) -> None:
    assert server("bridge-address: ::1\n").settings.bridge_address == "::1"


# ------------------------------------------------------------------------------ secrets


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        (b"pw", b"pw"),
        (b"pw\n", b"pw"),
        (b"pw\r\n", b"pw"),
        (b"pw\0", b"pw"),
        (b"pw\n\n", b"pw\n"),
        (b"pw\0\n", b"pw\0"),
        (b" p\xffw ", b" p\xffw "),
        (b"", b""),
    ],
)
def test_fault_9_one_line_end_of_a_secret_file_is_no_part_of_the_secret(
    server: Load, tmp_path: Path, content: bytes, secret: bytes
) -> None:
    file = tmp_path / "nss-pw"
    file.write_bytes(content)
    assert server(f"[nss]\nnss-password-file: {file}\n").settings.nss.password == Secret(secret)


def test_a_secret_in_the_named_file_overrides_the_system_files(tmp_path: Path) -> None:
    system = tmp_path / "etc"
    system.mkdir()
    (system / "server.conf").write_text(
        SERVER + "[nss]\nnss-password: old\n[database]\ndatabase-path: /old\n"
    )
    (tmp_path / "pw").write_text("new\n")
    named = tmp_path / "server.conf"
    named.write_text(
        f"[nss]\nnss-password-file: {tmp_path}/pw\n"
        "[database]\ndatabase-url: postgresql://sigul:pw@db/sigul\n"
    )
    settings = load_server(named, system_directory=system).settings
    assert settings.nss.password == Secret("new")
    assert settings.database_url == Secret("postgresql://sigul:pw@db/sigul")
    named.write_text("[database]\ndatabase-path: /new\n")
    (system / "server.conf").write_text(SERVER + "[database]\ndatabase-url: sqlite:///old\n")
    settings = load_server(named, system_directory=system).settings
    assert (settings.database_path, settings.database_url) == (Path("/new"), None)


def test_an_empty_password_is_a_password(server: Load) -> None:
    assert server("[nss]\nnss-password:\n").settings.nss.password == Secret("")


def test_settings_never_show_their_secrets(server: Load) -> None:
    settings = server(
        "[nss]\nnss-password: hidden\n[database]\ndatabase-url: sqlite:///hidden\n"
        "[binding]\npkcs11_token_pin: hidden\n"
    ).settings
    assert "hidden" not in repr(settings)


# ---------------------------------------------------------------------------- bindings


def test_binding(server: Load, tmp_path: Path) -> None:
    (tmp_path / "pin").write_text("4321\n")
    loaded = server(
        "max-file-payload-size: 1\n[binding]\nenabled: test, pkcs11\n"
        "forced-binding-methods: pkcs11,token=a|test\n    test,may_unbind=1\n"
        "forced-binding-methods-position: last\ndefault-binding-methods:\n    test\n"
        "pkcs11_tokens: a,b\npkcs11_A_pubkey: /a.pem\npkcs11_a_pin: 1234\n"
        f"pkcs11_b_pin-file: {tmp_path}/pin\n"
    )
    assert loaded.warnings == ()
    binding = loaded.settings.binding
    assert binding.enabled == ("test", "pkcs11")
    assert binding.forced == ("pkcs11,token=a|test", "test,may_unbind=1")
    assert binding.forced_first is False
    assert binding.default == ("test",)
    assert binding.parameters == {"pkcs11_tokens": "a,b", "pkcs11_a_pubkey": "/a.pem"}
    assert binding.secrets == {"pkcs11_a_pin": Secret("1234"), "pkcs11_b_pin": Secret("4321")}


@pytest.mark.parametrize("name", ["RSA", "dsa", "ELG-E", "1", "22", "EdDSA", "Ed25519", "nistp521"])
def test_algorithms_of_gnupg(server: Load, name: str) -> None:
    settings = server(f"[gnupg]\ngnupg-key-type: {name}\ngnupg-subkey-type: {name}\n").settings
    assert (settings.gnupg_key_type, settings.gnupg_subkey_type) == (name, name)


def test_a_client_does_not_start_with_a_method_that_is_not_enabled(
    client: Callable[..., Loaded[ClientSettings]],
) -> None:
    with pytest.raises(ConfigurationError, match="'nix' is not enabled"):
        client("[binding]\nenabled: test\nforced-binding-methods: nix\n")


def test_a_file_that_a_binding_method_needs_is_made_absolute(server: Load) -> None:
    text = "[binding]\npkcs11_tokens: a\npkcs11_a_pubkey: a.pem\n"
    assert server(text).settings.binding.parameters == {
        "pkcs11_tokens": "a",
        "pkcs11_a_pubkey": str(Path("a.pem").absolute()),
    }
    with relative_to(Path("/elsewhere")):
        assert server(text).settings.binding.parameters["pkcs11_a_pubkey"] == "/elsewhere/a.pem"


# ----------------------------------------------------------------- options without effect


@pytest.mark.parametrize(
    ("text", "option", "why"),
    [
        ("[keys]\nallowed-key-types: RSA\necc-default-curve: SECP384R1\n",
         "ecc-default-curve", "does not list ECC"),
        ("[keys]\nallowed-key-types: ECC\nrsa-key-size: 4096\n", "rsa-key-size",
         "does not list RSA"),
        ("lenient-username-check: yes\nproxy-usernames: bob\n", "proxy-usernames",
         "any certificate may speak"),
        ("[binding]\nforced-binding-methods-position: last\n",
         "forced-binding-methods-position", "there are no forced-binding-methods"),
        ("[binding]\nenabled: test\ntpm_tcti: device\n", "tpm_tcti", "tpm is not enabled"),
    ],
)  # fmt: skip
def test_options_of_a_server_without_effect(server: Load, text: str, option: str, why: str) -> None:
    (warning,) = [found for found in server(text).warnings if "has no effect" in found]
    assert f"{option} has no effect: " in warning
    assert why in warning


@pytest.mark.parametrize(
    ("text", "option", "why"),
    [
        ("[koji]\nkoji-instances: a\nkoji-config-b: /etc/b\n", "koji-config-b", "list 'b'"),
        ("[koji]\nrequired-fas-group-b: signers\n", "required-fas-group-b", "list 'b'"),
        ("fas-user-name: me\n", "fas-user-name", "no group is required"),
    ],
)
def test_options_of_a_bridge_without_effect(
    bridge: Callable[[str], Loaded[BridgeSettings]], text: str, option: str, why: str
) -> None:
    (warning,) = bridge(text).warnings
    assert f"{option} has no effect: " in warning
    assert why in warning


def test_options_with_an_effect_or_their_default_are_not_told(
    server: Load, bridge: Callable[[str], Loaded[BridgeSettings]]
) -> None:
    text = (
        "lenient-username-check: yes\nproxy-usernames:\n[keys]\nallowed-key-types: gnupg\n"
        "ecc-default-curve: SECP256R1\nrsa-key-size: 2048\n[binding]\nenabled: test tpm keyctl\n"
        "tpm_tcti: device\nkeyring_x: y\nforced-binding-methods-position: first\n"
    )
    assert not [found for found in server(text).warnings if "has no effect" in found]
    koji = "[koji]\nkoji-instances: Bee\nkoji-config-bee: /etc/b\nrequired-fas-group-Bee: g\n"
    assert bridge(koji).warnings == ()


# --------------------------------------------------------------------------- check_paths


def test_check_paths(server: Load, tmp_path: Path) -> None:
    def text() -> str:
        return (
            f"spool-directory: {tmp_path}/spool\n[gnupg]\ngnupg-home: {tmp_path}/gnupg\n"
            f"[keys]\nkeys-storage: {tmp_path}/keys\n"
            f"[database]\ndatabase-path: {tmp_path}/db/server.sqlite\n"
        )

    for name in ("spool", "db", "gnupg", "keys"):
        if name in ("spool", "db"):  # the others are made, where they can be
            with pytest.raises(ConfigurationError) as caught:
                server(text()).check_paths()
            message = str(caught.value)
            assert message.startswith(f"{tmp_path}/server.conf: [")
            assert f"'{tmp_path}/{name}' does not exist; make it" in message
        (tmp_path / name).write_text("")
        with pytest.raises(ConfigurationError, match=f"/{name}' is not a directory"):
            server(text()).check_paths()
        (tmp_path / name).unlink()
        (tmp_path / name).symlink_to(name)
        with pytest.raises(ConfigurationError, match=f"/{name}' cannot be looked at: Too many"):
            server(text()).check_paths()
        (tmp_path / name).unlink()
        if name in ("spool", "db"):
            (tmp_path / name).mkdir()
    server(text()).check_paths()
    elsewhere = text().replace(f"{tmp_path}/gnupg", f"{tmp_path}/no/gnupg")
    with pytest.raises(ConfigurationError, match="/no/gnupg' does not exist"):
        server(elsewhere).check_paths()


@pytest.mark.parametrize("option", ["database-url", "database-url-file"])
def test_check_paths_of_a_database_that_is_no_file(
    server: Load, tmp_path: Path, option: str
) -> None:
    url = tmp_path / "url"
    url.write_text("postgresql://sigul@db/sigul")
    given = str(url) if option.endswith("-file") else url.read_text()
    for name in ("gnupg", "keys"):
        (tmp_path / name).mkdir()
    # The directory of database-path's default need not be there.
    server(
        f"[gnupg]\ngnupg-home: {tmp_path}/gnupg\n[keys]\nkeys-storage: {tmp_path}/keys\n"
        f"[database]\n{option}: {given}\n"
    ).check_paths()


def test_check_paths_of_defaults(bridge: Callable[[str], Loaded[BridgeSettings]]) -> None:
    bridge("").check_paths()


# ------------------------------------------------------------------------------ identity


def test_identity() -> None:
    nobody = pwd.getpwnam("nobody")
    assert identity(None, None) is None
    found = identity("nobody", None)
    assert found is not None
    assert (found.uid, found.gid) == (nobody.pw_uid, nobody.pw_gid)
    assert nobody.pw_gid in found.groups
    assert identity(str(nobody.pw_uid), None) == found
    assert identity("4123456", "4123457") is not None
    with pytest.raises(ConfigurationError, match="no user 'no-such-user'"):
        identity("no-such-user", None)
    with pytest.raises(ConfigurationError, match="no group 'no-such-group'"):
        identity("nobody", "no-such-group")
    with pytest.raises(ConfigurationError, match="set unix-group as well"):
        identity("4123456", None)
    with pytest.raises(ConfigurationError, match="no user or group has such a number"):
        identity("4294967295", "1")
