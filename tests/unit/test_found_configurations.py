"""Configurations as they are found in the field: each loads, and what is odd in it is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sigul_stack.config import PROGRAMS, load, load_bridge, load_client, load_server
from sigul_stack.config.fields import Loaded
from sigul_stack.config.tolerance import EMPTY_MEANS_ABSENT
from sigul_stack.errors import ConfigurationError
from sigul_stack.secret import Secret
from tests.held_data import held

FILES = sorted(path.name for path in held("configuration-found").glob("*.conf"))
#: What every bridge without names of servers, and every server without that limit, is told.
NO_NAMES = ("[bridge] server-cn", "is not set")
NO_LIMIT = ("[server] max-file-payload-size", "is not set")
QUOTED = "leave the quotation marks out"
EMPTY = "is empty, and taken for not set"
COMMENT = "put the comment on a line of its own"
RPMS = "did you mean max-rpms-payloads-size?"

#: Of each file: place and a part of each warning, in order.
WARNINGS: dict[str, list[tuple[str, str]]] = {
    "bridge-0.207.conf": [
        ("line 29: section [bridge]", "stands there twice"),
        ("line 30: [bridge] server-listen-port", "the last one counts"),
        ("[bridge] max-rpms-payload-size", RPMS),
        ("[nss] nss-min-tls", "tls1.0 is older than Sigul allows, tls1.2 is used"),
        ("[bridge] client-listen-port", COMMENT),
        ("[bridge] required-fas-group", QUOTED),
        NO_NAMES,
        ("[bridge] fas-user-name", "no group is required"),
        ("[bridge] fas-password", "no group is required"),
    ],
    "bridge-chart.conf": [NO_NAMES],
    "bridge-playbook.conf": [
        ("[bridge] bridge-hostname", "it belongs in section [client] of client.conf"),
        ("[logging] level", "is unknown and ignored"),
        ("[bridge] bridge-cert-nickname", EMPTY),
        ("[bridge] server-listen-port", EMPTY),
        ("[koji] koji-config", EMPTY),
        ("[nss] nss-min-tls", EMPTY),
        ("[nss] nss-max-tls", EMPTY),
        NO_NAMES,
    ],
    "bridge-puppet.conf": [
        ("[bridge] bridge_cert_nickname", "did you mean bridge-cert-nickname?"),
        ("[bridge] unix-user", "it belongs in section [daemon]"),
        ("[daemon] max-rpms-payloads-size", "it belongs in section [bridge]"),
        ("[bridge] bridge-cert-nickname", QUOTED),
        ("[bridge] client-listen-port", QUOTED),
        ("[bridge] server-listen-port", QUOTED),
        ("[nss] nss-dir", QUOTED),
        NO_NAMES,
    ],
    "client-0.207.conf": [
        ("[nss] nss-min-tls", "ssl3 is older than Sigul allows"),
        ("[client] bridge-hostname", COMMENT),
    ],
    "client-chart.conf": [],
    "client-playbook.conf": [
        ("[nss] unix-user", "it belongs in section [daemon] of bridge.conf"),
        ("[client] bridge-port", EMPTY),
        ("[client] client-cert-nickname", EMPTY),
        ("[client] user-name", EMPTY),
        ("[client] passphrase-length", EMPTY),
        ("[nss] nss-dir", EMPTY),
        ("[nss] nss-min-tls", EMPTY),
    ],
    "client-puppet.conf": [
        ("[client] user", "is unknown and ignored"),
        ("[nss] nss-passwd", "did you mean nss-password?"),
        ("[client] bridge-hostname", QUOTED),
        ("[client] server-hostname", QUOTED),
        ("[client] bridge-port", QUOTED),
        ("[client] user-name", QUOTED),
        ("[nss] nss-dir", QUOTED),
    ],
    "client-windows.conf": [],
    "server-0.207.conf": [
        ("line 5: [server] bridge-port", "the last one counts"),
        ("[server] max-rpms-payload-size", RPMS),
        ("[nss] nss-min-tls", "tls1.1 is older than Sigul allows"),
        ("[server] max-file-payload-size", COMMENT),
        ("[database] database-path", "write the file's path alone"),
    ],
    "server-chart.conf": [("[server] max-rpms-payload-size", RPMS)],
    "server-latin1.conf": [("", "a comment is not UTF-8 text; save the file as UTF-8")],
    "server-playbook.conf": [
        ("[server] client-listen-port", "it belongs in section [bridge] of bridge.conf"),
        *(
            (f"[{section}] {name}", EMPTY)
            for section, names in {
                "server": "bridge-port max-file-payload-size max-memory-payload-size"
                " lenient-username-check server-cert-nickname signing-timeout",
                "database": "database-path",
                "gnupg": "gnupg-home gnupg-key-type gnupg-key-length passphrase-length",
                "keys": "ecc-default-curve rsa-key-size keys-storage",
                "nss": "nss-dir",
                "binding": "forced-binding-methods-position",
            }.items()
            for name in names.split()
        ),
        NO_LIMIT,
    ],
    "server-puppet.conf": [
        ("section [gpg]", "did you mean [gnupg]?"),
        ("[server] signing_timeout", "did you mean signing-timeout?"),
        ("[server] gnupg-home", "it belongs in section [gnupg]"),
        ("[gpg] gnupg-key-type", "it belongs in section [gnupg]"),
        ("[server] bridge-hostname", QUOTED),
        ("[server] bridge-port", QUOTED),
        ("[server] lenient-username-check", QUOTED),
        ("[database] database-path", QUOTED),
        ("[gnupg] gnupg-key-usage", QUOTED),
        ("[nss] nss-dir", QUOTED),
        NO_LIMIT,
    ],
}


def loaded(name: str, tmp_path: Path) -> Loaded[Any]:
    program = PROGRAMS[name.partition("-")[0]]()
    return load(program, held("configuration-found", name), system_directory=tmp_path / "none")


@pytest.mark.parametrize("name", FILES)
def test_it_loads_and_what_is_odd_is_told_with_its_place(name: str, tmp_path: Path) -> None:
    told = loaded(name, tmp_path).warnings
    file = held("configuration-found", name)
    expected = WARNINGS[name]
    assert len(told) == len(expected), told
    for warning, (place, part) in zip(told, expected, strict=True):
        assert warning.startswith(f"{file}: {place}")
        assert part in warning
        assert warning.cure
        assert "secret" not in warning


def test_each_file_of_which_something_is_said_is_there() -> None:
    assert list(WARNINGS) == FILES


def test_what_they_mean(tmp_path: Path) -> None:
    bridge = loaded("bridge-0.207.conf", tmp_path).settings
    assert (bridge.client_listen_port, bridge.server_listen_port) == (44334, 44433)
    assert bridge.required_fas_group is None
    assert bridge.fas_password == Secret("secret%20word")
    assert bridge.max_rpms_payloads_size == 10 * 1024**3
    assert bridge.nss.directory == "dbm:/var/lib/sigul"
    assert bridge.nss.password == Secret("secret;word")
    assert (bridge.nss.min_tls, bridge.nss.max_tls) == ("tls1.2", "tls1.2")
    server = loaded("server-0.207.conf", tmp_path).settings
    assert (server.bridge_port, server.max_file_payload_size) == (44433, 2 * 1024**3)
    assert server.database_path == Path("/var/lib/sigul/server.sqlite")
    assert (server.gnupg_key_type, server.gnupg_subkey_type) == ("DSA", "ELG-E")
    client = loaded("client-0.207.conf", tmp_path).settings
    assert client.bridge_hostname == "bridge.example.org"
    assert client.koji.instances == ("primary", "secondary")
    server = loaded("server-puppet.conf", tmp_path).settings
    assert server.bridge_hostname == "bridge.example.org"
    assert server.lenient_username_check is True
    assert server.database_path == Path("/srv/sigul/server.sqlite")
    assert server.gnupg_home == Path("/var/lib/sigul/gnupg")
    assert server.nss.directory == "sql:/etc/pki/sigul/server"
    bridge = loaded("bridge-puppet.conf", tmp_path).settings
    assert (bridge.bridge_cert_nickname, bridge.client_listen_port) == ("sigul-bridge-cert", 44334)
    client = loaded("client-windows.conf", tmp_path).settings
    assert client.server_hostname == "server.example.org"
    assert (client.user_name, client.nss.password) == ("ann", Secret("100%"))


@pytest.mark.parametrize("name", ["bridge", "client", "server"])
def test_what_is_empty_is_as_if_it_were_not_there(name: str, tmp_path: Path) -> None:
    """Settings of the playbook's file are those of a file without its empty options."""
    text = held("configuration-found", f"{name}-playbook.conf").read_text()
    # These mean something where they are empty, and no default.
    kept = ("enabled", "allowed-key-types", "fas-password")
    lines = [
        line for line in text.splitlines()
        if not line.rstrip().endswith(":") or line.startswith(kept)
    ]  # fmt: skip
    path = tmp_path / f"{name}.conf"
    path.write_text("\n".join(lines))
    without = load(PROGRAMS[name](), path, system_directory=tmp_path / "none").settings
    assert loaded(f"{name}-playbook.conf", tmp_path).settings == without


