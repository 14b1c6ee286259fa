"""The commands about keys: made, imported, renamed, expired, deleted, and seen from outside."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from tests.site import Site, module

from .commands_support import (
    ADMIN,
    AUTHENTICATION,
    Dialogue,
    Gpg,
    assert_consistent,
    change_database,
    done,
    failure,
    fingerprint_of,
    openssl,
    person,
    refused,
    rows,
    secret_parts,
    stored_fingerprints,
)

EXISTS = "The specified object already exists"
NO_USER = "The specified user was not found"
NO_KEY = "The specified key was not found"
WRONG_TYPE = "Unsupported keytype for operation"
WRONG_PASSPHRASE = "Import passphrase does not match"

#: A key that is not GnuPG's is files of ours, which cryptography reads: the same in each Debian.
OUR_FILES = pytest.mark.once("our own files of keys")


@pytest.fixture(scope="module")
def running(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A running site with the users admin and alice, and the keys `gnupg`, `ecc` and `rsa`.

    Each key's passphrase is its name with `-pw`; admin is its administrator.
    """
    site = Site.copy(template, tmp_path_factory.mktemp("keys") / "site")
    site.extra = {"server": {"server": "proxy-usernames: admin\n"}}
    site.configure()
    with site.running():
        done(site, "new-user", "alice", "--with-password", secrets=[ADMIN, "alice-pw"])
        for key, kind in (("gnupg", "gnupg"), ("ecc", "ECC"), ("rsa", "RSA")):
            done(site, "new-key", key, "--key-type", kind, secrets=[ADMIN, f"{key}-pw"])
        yield site
        assert_consistent(site)


@pytest.fixture
def gpg(tmp_path: Path) -> Iterator[Gpg]:
    """A person's own GnuPG home, empty."""
    with person(tmp_path / "person") as home:
        yield home


@pytest.fixture
def made(running: Site) -> Iterator[str]:
    """A name for a key that the test makes; the key is gone afterwards, and no other is left."""
    yield "made"
    for (name,) in rows(running, "SELECT name FROM keys WHERE name NOT IN ('gnupg','ecc','rsa')"):
        done(running, "delete-key", str(name), secrets=[ADMIN])
    assert_consistent(running)


def key_row(site: Site, name: str) -> tuple[object, ...]:
    (row,) = rows(site, "SELECT keytype, fingerprint FROM keys WHERE name = ?", name)
    return row


def accesses(site: Site, key: str) -> list[tuple[object, ...]]:
    return rows(
        site,
        "SELECT users.name, key_admin FROM key_accesses JOIN users ON users.id = user_id"
        " JOIN keys ON keys.id = key_id WHERE keys.name = ? ORDER BY 1",
        key,
    )


def expiry(gpg: Gpg, public: bytes, part: int = 0) -> date | None:
    """The day on which a public key, or its subkey number `part`, expires."""
    gpg("--import", data=public)
    lines = [line for line in gpg.listed(fingerprint_of(gpg, public)) if line[0] in ("pub", "sub")]
    text = lines[part][6]
    return datetime.fromtimestamp(int(text), UTC).date() if text else None


# ------------------------------------------------------------------------------------- new-key


