"""Passphrases bound to tokens, a TPM and the kernel's keyring, through a running site.

Machines are told apart by what is plugged in: SoftHSM tokens by an environment variable, TPMs by
their sockets. Moving the database means starting the same server in other surroundings.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.site import Site, module
from tests.tokens import TPM, KeyPair, SoftHSM, in_session, running_tpm

from .commands_support import ADMIN, AUTHENTICATION, done, failure, gpg_in, person, refused, rows

FAILED = "Failed to unbind with any of the following: "
TEXT = b"to be signed\n"


@dataclass
class MovableSite(Site):
    """A site whose programs run in surroundings that can be changed."""

    surroundings: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every program of the site."""
        return {**super().environment, **self.surroundings}


@dataclass
class Machines:
    """What there is to plug in: token pairs, SoftHSM machines by their tokens, and two TPMs."""

    pairs: dict[str, KeyPair]
    tokens: dict[str, SoftHSM]
    tpm: TPM
    other_tpm: TPM

    def binding(self, enabled: str = "pkcs11, tpm", more: str = "") -> str:
        """A [binding] section with both tokens and the first TPM."""
        lines = "".join(pair.lines() for pair in self.pairs.values())
        tokens = ", ".join(self.pairs)
        return f"enabled: {enabled}\npkcs11_tokens: {tokens}\n{lines}{self.tpm.lines}{more}"


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """All of them, for the tests of this module."""
    directory = tmp_path_factory.mktemp("machines")
    pairs = {name: KeyPair.make(directory, name) for name in ("one", "two")}
    tokens = {}
    for plugged in ("", "one", "two", "one two"):
        machine = tokens[plugged] = SoftHSM(tmp_path_factory.mktemp("softhsm"))
        for name in plugged.split():
            machine.plug_in(pairs[name])
    with running_tpm(directory / "tpm") as tpm, running_tpm(directory / "other") as other:
        yield Machines(pairs, tokens, tpm, other)


@pytest.fixture
def site(template: Site, tmp_path: Path) -> Iterator[MovableSite]:
    """A new site, not running, with certificates for admin, alice and bob."""
    fresh = MovableSite.copy(template, tmp_path / "site")
    assert isinstance(fresh, MovableSite)
    yield fresh
    fresh.stop_all()
    shutil.rmtree(fresh.directory)


def configure(site: MovableSite, *, server: str = "", client: str = "") -> None:
    """Give server and client their [binding] sections."""
    site.extra = {
        "server": {"server": "proxy-usernames: admin\n", "binding": server},
        "client": {"binding": client},
    }
    site.configure()


@contextlib.contextmanager
def at(site: MovableSite, machine: SoftHSM) -> Iterator[None]:
    """The site runs with the tokens of `machine` plugged in."""
    site.surroundings = machine.environment
    with site.running():
        yield


def make_key(site: Site) -> None:
    """Admin's gnupg key `k`, and a user bob."""
    done(site, "new-user", "bob", secrets=[ADMIN])
    done(site, "new-key", "k", secrets=[ADMIN, "k-pw"])


def grant(site: Site, *options: str) -> None:
    """Give bob access to `k` with b-pw."""
    done(site, "grant-key-access", "k", "bob", *options, secrets=["k-pw", "b-pw"])


def sign(site: MovableSite, tmp_path: Path, user: str, *passphrase: str, **how: object) -> None:
    """Sign a text as `user`, and verify what comes by gpg."""
    text = tmp_path / "text"
    text.write_bytes(TEXT)
    options = ["-u", user, *how.pop("options", [])]  # type: ignore[misc]
    signature = done(
        site, "sign-data", "-a", "k", str(text), options=options, secrets=passphrase, **how
    )
    (tmp_path / "signature").write_bytes(signature)
    verify(site, tmp_path)


def verify(site: Site, tmp_path: Path) -> None:
    """The signature in `tmp_path` is a good one of `k`."""
    ((fingerprint,),) = rows(site, "SELECT fingerprint FROM keys")
    public = gpg_in(site.path("server/gnupg"), "--armor", "--export", str(fingerprint)).stdout
    with person(tmp_path / "verifier", public) as gpg:
        assert gpg.signer(tmp_path / "signature", tmp_path / "text") == fingerprint


def refused_to_sign(site: Site, user: str, passphrase: str) -> None:
    """A wrong passphrase, for all that the user is told."""
    refused(
        site, AUTHENTICATION, "sign-data", "-a", "k", "/etc/hostname",
        options=["-u", user], secrets=[passphrase],
    )  # fmt: skip


