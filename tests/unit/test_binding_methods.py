"""The binding methods pkcs11, tpm and keyring, each with the real thing behind it."""

from __future__ import annotations

import base64
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sigul_stack.errors import ConfigurationError
from sigul_stack.keystore.bindings import (
    CannotBind,
    CannotUnbind,
    Registry,
    bind,
    enabled_methods,
    parse_layer,
    unbind,
)
from sigul_stack.secret import Secret
from tests.tokens import PIN, TPM, KeyPair, SoftHSM, in_session, running_tpm, tool

pytestmark = pytest.mark.system

SECRET = Secret("nKRGmQ9C_Vds-apcVaS6ioMsNNha")
LONG = Secret("x" * 20_000)


def value_of(bound: Secret) -> str:
    """The value of a bound passphrase's only alternative."""
    ((found),) = json.loads(bound.reveal())
    return str(found["value"])


# --- pkcs11 ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, KeyPair]:
    """The keys of tokens `one` and `two`."""
    directory = tmp_path_factory.mktemp("pairs")
    return {name: KeyPair.make(directory, name) for name in ("one", "two")}


@pytest.fixture(scope="module")
def machines(
    pairs: dict[str, KeyPair], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, SoftHSM]:
    """Machines by the names of the tokens that are plugged in."""
    found = {}
    for plugged in ("", "one", "two", "one two"):
        machine = found[plugged] = SoftHSM(tmp_path_factory.mktemp("machine"))
        for name in plugged.split():
            machine.plug_in(pairs[name])
    return found