def test_a_new_key_is_an_openpgp_key_named_like_it(running: Site, gpg: Gpg, made: str) -> None:
    public = done(running, "new-key", made, secrets=[ADMIN, "made-pw"])
    assert public.startswith(b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n")
    assert public.endswith(b"-----END PGP PUBLIC KEY BLOCK-----\n")
    gpg("--import", data=public)
    fingerprint = fingerprint_of(gpg, public)
    listed = gpg.listed(fingerprint)
    primary, user_id, subkey = (
        next(line for line in listed if line[0] == kind) for kind in ("pub", "uid", "sub")
    )
    assert (primary[3], primary[2], primary[6]) == ("1", "2048", "")
    assert "s" in primary[11]
    assert user_id[9] == "made"
    assert (subkey[3], subkey[2]) == ("1", "2048")
    assert key_row(running, made) == ("gnupg", fingerprint)
    assert fingerprint in stored_fingerprints(running)
    assert accesses(running, made) == [("admin", 1)]


def test_a_new_key_with_all_of_its_options(running: Site, gpg: Gpg, made: str) -> None:
    public = done(
        running, "new-key", "--gnupg-name-real", "Real Name", made, "--key-admin", "alice",
        "--gnupg-name-comment", "a comment", "--gnupg-name-email", "mail@example.org",
        "--gnupg-expire-date", "2090-12-31", "--key-type", "gnupg",
        secrets=[ADMIN, "made-pw"],
    )  # fmt: skip
    assert expiry(gpg, public) == date(2090, 12, 31)
    (user_id,) = [line for line in gpg.listed(fingerprint_of(gpg, public)) if line[0] == "uid"]
    assert user_id[9] == "Real Name (a comment) <mail@example.org>"
    assert accesses(running, made) == [("alice", 1)]
    refused(running, AUTHENTICATION, "list-key-users", made, secrets=["made-pw"])
    assert (
        done(running, "list-key-users", made, options=["-u", "alice"], secrets=["made-pw"])
        == b"alice\n"
    )


@pytest.mark.parametrize(("kind", "key"), [("ECC", "ecc"), ("RSA", "rsa")])
def test_new_keys_in_pem(running: Site, kind: str, key: str) -> None:
    public = done(running, "get-public-key", key, secrets=[f"{key}-pw"])
    text = openssl("pkey", "-pubin", "-noout", "-text", data=public).decode()
    assert ("prime256v1" if kind == "ECC" else "(2048 bit)") in text
    der = openssl("pkey", "-pubin", "-outform", "DER", data=public)
    fingerprint = hashlib.sha1(der, usedforsecurity=False).hexdigest()
    assert key_row(running, key) == (kind, fingerprint)
    private = running.path(f"server/keys/{fingerprint}.pem")
    assert private.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert running.path(f"server/keys/{fingerprint}.public.pem").read_bytes() == public


@pytest.mark.once("our own words")
def test_options_of_a_new_key_that_have_no_effect_are_told(running: Site, made: str) -> None:
    words = ["new-key", made, "--key-type", "ECC", "--gnupg-expire-date", "2099-01-02"]
    result = running.sigul(*words, secrets=[ADMIN, "made-pw"])
    assert result.stderr.decode() == (
        "WARNING: --gnupg-expire-date has no effect: ECC keys have neither name nor expiry\n"
    )


def test_new_key_prints_the_public_key_in_pem(running: Site, made: str) -> None:
    public = done(running, "new-key", made, "--key-type", "ECC", secrets=[ADMIN, "made-pw"])
    assert public.startswith(b"-----BEGIN PUBLIC KEY-----\n")
    assert done(running, "get-public-key", made, secrets=["made-pw"]) == public
    done(running, "delete-key", made, secrets=[ADMIN])
    assert not [
        path for path in running.path("server/keys").iterdir() if path.read_bytes() == public
    ]


def test_a_key_is_made_at_the_terminal(running: Site, made: str) -> None:
    dialogue = Dialogue.of_sigul(running, "new-key", made, "--key-type", "ECC")
    dialogue.answer("Administrator's password", ADMIN)
    dialogue.answer("New key passphrase", "made-pw")
    dialogue.answer("New key passphrase (again)", "made-pw")
    screen = dialogue.end()
    assert "-----BEGIN PUBLIC KEY-----\n" in screen
    assert "made-pw" not in screen
    assert done(running, "list-key-users", made, secrets=["made-pw"]) == b"admin\n"


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        (EXISTS, ("gnupg",)),
        (EXISTS, ("ecc", "--key-type", "ECC")),
        (NO_USER, ("made", "--key-admin", "nobody")),
        (NO_USER, ("made", "--key-type", "RSA", "--key-admin", "nobody")),
    ],
    ids=" ".join,
)
def test_a_key_that_cannot_be_made(running: Site, text: str, arguments: tuple[str, ...]) -> None:
    before = secret_parts(running)
    refused(running, text, "new-key", *arguments, secrets=[ADMIN, "made-pw"])
    assert secret_parts(running) == before


@pytest.mark.parametrize(
    "arguments",
    [("--gnupg-expire-date", "2001-01-01"), ("--gnupg-name-real", "A <B>")],
    ids=" ".join,
)
def test_what_gnupg_does_not_take_leaves_nothing(
    running: Site, arguments: tuple[str, ...], made: str
) -> None:
    before = secret_parts(running)
    line = failure(running, "new-key", made, *arguments, secrets=[ADMIN, "made-pw"])
    assert line.startswith("Unknown error")
    assert secret_parts(running) == before
    assert_consistent(running)
    done(running, "new-key", made, "--key-type", "ECC", secrets=[ADMIN, "made-pw"])