def layers(site: Site, user: str, passphrase: str, tmp_path: Path) -> list[list[str]]:
    """The methods around a user's passphrase, the outermost layer's first, as far as one sees."""
    ((sealed,),) = rows(
        site,
        "SELECT encrypted_passphrase FROM key_accesses JOIN users ON users.id = user_id"
        " WHERE users.name = ?",
        user,
    )
    assert isinstance(sealed, bytes)
    with person(tmp_path / "opener") as gpg:
        text = gpg(f"--passphrase={passphrase}", "--decrypt", data=sealed).decode()
    return [
        [found["method"] for found in json.loads(text)],
        [found["value"].split(".")[0].splitlines()[0] for found in json.loads(text)],
    ]


# ------------------------------------------------------------------------------------- the server


def test_either_or_tokens_on_the_server(
    site: MovableSite, machines: Machines, tmp_path: Path
) -> None:
    configure(site, server=machines.binding())
    with at(site, machines.tokens["one two"]):
        assert done(site, "list-server-binding-methods", secrets=[ADMIN]) == b"pkcs11\ntpm\n"
        make_key(site)
        grant(site, "-b", "pkcs11,token=one|pkcs11,token=two")
        sign(site, tmp_path, "bob", "b-pw")
        site.stop_all()
    # A machine without the tokens: the database alone is not enough.
    with at(site, machines.tokens[""]):
        refused_to_sign(site, "bob", "b-pw")
        server = site.processes[-1].text
        assert (
            f"{FAILED}method: pkcs11, args: {{'token': 'one'}},"
            " method: pkcs11, args: {'token': 'two'}"
        ) in server
        sign(site, tmp_path, "admin", "k-pw")  # is not bound
        site.stop_all()
    # One with the other of the two will do.
    with at(site, machines.tokens["two"]):
        sign(site, tmp_path, "bob", "b-pw")
        refused_to_sign(site, "bob", "k-pw")


def test_layers_of_a_token_and_a_tpm(site: MovableSite, machines: Machines, tmp_path: Path) -> None:
    configure(site, server=machines.binding())
    with at(site, machines.tokens["one"]):
        make_key(site)
        grant(site, "-b", "tpm,pcrs=sha256:0+7", "-b", "pkcs11,token=one")
        methods, forms = layers(site, "bob", "b-pw", tmp_path)
        assert (methods, forms) == (["pkcs11"], ["MIME-Version: 1"])
        sign(site, tmp_path, "bob", "b-pw")
        site.stop_all()
    with at(site, machines.tokens["two"]):  # the TPM alone
        refused_to_sign(site, "bob", "b-pw")
        site.stop_all()
    configure(site, server=machines.binding().replace(machines.tpm.tcti, machines.other_tpm.tcti))
    with at(site, machines.tokens["one"]):  # the token alone
        refused_to_sign(site, "bob", "b-pw")
        assert f"{FAILED}method: tpm, args: {{'pcrs': 'sha256:0+7'}}" in site.processes[-1].text
        site.stop_all()
    configure(site, server=machines.binding())
    with at(site, machines.tokens["one"]):
        sign(site, tmp_path, "bob", "b-pw")


@pytest.mark.once("the order of methods; the tokens and the TPM are in the others")
@pytest.mark.parametrize("position", ["first", "last"])
def test_forced_and_default_methods(
    position: str, site: MovableSite, machines: Machines, tmp_path: Path
) -> None:
    policy = (
        "forced-binding-methods: pkcs11,token=one|pkcs11,token=two\n"
        f"forced-binding-methods-position: {position}\n"
        "default-binding-methods: tpm\n"
    )
    configure(site, server=machines.binding(more=policy))
    forced, default = ["pkcs11", "pkcs11"], ["tpm"]
    outermost = default if position == "first" else forced
    with at(site, machines.tokens["one"]):
        make_key(site)
        # A new key takes the forced ones alone.
        assert layers(site, "admin", "k-pw", tmp_path)[0] == forced
        sign(site, tmp_path, "admin", "k-pw")
        grant(site)
        assert layers(site, "bob", "b-pw", tmp_path)[0] == outermost
        sign(site, tmp_path, "bob", "b-pw")
        done(site, "change-passphrase", "k", "-b", "tpm,pcrs=7", secrets=["k-pw", "n-pw"])
        assert layers(site, "admin", "n-pw", tmp_path)[0] == outermost
        sign(site, tmp_path, "admin", "n-pw")
        site.stop_all()
    with at(site, machines.tokens[""]):
        refused_to_sign(site, "admin", "n-pw")
        refused_to_sign(site, "bob", "b-pw")