def test_options_of_1_2_alone_may_be_empty() -> None:
    old = {
        line.partition(":")[0]
        for name in PROGRAMS
        for line in held("configuration-1.2", f"{name}.conf").read_text().splitlines()
        if ":" in line
    }
    assert old >= EMPTY_MEANS_ABSENT


@pytest.mark.parametrize(
    ("load", "text", "told"),
    [
        (load_client, "[client]\nbridge-hostname: ;b\nserver-hostname: s\n", "bridge-hostname"),
        (load_client, "[client]\nbridge-hostname: \"\"\nserver-hostname: s\n", "bridge-hostname"),
        (load_client, "[client]\nbridge-hostname:\nserver-hostname: s\n", "bridge-hostname"),
        (load_bridge, "[bridge]\nclient-listen-port: \"http\" ; x\n", "client-listen-port"),
        (load_bridge, "[bridge]\nlisten-address:\n", "listen-address: is empty"),
        (load_bridge, "[bridge]\n[nss]\nnss-max-tls: tls1.1\n", "[nss] nss-max-tls"),
        (
            load_server, "[server]\nbridge-hostname: b\n[database]\ndatabase-path: mysql://h/d\n",
            "[database] database-path: is a URL",
        ),
        (load_server, "[server]\n{% if bridge %}\nbridge-hostname: b\n", "line 2: neither"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_an_error_with_its_cure(
    load: Callable[..., object], text: str, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.conf"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load(path, system_directory=tmp_path / "none")
    assert told in str(caught.value)
    assert caught.value.cure


def test_a_repeated_option_of_a_continued_value_is_none(tmp_path: Path) -> None:
    path = tmp_path / "server.conf"
    path.write_text(
        "[server]\nbridge-hostname: b\nmax-file-payload-size: 1\n[binding]\nenabled:\n  test,\n"
        "  enabled: test\n\n# enabled: pkcs11\n; [binding]\n"
    )
    read = load_server(path, system_directory=tmp_path / "none")
    assert read.warnings == ()
    assert read.settings.binding.enabled == ("test", "enabled:")