# ---------------------------------------------------------------------------------- import-key


@pytest.mark.parametrize("armor", [True, False], ids=["armoured", "binary"])
def test_import_of_an_openpgp_key(
    running: Site, gpg: Gpg, made: str, tmp_path: Path, armor: bool
) -> None:
    fingerprint = gpg.make_key("imported", "file-pw")
    (tmp_path / "secret").write_bytes(gpg.secret_key(fingerprint, "file-pw", armor=armor))
    assert (
        done(
            running, "import-key", made, str(tmp_path / "secret"),
            secrets=[ADMIN, "file-pw", "made-pw"],
        )
        == b""
    )  # fmt: skip
    assert key_row(running, made) == ("gnupg", fingerprint)
    assert accesses(running, made) == [("admin", 1)]
    (tmp_path / "data").write_bytes(b"data")
    done(
        running, "sign-data", made, str(tmp_path / "data"), "-o", str(tmp_path / "signature"),
        secrets=["made-pw"],
    )  # fmt: skip
    assert gpg.signer(tmp_path / "signature", tmp_path / "data") == fingerprint
    refused(running, AUTHENTICATION, "get-public-key", made, secrets=["file-pw"])


def test_a_person_is_told_what_not_every_rpm_takes(
    running: Site, gpg: Gpg, made: str, tmp_path: Path
) -> None:
    """When the key is imported, and by doctor on both sides."""
    fingerprint = gpg.make_key("elliptic", "file-pw", algorithm="nistp256")
    (tmp_path / "secret").write_bytes(gpg.secret_key(fingerprint, "file-pw"))
    result = running.sigul(
        "import-key", made, str(tmp_path / "secret"), secrets=[ADMIN, "file-pw", "made-pw"]
    )
    said = "rpm without Sequoia, as Debian 12's 4.18, takes ECDSA signatures (nistp256) for broken"
    (line,) = result.stderr.decode().splitlines()
    assert line.startswith(f"Warning: for RPMs: {said} (Header DSA signature: BAD); sign RPMs with")
    for component, more, secrets in (
        ("client", ["--batch", "--key", made], ["made-pw"]),
        ("server", [], []),
    ):
        words = ["doctor", component, *more, "-c", str(running.path(f"{component}.conf"))]
        result = running.run(*module("stack"), *words, secrets=secrets, code=1)
        assert f"key '{made}', for RPMs: {said}" in result.stdout.decode()
    # A key that every rpm takes is nothing to talk of.
    done(running, "delete-key", made, secrets=[ADMIN])
    result = running.run(
        *module("stack"), "doctor", "server", "-c", str(running.path("server.conf")), code=None
    )
    assert b"for RPMs" not in result.stdout


def _pem(kind: str, form: str, password: str) -> bytes:
    """A new private key as a file: of PKCS#8 or traditional form in PEM, or PKCS#8 in DER."""
    if kind == "ECC":
        command, options, how = "ec", ["-pkeyopt", "ec_paramgen_curve:P-384"], []
    else:
        command, options, how = "rsa", ["-pkeyopt", "rsa_keygen_bits:2048"], ["-traditional"]
    key = openssl("genpkey", "-algorithm", command.upper(), *options)
    passed = ["-passout", f"pass:{password}"] if password else []
    if form == "DER":
        return openssl("pkcs8", "-topk8", "-outform", "DER", *(passed or ["-nocrypt"]), data=key)
    protection = ["-aes-256-cbc", *passed] if password else []
    if form == "traditional":
        return openssl(command, *protection, *how, data=key)
    return openssl("pkey", *protection, data=key)


@pytest.mark.once("our own files of keys")
@pytest.mark.parametrize(
    ("kind", "form", "password"),
    [
        ("ECC", "PKCS#8", "file-pw"),
        ("ECC", "DER", ""),
        ("RSA", "PKCS#8", "file-pw"),
        ("RSA", "traditional", "file-pw"),
    ],
)
def test_import_of_a_key_in_pem(
    running: Site, made: str, tmp_path: Path, kind: str, form: str, password: str
) -> None:
    file = tmp_path / "secret"
    file.write_bytes(_pem(kind, form, password))
    done(
        running, "import-key", "--key-type", kind, made, str(file), "--key-admin", "alice",
        secrets=[ADMIN, password, "made-pw"],
    )  # fmt: skip
    inform = ["-inform", "DER"] if form == "DER" else []
    expected = openssl("pkey", *inform, "-pubout", "-passin", f"pass:{password}", "-in", str(file))
    assert done(running, "get-public-key", made, "--password", secrets=[ADMIN]) == expected
    assert accesses(running, made) == [("alice", 1)]
    assert key_row(running, made)[0] == kind