@pytest.mark.once("the order of methods; the tokens and the TPM are in the others")
def test_a_token_that_only_binds_and_one_that_is_not_there(
    site: MovableSite, machines: Machines, tmp_path: Path
) -> None:
    pair = machines.pairs["one"]
    configure(
        site,
        server=f"enabled: pkcs11\npkcs11_tokens: one\n{pair.lines(privkey=False)}",
    )
    with at(site, machines.tokens["one"]):
        make_key(site)
        grant(site, "-b", "pkcs11,token=one")
        refused_to_sign(site, "bob", "b-pw")
        before = rows(site, "SELECT * FROM key_accesses")
        line = failure(
            site, "change-passphrase", "k", "-b", "pkcs11,token=two", secrets=["k-pw", "n-pw"]
        )
        assert "there is no token 'two' here" in line
        line = failure(
            site, "change-passphrase", "k", "-b", "tpm", secrets=["k-pw", "n-pw"]
        )  # fmt: skip
        assert "binding method 'tpm' is not enabled here" in line
        assert rows(site, "SELECT * FROM key_accesses") == before
        site.stop_all()
    configure(site, server=machines.binding())
    with at(site, machines.tokens["one"]):
        sign(site, tmp_path, "bob", "b-pw")


def test_a_wrong_setting_is_told_at_the_servers_start(
    site: MovableSite, machines: Machines
) -> None:
    wrong = machines.binding().replace("pkcs11_two_pubkey", "pkcs11_two_pubkye")
    configure(site, server=wrong)
    done_ = site.run(*module("server"), "-c", str(site.path("server.conf")), code=1)
    assert b"pkcs11_two_pubkey is not set; name a file with the token's certificate" in done_.stderr