def at(machine: SoftHSM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be at that machine."""
    for name, value in machine.environment.items():
        monkeypatch.setenv(name, value)


def pkcs11(
    pairs: dict[str, KeyPair], tokens: str = "one two", *, pin: str = PIN, **other: str
) -> Registry:
    """`pkcs11` with `tokens`; `other` takes the place of single parameters."""
    parameters = {"pkcs11_tokens": tokens}
    for name in tokens.split():
        pair = pairs[name.lower()]
        parameters[f"pkcs11_{pair.name}_pubkey"] = str(pair.certificate)
        parameters[f"pkcs11_{pair.name}_privkey"] = f"pkcs11:token={pair.name};object=bind"
    secrets = {f"pkcs11_{name.lower()}_pin": Secret(pin) for name in tokens.split()}
    return enabled_methods(["pkcs11"], {**parameters, **other}, secrets)


@pytest.mark.parametrize("secret", [SECRET, LONG, Secret("ä\n\r\n")], ids=["short", "long", "odd"])
def test_a_token_opens_what_its_certificate_bound(
    secret: Secret,
    pairs: dict[str, KeyPair],
    machines: dict[str, SoftHSM],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    methods = pkcs11(pairs)
    at(machines[""], monkeypatch)  # binding needs no token
    bound = bind(secret, [parse_layer("pkcs11,token=one")], methods)
    with pytest.raises(CannotUnbind, match="token one did not open it"):
        unbind(bound, methods)
    at(machines["two"], monkeypatch)
    with pytest.raises(CannotUnbind):
        unbind(bound, methods)
    at(machines["one"], monkeypatch)
    assert unbind(bound, methods) == secret


def test_a_value_is_an_smime_message_as_openssl_reads_and_writes_it(
    pairs: dict[str, KeyPair], machines: dict[str, SoftHSM], monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = pkcs11(pairs)
    value = value_of(bind(SECRET, [parse_layer("pkcs11,token=one")], methods))
    assert value.startswith("MIME-Version: 1.0\n")
    key = str(pairs["one"].key)
    assert tool("openssl", "smime", "-decrypt", "-inkey", key, data=value.encode()) == (
        SECRET.reveal()
    )
    pem = tool("openssl", "smime", "-pk7out", data=value.encode())
    assert "aes-256-cbc" in tool("openssl", "asn1parse", data=pem).decode()
    at(machines["one two"], monkeypatch)
    for form in ("SMIME", "PEM", "DER"):
        written = tool(
            "openssl", "smime", "-encrypt", "-aes-256-cbc", "-outform", form,
            str(pairs["two"].certificate), data=SECRET.reveal(),
        )  # fmt: skip
        text = base64.encodebytes(written) if form == "DER" else written
        for arguments in ({"token": "two"}, {"token": "TWO"}, {}):
            existing = {"value": text.decode(), "method": "pkcs11", **arguments}
            assert unbind(json.dumps([existing]).encode(), methods) == SECRET, form


def test_of_two_tokens_either_will_do(
    pairs: dict[str, KeyPair], machines: dict[str, SoftHSM], monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = pkcs11(pairs)
    bound = bind(SECRET, [parse_layer("pkcs11,token=one|pkcs11,token=two")], methods)
    for plugged in ("one", "two", "one two"):
        at(machines[plugged], monkeypatch)
        assert unbind(bound, methods) == SECRET
    both = bind(SECRET, [parse_layer("pkcs11,token=one"), parse_layer("pkcs11,token=two")], methods)
    assert unbind(both, methods) == SECRET
    at(machines["one"], monkeypatch)
    with pytest.raises(CannotUnbind, match="token two"):
        unbind(both, methods)


def test_a_token_without_its_private_key_can_only_bind(
    pairs: dict[str, KeyPair], machines: dict[str, SoftHSM], monkeypatch: pytest.MonkeyPatch
) -> None:
    at(machines["one"], monkeypatch)
    only_binds = pkcs11(pairs, "one", pkcs11_one_privkey="")
    bound = bind(SECRET, [parse_layer("pkcs11")], only_binds)  # the only one need not be named
    with pytest.raises(CannotUnbind, match="can only bind"):
        unbind(bound, only_binds)
    assert unbind(bound, pkcs11(pairs)) == SECRET


def test_what_cannot_be_bound(pairs: dict[str, KeyPair], tmp_path: Path) -> None:
    methods = pkcs11(pairs)
    for layer, said in (
        ("pkcs11", "say which token"),
        ("pkcs11,token=three", "no token 'three'"),
        ("pkcs11,token=one,tokn=x", "tokn means nothing"),
    ):
        with pytest.raises(CannotBind, match=said):
            bind(SECRET, [parse_layer(layer)], methods)
    with pytest.raises(CannotBind, match="not UTF-8"):
        bind(Secret(b"\xff"), [parse_layer("pkcs11,token=one")], methods)
    (tmp_path / "no").write_text("no certificate")
    with pytest.raises(CannotBind, match="must be the PEM certificate"):
        broken = pkcs11(pairs, pkcs11_one_pubkey=str(tmp_path / "no"))
        bind(SECRET, [parse_layer("pkcs11,token=one")], broken)


@pytest.mark.parametrize("value", ["", "x", "MIME-Version: 1.0\n\nxyz", "-----BEGIN CMS-----", "ä"])
def test_a_damaged_value(
    value: str,
    pairs: dict[str, KeyPair],
    machines: dict[str, SoftHSM],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at(machines["one"], monkeypatch)
    bound = json.dumps({"method": "pkcs11", "token": "one", "value": value}).encode()
    with pytest.raises(CannotUnbind, match="token one did not open it"):
        unbind(bound, pkcs11(pairs))


def test_a_certificate_of_another_key_opens_nothing(
    pairs: dict[str, KeyPair], machines: dict[str, SoftHSM], monkeypatch: pytest.MonkeyPatch
) -> None:
    """openssl answers a wrong key with random bytes, sometimes without an error."""
    at(machines["one two"], monkeypatch)
    mixed = pkcs11(pairs, pkcs11_one_privkey="pkcs11:token=two;object=bind", pin=PIN)
    bound = bind(SECRET, [parse_layer("pkcs11,token=one")], mixed)
    for _ in range(8):
        with pytest.raises(CannotUnbind):
            unbind(bound, mixed)


def test_a_renewed_certificate_does_not_close_what_the_old_one_bound(
    pairs: dict[str, KeyPair],
    machines: dict[str, SoftHSM],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    at(machines["one"], monkeypatch)
    bound = bind(SECRET, [parse_layer("pkcs11,token=one")], pkcs11(pairs))
    renewed = tmp_path / "renewed.pem"
    tool("openssl", "req", "-x509", "-key", str(pairs["one"].key), "-subj", "/CN=renewed",
         "-days", "30", "-out", str(renewed))  # fmt: skip
    methods = pkcs11(pairs, pkcs11_one_pubkey=str(renewed))
    assert unbind(bound, methods) == SECRET
    assert unbind(bind(SECRET, [parse_layer("pkcs11,token=one")], methods), methods) == SECRET


def test_a_wrong_pin(
    pairs: dict[str, KeyPair], machines: dict[str, SoftHSM], monkeypatch: pytest.MonkeyPatch
) -> None:
    at(machines["one"], monkeypatch)
    methods = pkcs11(pairs, pin="98765432")
    with pytest.raises(CannotUnbind) as raised:
        unbind(bind(SECRET, [parse_layer("pkcs11,token=one")], methods), methods)
    assert "PIN incorrect" in str(raised.value)
    assert "98765432" not in str(raised.value)


def test_secrets_are_in_no_argument_and_no_environment(
    pairs: dict[str, KeyPair],
    machines: dict[str, SoftHSM],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    program = tmp_path / "openssl"
    seen = tmp_path / "seen"
    real = tool("sh", "-c", "command -v openssl").decode().strip()
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >>{seen}\nenv >>{seen}\nexec {real} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    at(machines["one"], monkeypatch)
    methods = pkcs11(pairs)
    assert unbind(bind(SECRET, [parse_layer("pkcs11,token=one")], methods), methods) == SECRET
    text = seen.read_text()
    assert "-encrypt\n" in text
    assert "pkcs11:token=one;object=bind?pin-source=/proc/self/fd/" in text
    assert PIN not in text
    assert SECRET.reveal().decode() not in text


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"pkcs11_tokens": ""}, "names no token"),
        ({"pkcs11_tokens": "three"}, "pkcs11_three_pubkey is not set"),
        ({"pkcs11_one_pubkey": "/nonexistent/c.pem"}, "no file '/nonexistent/c.pem'"),
        ({"pkcs11_one_privkey": "/some/key.pem"}, "must be a URI"),
        ({"pkcs11_one_privkey": "pkcs11:token=one?pin-value=1"}, "holds a PIN"),
        ({"pkcs11_one_privkey": "pkcs11:token=one?pin-source=f"}, "give one of the two"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_right(
    parameters: dict[str, str], said: str, pairs: dict[str, KeyPair]
) -> None:
    methods = pkcs11(pairs, "one", **parameters)
    with pytest.raises(ConfigurationError, match=said):
        methods.check()
    with pytest.raises(CannotBind, match=said):
        bind(SECRET, [parse_layer("pkcs11")], methods)
    pkcs11(pairs, "one").check()


def test_without_the_engine_its_package_is_named(
    pairs: dict[str, KeyPair],
    machines: dict[str, SoftHSM],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    at(machines["one"], monkeypatch)
    methods = pkcs11(pairs)
    bound = bind(SECRET, [parse_layer("pkcs11,token=one")], methods)
    monkeypatch.setenv("OPENSSL_ENGINES", str(tmp_path))
    with pytest.raises(CannotUnbind, match="install the package libengine-pkcs11-openssl"):
        unbind(bound, methods)


# --- tpm ---------------------------------------------------------------------------------------


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[TPM]:
    """A new TPM, just started."""
    with running_tpm(tmp_path / "tpm") as started:
        yield started


def method_of(tpm: TPM) -> Registry:
    """The method `tpm` with that TPM."""
    return enabled_methods(["tpm"], {"tpm_tcti": tpm.tcti})


@pytest.mark.parametrize("secret", [SECRET, LONG, Secret(b"\xff\0")], ids=["short", "long", "odd"])
def test_a_tpm_opens_what_it_bound_and_no_other(secret: Secret, tpm: TPM, tmp_path: Path) -> None:
    methods = method_of(tpm)
    bound = bind(secret, [parse_layer("tpm")], methods)
    assert secret.reveal() not in bound.reveal()
    for _ in range(4):  # more than a TPM has room for, if anything stayed loaded
        assert unbind(bound, methods) == secret
    with (
        running_tpm(tmp_path / "other") as other,
        pytest.raises(CannotUnbind, match="tpm2_load failed"),
    ):
        unbind(bound, method_of(other))


def test_registers_must_hold_what_they_held(tpm: TPM) -> None:
    methods = method_of(tpm)
    for pcrs, opens in (("16", False), ("sha256:0+16", False), ("sha256:0+2", True), (None, True)):
        layer = parse_layer("tpm" if pcrs is None else f"tpm,pcrs={pcrs}")
        bound = bind(SECRET, [layer], methods)
        assert unbind(bound, methods) == SECRET
        tpm.extend(16)
        if opens:
            assert unbind(bound, methods) == SECRET
        else:
            with pytest.raises(CannotUnbind, match="tpm2_unseal failed"):
                unbind(bound, methods)
        # Asking for no register, or another one, does not help.
        ((found),) = json.loads(bound.reveal())
        for forged in ({}, {"pcrs": "3"}):
            if pcrs is not None:
                text = json.dumps({"method": "tpm", "value": found["value"], **forged}).encode()
                with pytest.raises(CannotUnbind):
                    unbind(text, methods)


def test_nothing_stays_loaded_in_a_tpm(tpm: TPM) -> None:
    methods = method_of(tpm)
    bound = bind(SECRET, [parse_layer("tpm,pcrs=16")], methods)
    assert unbind(bound, methods) == SECRET
    tpm.extend(16)
    with pytest.raises(CannotUnbind):
        unbind(bound, methods)
    assert tpm.loaded() == b""


def test_a_tpm_keeps_its_key_over_a_restart(tmp_path: Path) -> None:
    with running_tpm(tmp_path / "tpm") as started:
        bound = bind(SECRET, [parse_layer("tpm,pcrs=7")], method_of(started))
    with running_tpm(tmp_path / "tpm") as started:
        assert unbind(bound, method_of(started)) == SECRET


@pytest.mark.parametrize("pcrs", ["", "x", "24", "7+", "md5:7", "sha256:", "7;8", "100"])
def test_what_names_no_registers(pcrs: str) -> None:
    with pytest.raises(CannotBind, match="no list of registers"):
        bind(SECRET, [parse_layer(f"tpm,pcrs={pcrs}")], enabled_methods(["tpm"]))


def test_an_argument_that_means_nothing_is_refused() -> None:
    with pytest.raises(CannotBind, match="pcr means nothing here; it takes: pcrs"):
        bind(SECRET, [parse_layer("tpm,pcr=7")], enabled_methods(["tpm"]))


def test_damaged_values_of_a_tpm(tpm: TPM) -> None:
    methods = method_of(tpm)
    prefix, public, private, data = value_of(bind(SECRET, [parse_layer("tpm")], methods)).split(".")
    changed = base64.b64encode(bytes(40)).decode()
    for value in (
        "", "x", "tpm2", "tpm2.x.y.z", f"tpm1.{public}.{private}.{data}", f"{prefix}.{public}",
        f"{prefix}.{public}.{private}.{changed}", f"{prefix}.{public}.{private}.",
        f"{prefix}.{public}.{changed}.{data}", f"{prefix}.{changed}.{private}.{data}",
    ):  # fmt: skip
        with pytest.raises(CannotUnbind):
            unbind(json.dumps({"method": "tpm", "value": value}).encode(), methods)


def test_no_tpm_there(tmp_path: Path) -> None:
    methods = enabled_methods(["tpm"], {"tpm_tcti": f"swtpm:path={tmp_path}/none"})
    with pytest.raises(CannotBind, match="tpm2_createprimary failed"):
        bind(SECRET, [parse_layer("tpm")], methods)


# --- keyring -----------------------------------------------------------------------------------

_UNBIND = """
import sys
from sigul_stack.keystore.bindings import CannotUnbind, enabled_methods, unbind
methods = enabled_methods(sys.argv[1].split())
for bound in sys.argv[2:]:
    try:
        print(unbind(bound.encode(), methods).reveal().decode())
    except CannotUnbind as error:
        print("refused")
"""


@pytest.mark.parametrize("enabled", ["keyring keyctl", "keyring", "keyctl"])
def test_the_session_keyring_opens(enabled: str) -> None:
    arguments = [
        json.dumps({"method": method, "value": name})
        for method in ("keyring", "keyctl")
        for name in ("mine", "other", "*", "")
    ]
    done = in_session(
        [sys.executable, "-c", _UNBIND, enabled, *arguments], "sigul:mine", "s\xe4cret", os.environ
    )
    assert done.returncode == 0, done.stderr
    answers = ["s\xe4cret", *["refused"] * 3] * 2
    assert done.stdout.decode().splitlines() == answers


def test_a_key_that_is_missing_is_told_first(caplog: pytest.LogCaptureFixture) -> None:
    bound = json.dumps({"method": "keyring", "value": "no-such-name"}).encode()
    with caplog.at_level(logging.WARNING), pytest.raises(CannotUnbind, match="keyctl padd user"):
        unbind(bound, enabled_methods(["keyring"]))
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "Unable to find key with keyname no-such-name"),
        ("WARNING",
         "Failed to unbind with any of the following: method: keyring, args: {}"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["a\0b", "a\nb", "x" * 4096])
def test_what_is_no_name_of_a_key(name: str) -> None:
    bound = json.dumps({"method": "keyring", "value": name}).encode()
    with pytest.raises(CannotUnbind, match="no name of a key"):
        unbind(bound, enabled_methods(["keyring"]))


def test_the_keyring_cannot_bind() -> None:
    with pytest.raises(CannotBind, match="keyring only opens"):
        bind(SECRET, [parse_layer("keyring")], enabled_methods(["keyring"]))


# --- All of them -------------------------------------------------------------------------------


def test_a_missing_program_is_that_methods_failure_alone(
    pairs: dict[str, KeyPair], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parameters = {
        "pkcs11_tokens": "one",
        "pkcs11_one_pubkey": str(pairs["one"].certificate),
        "pkcs11_one_privkey": "pkcs11:token=one",
    }
    methods = enabled_methods(["tpm", "pkcs11", "keyring", "test"], parameters)
    values = {
        "tpm": "tpm2.AA==.AA==.AA==",
        "pkcs11": value_of(bind(SECRET, [parse_layer("pkcs11")], methods)),
        "keyring": "name",
    }
    monkeypatch.setenv("PATH", str(tmp_path))
    last = {"method": "test", "may_unbind": "1", "value": "opened"}
    packages = {"tpm": "tpm2-tools", "pkcs11": "openssl", "keyring": "keyutils"}
    for method, package in packages.items():
        alternative = {"method": method, "value": values[method]}
        with pytest.raises(CannotUnbind, match=f"install the package {package}"):
            unbind(json.dumps([alternative]).encode(), methods)
        assert unbind(json.dumps([alternative, last]).encode(), methods) == Secret("opened")
        if method != "keyring":
            with pytest.raises(CannotBind, match=f"install the package {package}"):
                bind(SECRET, [parse_layer(method)], methods)
    assert unbind(bind(SECRET, [parse_layer("test,may_unbind=1")], methods), methods) == SECRET


def test_methods_are_imported_when_used() -> None:
    program = (
        "import sys; from sigul_stack.keystore.bindings import enabled_methods;"
        "list(enabled_methods(['pkcs11', 'keyring', 'tpm']));"
        "print([name for name in ('subprocess', 'cryptography') if name in sys.modules])"
    )
    assert tool(sys.executable, "-c", program) == b"[]\n"