@pytest.mark.once("rights and the database")
def test_the_file_may_be_a_pipe(running: Site, made: str, tmp_path: Path) -> None:
    content = _pem("ECC", "PKCS#8", "file-pw")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(content)
    result = running.run(
        "sh", "-c", 'cat "$1" >"$2" & shift 2; exec "$@"', "sh",
        str(tmp_path / "file"), str(tmp_path / "pipe"),
        *_batch(running), "import-key", made, "--key-type", "ECC", str(tmp_path / "pipe"),
        secrets=[ADMIN, "file-pw", "made-pw"],
    )  # fmt: skip
    assert (result.stdout, result.stderr) == (b"", b"")
    assert key_row(running, made)[0] == "ECC"


def _batch(site: Site) -> list[str]:

    return [*module("sigul"), "--batch", "-c", str(site.path("client.conf"))]


def test_imports_that_are_refused(running: Site, gpg: Gpg, made: str, tmp_path: Path) -> None:
    first = gpg.make_key("first", "file-pw")
    second = gpg.make_key("second", "file-pw")
    ecc = _pem("ECC", "PKCS#8", "file-pw")
    good = gpg.secret_key(first, "file-pw")
    invalid = {
        "garbage": b"no key at all\n",
        "nothing": b"",
        "public": gpg("--armor", "--export", first),
        "two": gpg.secret_key(first, "file-pw") + gpg.secret_key(second, "file-pw"),
        "cut": good[: len(good) // 2],
    }
    before = secret_parts(running)

    def attempt(content: bytes, *arguments: str, password: str = "file-pw", key: str = made) -> str:
        (tmp_path / "file").write_bytes(content)
        line = failure(
            running, "import-key", key, str(tmp_path / "file"), *arguments,
            secrets=[ADMIN, password, "made-pw"],
        )  # fmt: skip
        assert secret_parts(running) == before, (arguments, content)
        return line

    for name, content in invalid.items():
        assert attempt(content).startswith("Invalid import file"), name
        assert attempt(content, "--key-type", "RSA").startswith("Invalid import file"), name
    # An ECC key is no RSA key, and an OpenPGP key neither.
    assert attempt(ecc, "--key-type", "RSA").startswith("Invalid import file")
    assert attempt(good, "--key-type", "ECC").startswith("Invalid import file")
    assert attempt(good, password="wrong") == WRONG_PASSPHRASE
    assert attempt(ecc, "--key-type", "ECC", password="wrong") == WRONG_PASSPHRASE
    assert attempt(good, key="gnupg") == EXISTS
    assert attempt(ecc, "--key-type", "ECC", key="gnupg") == EXISTS
    assert attempt(good, "--key-admin", "nobody") == NO_USER
    assert_consistent(running)


def test_the_same_key_is_not_imported_twice(
    running: Site, gpg: Gpg, made: str, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    for kind, content in (
        ("gnupg", gpg.secret_key(gpg.make_key("twice", "file-pw"), "file-pw")),
        ("ECC", _pem("ECC", "PKCS#8", "file-pw")),
    ):
        file.write_bytes(content)
        command = ["import-key", "--key-type", kind, str(file)]
        secrets = [ADMIN, "file-pw", "made-pw"]
        done(running, command[0], made, *command[1:], secrets=secrets)
        line = failure(running, command[0], "another", *command[1:], secrets=secrets)
        assert line.startswith(EXISTS)
        assert_consistent(running)
        # Fault 21: once it is deleted, it is gone, and can come again.
        done(running, "delete-key", made, secrets=[ADMIN])
        assert_consistent(running)
        done(running, command[0], made, *command[1:], secrets=secrets)
        done(running, "get-public-key", made, secrets=["made-pw"])
        done(running, "delete-key", made, secrets=[ADMIN])


def forgotten(site: Site, name: str) -> None:
    """Have the database forget a key, as a `delete-key` of 1.2 did that left it in the store."""
    change_database(
        site, "DELETE FROM key_accesses WHERE key_id = (SELECT id FROM keys WHERE name = ?)", name
    )
    change_database(site, "DELETE FROM keys WHERE name = ?", name)


@pytest.mark.parametrize("kind", ["gnupg", pytest.param("ECC", marks=OUR_FILES)])
def test_a_key_that_was_left_in_the_store_is_taken_over(
    running: Site, gpg: Gpg, made: str, kind: str, tmp_path: Path
) -> None:
    file = tmp_path / "secret"
    file.write_bytes(
        gpg.secret_key(gpg.make_key("left", "file-pw"), "file-pw")
        if kind == "gnupg"
        else _pem("ECC", "PKCS#8", "file-pw")
    )
    command = ["import-key", made, "--key-type", kind, str(file)]
    before = secret_parts(running)
    done(running, *command, secrets=[ADMIN, "file-pw", "old-pw"])
    public = done(running, "get-public-key", made, secrets=["old-pw"])
    forgotten(running, made)
    refused(running, NO_KEY, "delete-key", made, secrets=[ADMIN])
    # A wrong passphrase takes nothing over.
    left = secret_parts(running)
    failure(running, *command, secrets=[ADMIN, "wrong", "new-pw"])
    assert secret_parts(running) == left
    done(running, *command, secrets=[ADMIN, "file-pw", "new-pw"])
    assert_consistent(running)
    assert done(running, "get-public-key", made, secrets=["new-pw"]) == public
    if kind == "gnupg":  # with the new passphrase, which is not the one that it had
        done(running, "sign-text", made, str(file), secrets=["new-pw"])
    done(running, "delete-key", made, secrets=[ADMIN])
    assert_consistent(running)
    assert secret_parts(running) == before


def test_what_was_left_of_a_key_may_have_more_subkeys_than_its_file(
    running: Site, gpg: Gpg, made: str, tmp_path: Path
) -> None:
    fingerprint = gpg.make_key("grown", "file-pw")
    (tmp_path / "small").write_bytes(gpg.secret_key(fingerprint, "file-pw"))
    gpg("--passphrase=file-pw", "--quick-add-key", fingerprint, "rsa2048", "sign", "never")
    (tmp_path / "large").write_bytes(gpg.secret_key(fingerprint, "file-pw"))
    before = secret_parts(running)
    for file in ("large", "small"):
        path = str(tmp_path / file)
        done(running, "import-key", made, path, secrets=[ADMIN, "file-pw", "made-pw"])
        assert_consistent(running)
        done(running, "sign-text", made, path, secrets=["made-pw"])
        if file == "large":
            forgotten(running, made)
            doctor = running.run(
                *module("stack"), "doctor", "server", "-c", str(running.path("server.conf")), code=1
            ).stdout.decode()
            left = f"key {fingerprint} is in {running.path('server/gnupg')}, but not in the"
            assert left in doctor
    done(running, "delete-key", made, secrets=[ADMIN])
    assert secret_parts(running) == before


@pytest.mark.parametrize("kind", ["gnupg", pytest.param("ECC", marks=OUR_FILES)])
def test_a_key_that_is_deleted_half_way_is_deleted_in_the_end(
    running: Site, made: str, kind: str
) -> None:
    """A directory stands where a file is to go. Meanwhile other keys are made and deleted."""
    before = secret_parts(running)
    done(running, "new-key", made, "--key-type", kind, secrets=[ADMIN, "made-pw"])
    fingerprint = str(key_row(running, made)[1])
    if kind == "gnupg":
        (part, *_) = {*secret_parts(running)} - before
        file = running.path("server/gnupg/private-keys-v1.d") / part
    else:
        file = running.path(f"server/keys/{fingerprint}.public.pem")
    file.unlink()
    (file / "in the way").mkdir(parents=True)
    said = (
        f"Unknown error: key '{made}' can no longer be used, but the server could not delete all of"
        " its files; mend what its log names, then run delete-key again"
    )
    for _ in range(2):
        refused(running, said, "delete-key", made, secrets=[ADMIN])
    refused(running, NO_KEY, "delete-key", "never-there", secrets=[ADMIN])
    assert rows(running, "SELECT * FROM keys WHERE name = ?", made) == []
    done(running, "new-key", "meanwhile", secrets=[ADMIN, "made-pw"])
    done(running, "delete-key", "meanwhile", secrets=[ADMIN])
    refused(running, said, "delete-key", made, secrets=[ADMIN])
    shutil.rmtree(file)
    done(running, "delete-key", made, secrets=[ADMIN])
    assert secret_parts(running) == before
    assert_consistent(running)
    refused(running, NO_KEY, "delete-key", made, secrets=[ADMIN])


@pytest.mark.once("our own reading of files")
def test_a_file_that_is_too_large_or_missing_is_found_before_any_request(
    running: Site, tmp_path: Path
) -> None:
    requests = running.processes[0].text.count("Client connected")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1024**2 + 1)
    line = failure(
        running, "import-key", "made", str(tmp_path / "large"), secrets=[ADMIN, "a-pw", "b-pw"]
    )
    assert "1048576" in line
    line = failure(running, "import-key", "made", str(tmp_path / "missing"))
    assert str(tmp_path / "missing") in line
    assert running.processes[0].text.count("Client connected") == requests


# ------------------------------------------------------- list, rename, delete, show, type allowed


@pytest.mark.once("rights and the database")
def test_list_keys_prints_names_and_types_sorted(running: Site) -> None:
    assert done(running, "list-keys", secrets=[ADMIN]) == b"ecc (ECC)\ngnupg (gnupg)\nrsa (RSA)\n"


@pytest.mark.once("rights and the database")
def test_modify_key_renames(running: Site, gpg: Gpg, made: str, tmp_path: Path) -> None:
    public = done(running, "new-key", made, secrets=[ADMIN, "made-pw"])
    row = key_row(running, made)
    assert done(running, "modify-key", made, "--new-name", "renamed", secrets=[ADMIN]) == b""
    assert key_row(running, "renamed") == row
    assert done(running, "get-public-key", "renamed", secrets=["made-pw"]) == public
    refused(running, AUTHENTICATION, "get-public-key", made, secrets=["made-pw"])
    refused(running, EXISTS, "modify-key", "renamed", "--new-name", "rsa", secrets=[ADMIN])
    assert done(running, "modify-key", "renamed", secrets=[ADMIN]) == b""
    assert done(running, "modify-key", "renamed", "--new-name", "renamed", secrets=[ADMIN]) == b""
    assert key_row(running, "renamed") == row
    (tmp_path / "data").write_bytes(b"data")
    signature = done(running, "sign-data", "-a", "renamed", str(tmp_path / "data"),
                     secrets=["made-pw"])  # fmt: skip
    gpg("--import", data=public)
    (tmp_path / "signature").write_bytes(signature)
    assert gpg.signer(tmp_path / "signature", tmp_path / "data") == row[1]


@pytest.mark.parametrize("kind", ["gnupg", pytest.param("RSA", marks=OUR_FILES)])
def test_delete_key_removes_all_of_it(running: Site, made: str, kind: str) -> None:
    before = secret_parts(running)
    done(running, "new-key", made, "--key-type", kind, secrets=[ADMIN, "made-pw"])
    done(running, "grant-key-access", made, "alice", secrets=["made-pw", "a-pw"])
    fingerprint = str(key_row(running, made)[1])
    if kind != "gnupg":
        running.path(f"server/keys/{fingerprint}.cert.root.pem").write_text("a certificate")
    assert done(running, "delete-key", made, secrets=[ADMIN]) == b""
    assert secret_parts(running) == before
    assert rows(running, "SELECT * FROM keys WHERE name = ?", made) == []
    assert accesses(running, made) == []
    refused(running, NO_KEY, "delete-key", made, secrets=[ADMIN])


@pytest.mark.once("rights and the database")
def test_who_has_access_to_a_key_is_not_deleted(running: Site, made: str) -> None:
    done(running, "new-user", "dora", secrets=[ADMIN])
    done(running, "grant-key-access", "ecc", "dora", secrets=["ecc-pw", "dora-pw"])
    has_access = "The specified user can access one or more keys"
    refused(running, has_access, "delete-user", "dora", secrets=[ADMIN])
    done(running, "revoke-key-access", "ecc", "dora", secrets=["ecc-pw"])
    done(running, "delete-user", "dora", secrets=[ADMIN])


@pytest.mark.once("rights and the database")
def test_a_key_that_is_not_there(running: Site) -> None:
    refused(running, NO_KEY, "delete-key", "nokey", secrets=[ADMIN])
    refused(running, NO_KEY, "modify-key", "nokey", "--new-name", "other", secrets=[ADMIN])
    refused(running, NO_KEY, "modify-key", "nokey", secrets=[ADMIN])


@pytest.mark.once("rights and the database")
def test_get_public_key_by_passphrase_or_administrators_password(running: Site) -> None:
    for key in ("gnupg", "ecc", "rsa"):
        public = done(running, "get-public-key", key, secrets=[f"{key}-pw"])
        assert done(running, "get-public-key", "--password", key, secrets=[ADMIN]) == public
    refused(running, NO_KEY, "get-public-key", "nokey", "--password", secrets=[ADMIN])


@pytest.mark.once("rights and the database")
def test_types_that_are_not_allowed(site: Site, tmp_path: Path) -> None:
    site.extra = {"server": {"keys": "allowed-key-types: ECC\necc-default-curve: SECP384R1\n"}}
    site.configure()
    (tmp_path / "rsa").write_bytes(_pem("RSA", "PKCS#8", ""))
    with site.running():
        refused(site, WRONG_TYPE, "new-key", "k", "--key-type", "RSA", secrets=[ADMIN, "k-pw"])
        line = failure(
            site, "import-key", "k", "--key-type", "RSA", str(tmp_path / "rsa"),
            secrets=[ADMIN, "", "k-pw"],
        )  # fmt: skip
        assert line == WRONG_TYPE
        public = done(site, "new-key", "k", "--key-type", "ECC", secrets=[ADMIN, "k-pw"])
        assert b"secp384r1" in openssl("pkey", "-pubin", "-noout", "-text", data=public)
        assert_consistent(site)


# ------------------------------------------------------------------------ change-key-expiration


def test_change_key_expiration(running: Site, gpg: Gpg) -> None:
    def change(*arguments: str) -> bytes:
        assert done(
            running, "change-key-expiration", "gnupg", *arguments, secrets=["gnupg-pw"]
        ) == b""  # fmt: skip
        return done(running, "get-public-key", "gnupg", secrets=["gnupg-pw"])

    public = change("--expire-date", "2091-03-04")
    assert (expiry(gpg, public), expiry(gpg, public, 1)) == (date(2091, 3, 4), None)
    public = change("--subkey", "1", "--expire-date", "2092-05-06")
    assert (expiry(gpg, public), expiry(gpg, public, 1)) == (date(2091, 3, 4), date(2092, 5, 6))
    public = change("--subkey", "1")
    assert (expiry(gpg, public), expiry(gpg, public, 1)) == (date(2091, 3, 4), None)
    public = change()
    assert (expiry(gpg, public), expiry(gpg, public, 1)) == (None, None)


@pytest.mark.parametrize(
    "arguments",
    [("--subkey", "2"), ("--subkey", "9", "--expire-date", "2090-01-01"),
     ("--expire-date", "2001-01-01")],
    ids=" ".join,
)  # fmt: skip
def test_an_expiration_that_cannot_be(running: Site, gpg: Gpg, arguments: tuple[str, ...]) -> None:
    before = done(running, "get-public-key", "gnupg", secrets=["gnupg-pw"])
    line = failure(running, "change-key-expiration", "gnupg", *arguments, secrets=["gnupg-pw"])
    assert line.startswith("Unknown error: ")
    assert done(running, "get-public-key", "gnupg", secrets=["gnupg-pw"]) == before


@pytest.mark.once("rights and the database")
@pytest.mark.parametrize("key", ["ecc", "rsa"])
def test_keys_in_pem_do_not_expire(running: Site, key: str) -> None:
    refused(
        running, WRONG_TYPE, "change-key-expiration", key, "--expire-date", "2090-01-01",
        secrets=[f"{key}-pw"],
    )  # fmt: skip


@pytest.mark.once("rights and the database")
def test_expiration_is_for_key_administrators(running: Site) -> None:
    done(running, "grant-key-access", "gnupg", "alice", secrets=["gnupg-pw", "a-pw"])
    try:
        for options, secret in (
            (["-u", "alice"], "a-pw"), (["-u", "alice"], "wrong"), ([], "a-pw"),
            ([], ADMIN), (["-u", "nobody"], "gnupg-pw"),
        ):  # fmt: skip
            refused(
                running, AUTHENTICATION, "change-key-expiration", "gnupg",
                options=options, secrets=[secret],
            )  # fmt: skip
    finally:
        done(running, "revoke-key-access", "gnupg", "alice", secrets=["gnupg-pw"])