@pytest.mark.once("which program is looked for")
def test_a_program_that_is_missing_on_the_server(
    site: MovableSite, machines: Machines, tmp_path: Path
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("gpg", "gpgconf", "gpg-agent", "gpg-connect-agent", "openssl", "sh"):
        found = shutil.which(name)
        assert found is not None
        (programs / name).symlink_to(found)
    configure(site, server=machines.binding())
    site.surroundings = {**machines.tokens["one"].environment, "PATH": str(programs)}
    with site.running():
        make_key(site)
        line = failure(site, "change-passphrase", "k", "-b", "tpm", secrets=["k-pw", "n-pw"])
        assert "install the package tpm2-tools" in line
        done(site, "change-passphrase", "k", "-b", "pkcs11,token=one", secrets=["k-pw", "n-pw"])
        sign(site, tmp_path, "admin", "n-pw")


# ------------------------------------------------------------------------------------- the client


def test_the_clients_own_methods_in_configured_order(site: MovableSite, machines: Machines) -> None:
    configure(site, client=machines.binding("tpm, keyctl test\nkeyring\npkcs11".replace("\n", " ")))
    assert done(site, "list-binding-methods") == b"tpm\nkeyctl\ntest\nkeyring\npkcs11\n"
    configure(site)
    assert done(site, "list-binding-methods") == b""


@pytest.mark.once("the order of methods; the tokens and the TPM are in the others")
def test_passphrase_files_on_the_client(
    site: MovableSite, machines: Machines, tmp_path: Path
) -> None:
    configure(site, client=machines.binding(), server="")
    with at(site, machines.tokens["one"]):
        make_key(site)
        for options in (
            ["-c", "pkcs11,token=one|pkcs11,token=two"],
            ["-c", "tpm,pcrs=7"],
            ["-c", "pkcs11,token=one", "-c", "tpm"],
        ):
            file = tmp_path / "file"
            done(site, "grant-key-access", "k", "bob", *options, "-w", str(file), secrets=["k-pw"])
            bound = ["-f", str(file)]
            sign(site, tmp_path, "bob", options=bound)
            # On a machine with neither the token nor the TPM:
            configure(
                site,
                client=machines.binding().replace(machines.tpm.tcti, machines.other_tpm.tcti),
            )
            site.surroundings = machines.tokens[""].environment
            result = site.sigul(
                "sign-data", "-a", "k", "/etc/hostname", options=["-u", "bob", *bound], code=1
            )
            first, second, _why = result.stderr.decode().splitlines()
            assert first.startswith(f"WARNING: {FAILED}method: ")
            assert second == "Unable to unbind the passphrase on the client"
            # On one with the other token:
            site.surroundings = machines.tokens["two"].environment
            if "|" in options[1]:
                sign(site, tmp_path, "bob", options=bound)
            configure(site, client=machines.binding())
            site.surroundings = machines.tokens["one"].environment
            file.unlink()
            done(site, "revoke-key-access", "k", "bob", secrets=["k-pw"])


@pytest.mark.once("the order of methods; the tokens and the TPM are in the others")
def test_forced_and_default_methods_of_the_client(
    site: MovableSite, machines: Machines, tmp_path: Path
) -> None:
    policy = "forced-binding-methods: tpm,pcrs=7\nforced-binding-methods-position: last\n"
    configure(site, client=machines.binding(more=policy))
    file = tmp_path / "file"
    with at(site, machines.tokens["one"]):
        make_key(site)
        done(site, "grant-key-access", "k", "bob", "-c", "pkcs11,token=one", "-w", str(file),
             secrets=["k-pw"])  # fmt: skip
        ((outer),) = json.loads(file.read_bytes())
        assert (outer["method"], outer["pcrs"]) == ("tpm", "7")
        sign(site, tmp_path, "bob", options=["-f", str(file)])
        site.surroundings = machines.tokens[""].environment
        result = site.sigul("get-public-key", "k", options=["-u", "bob", "-f", str(file)], code=1)
        assert f"{FAILED}method: pkcs11, args: {{'token': 'one'}}\n" in result.stderr.decode()


@pytest.mark.once("each side is in the tests above")
def test_both_sides_bound_at_once(site: MovableSite, machines: Machines, tmp_path: Path) -> None:
    configure(site, client=machines.binding(), server=machines.binding())
    file = tmp_path / "file"
    with at(site, machines.tokens["one two"]):
        make_key(site)
        done(site, "grant-key-access", "k", "bob", "-c", "pkcs11,token=one", "-w", str(file),
             "-b", "pkcs11,token=two|tpm", secrets=["k-pw"])  # fmt: skip
        sign(site, tmp_path, "bob", options=["-f", str(file)])


@pytest.mark.once("the kernel's keyring")
@pytest.mark.parametrize("method", ["keyring", "keyctl"])
def test_a_passphrase_in_the_kernels_keyring(
    method: str, site: MovableSite, tmp_path: Path
) -> None:
    configure(site, client="enabled: keyring, keyctl\n")
    file = tmp_path / "file"
    file.write_text(json.dumps([{"method": method, "value": "release"}]))
    (tmp_path / "text").write_bytes(TEXT)
    with site.running():
        make_key(site)
        command = [
            *module("sigul"), "--batch", "-c", str(site.path("client.conf")), "-f", str(file),
            "sign-data", "-a", "k", str(tmp_path / "text"),
        ]  # fmt: skip
        signed = in_session(command, "sigul:release", "k-pw", site.environment)
        assert (signed.returncode, signed.stderr) == (0, b"")
        (tmp_path / "signature").write_bytes(signed.stdout)
        verify(site, tmp_path)
        other = in_session(command, "sigul:other", "k-pw", site.environment)
        assert other.returncode == 1
        lines = other.stderr.decode().splitlines()
        assert lines[:2] == [
            "ERROR: Unable to find key with keyname release",
            f"WARNING: {FAILED}method: {method}, args: {{}}",
        ]
        assert lines[2] == "Unable to unbind the passphrase on the client"
        assert len(lines) == 4  # the last one says why
        target = tmp_path / "new"
        line = failure(
            site, "change-passphrase", "k", "-c", method, "-w", str(target), secrets=["k-pw"]
        )
        assert "keyring only opens" in line
        assert not target.exists()


@pytest.mark.once("which program is looked for")
def test_a_program_that_is_missing_on_the_client(
    site: MovableSite, machines: Machines, tmp_path: Path
) -> None:
    configure(site, client=machines.binding("tpm, keyring, test"))
    file = tmp_path / "file"
    with site.running():
        make_key(site)
        site.surroundings = {"PATH": str(tmp_path)}
        assert sys.executable.startswith("/")
        missing = [{"method": "tpm", "value": "tpm2.AA==.AA==.AA=="},
                   {"method": "keyring", "value": "name"}]  # fmt: skip
        file.write_text(json.dumps(missing))
        result = site.sigul("get-public-key", "k", options=["-f", str(file)], code=1)
        second, last = result.stderr.decode().splitlines()[-2:]
        assert second == "Unable to unbind the passphrase on the client"
        assert "install the package tpm2-tools" in last
        assert "install the package keyutils" in last
        opens = {"method": "test", "may_unbind": "1", "value": "k-pw"}
        file.write_text(json.dumps([*missing, opens]))
        assert done(site, "get-public-key", "k", options=["-f", str(file)]).startswith(b"-----")
