"""Attacks on keys, certificates and rights by who has a user and a key of his own.

What each attacker is answered is printed, as `ANSWER`: on a server without the rule that refuses
him, that is what he gets.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sigul_stack.errors import Status
from tests.faults.scripted import Peer
from tests.hostile.conftest import KEY, AttackerFactory, HonestFactory, passphrase
from tests.integration import rpm_support
from tests.integration.commands_support import rows, verifies
from tests.integration.signing_support import program
from tests.integration.test_failures_in_flight import Gate
from tests.pe_images import Machine, make_image
from tests.site import Site

pytestmark = pytest.mark.once("the server's own rules")

STRICT = {"server": {"keys": "require-subject-key-access: yes\n"}}
OWN = "trentpem"


def answered(peer: Peer, what: str, op: str, fields: Mapping[str, str], **how: Any) -> Any:
    """Send trent's request and print what comes back."""
    result = peer.run(
        op=op,
        user="trent",
        fields={name: value.encode() for name, value in fields.items()},
        **how,
    )
    message = result.get("fields", {}).get("message", b"").decode()
    size = len(result.get("payload", b""))
    print(f"ANSWER {what}: {Status(result['status']).name} {message!r}, {size} bytes of payload")
    return result["status"], message


def with_passphrase(user: str, key: str) -> dict[str, bytes]:
    return {"passphrase": passphrase(user, key).encode()}


def new_key(site: Site, key: str, keytype: str, *, owner: str = "admin") -> None:
    site.sigul(
        "new-key", key, "--key-type", keytype, "--key-admin", owner,
        secrets=[site.admin_password, passphrase(owner, key)],
    )  # fmt: skip


def certificate(issuer: str, subject: str, name: str, dn: str, issued_by: str = "") -> list[str]:
    return [
        "sign-certificate", issuer, subject, "--subject-certificate-name", name,
        "--certificate-type", "ca", "--validity", "1y", "-s", dn,
        *(["--issuer-certificate-name", issued_by] if issued_by else []),
    ]  # fmt: skip


def sign_certificate(site: Site, *words: str, owner: str = "admin") -> bytes:
    """A certificate that its owner has a right to."""
    return site.sigul(
        *certificate(*words), secrets=[passphrase(owner, words[0])], config=f"{owner}.conf"
    ).stdout


def request(subject: str, name: str = "x", dn: str = "CN=X") -> dict[str, str]:
    """The fields of trent's request for a certificate by his own key and its certificate `own`."""
    return {
        "issuer-key": OWN, "issuer-certificate-name": "own", "subject-key": subject,
        "subject-certificate-name": name, "subject": dn, "validity": "1y",
        "certificate-type": "ca",
    }  # fmt: skip


def stored(site: Site) -> set[str]:
    return {path.name for path in site.path("server/keys").glob("*.cert.*.pem")}


# ------------------------------------------------------------------------------- certificates


# More than 5 s: a site with two keys more, and honest users beside.
def test_a_strangers_keys_are_neither_told_nor_written_to(
    quiet: Site, honest_at: HonestFactory, attacker: AttackerFactory
) -> None:
    quiet.extra = STRICT
    quiet.configure()
    with quiet.running() as (_bridge, server):
        new_key(quiet, OWN, "ECC", owner="trent")
        new_key(quiet, "victim", "ECC")
        sign_certificate(quiet, "victim", "victim", "taken", "CN=Victim")
        sign_certificate(quiet, OWN, OWN, "own", "CN=Evil", owner="trent")
        before = stored(quiet)
        trent = attacker(quiet, "trent")
        with honest_at(quiet).during("certificates for others' keys"):
            answers = {
                what: answered(
                    trent, what, "sign-certificate", fields, secrets=with_passphrase("trent", OWN)
                )
                for what, fields in (
                    ("a key of another's", request("victim", "free")),
                    ("a certificate's name that is taken there", request("victim", "taken")),
                    ("a key of another type", request(KEY)),
                    ("no key", request("nowhere")),
                )
            }
        assert set(answers.values()) == {(Status.AUTHENTICATION_FAILED, "")}
        assert stored(quiet) == before
        # For a key that he has an access to there is nothing to it.
        quiet.sigul(
            "grant-key-access", "victim", "trent",
            secrets=[passphrase("admin", "victim"), passphrase("trent", "victim")],
        )  # fmt: skip
        fields = request("victim", "free")
        secrets = with_passphrase("trent", OWN)
        assert answered(trent, "granted", "sign-certificate", fields, secrets=secrets)[0] == 0
    assert "no access to it" in server.text


# More than 5 s: four RSA keys and their certificates, and honest users beside.
def test_nobody_takes_a_place_in_anothers_chain(
    quiet: Site, honest_at: HonestFactory, attacker: AttackerFactory, tmp_path: Path
) -> None:
    """Without the option, too: an equal name for the same key, by an issuer of his own."""
    with quiet.running():
        new_key(quiet, OWN, "RSA", owner="trent")
        for key in ("root", "between", "leaf"):
            new_key(quiet, key, "RSA")
        sign_certificate(quiet, OWN, OWN, "own", "CN=Evil", owner="trent")
        root = tmp_path / "root.pem"
        root.write_bytes(sign_certificate(quiet, "root", "root", "own", "CN=Root"))
        sign_certificate(quiet, "root", "between", "own", "CN=Between", "own")
        quiet.sigul(
            "sign-certificate", "between", "leaf", "--issuer-certificate-name", "own",
            "--subject-certificate-name", "own", "--certificate-type", "codesigning",
            "--validity", "1y", "-s", "CN=Leaf", secrets=[passphrase("admin", "between")],
        )  # fmt: skip
        trent = attacker(quiet, "trent")
        image, signed = tmp_path / "image.efi", tmp_path / "signed.efi"
        image.write_bytes(make_image(Machine.X86_64))
        with honest_at(quiet).during("a certificate in another's chain"):
            answered(
                trent, "a certificate for another's key", "sign-certificate",
                request("between", "AAA", "CN=Between"), secrets=with_passphrase("trent", OWN),
            )  # fmt: skip
            quiet.sigul(
                "sign-pe", "leaf", "own", str(image), "-o", str(signed),
                secrets=[passphrase("admin", "leaf")],
            )  # fmt: skip
        listed = program("sbverify", "--list", signed).stdout.decode()
        print(f"ANSWER the image's signature: {listed}")
        assert "CN=Evil" not in listed.replace(" ", "")
        program("sbverify", "--cert", root, signed)


# More than 5 s: a score of requests, and honest users beside.
def test_certificates_are_limited_in_number_and_removed_again(
    quiet: Site, honest_at: HonestFactory, attacker: AttackerFactory
) -> None:
    quiet.extra = {"server": {"keys": "max-certificates-per-key: 4\n"}}
    quiet.configure()
    with quiet.running():
        new_key(quiet, OWN, "ECC", owner="trent")
        new_key(quiet, "victim", "ECC")
        sign_certificate(quiet, OWN, OWN, "own", "CN=Evil", owner="trent")
        secrets = [passphrase("admin", "victim")]
        trent = attacker(quiet, "trent")
        with honest_at(quiet).during("certificates without end"):
            answers = [
                answered(
                    trent, f"certificate {name}", "sign-certificate", request("victim", name),
                    secrets=with_passphrase("trent", OWN),
                )
                for name in "abcdef"
            ]  # fmt: skip
        assert [status for status, _ in answers] == [0] * 4 + [Status.UNKNOWN_ERROR] * 2
        assert "as many as max-certificates-per-key lets it" in answers[-1][1]
        # He who may not use the key may not list or delete either; its administrator may.
        for op, fields in (
            ("list-certificates", {"key": "victim"}),
            ("delete-certificate", {"key": "victim", "cert-name": "a"}),
            ("delete-certificate", {"key": "nowhere", "cert-name": "a"}),
        ):
            refused = answered(trent, op, op, fields, secrets=with_passphrase("trent", OWN))
            assert refused == (Status.AUTHENTICATION_FAILED, "")
        listed = quiet.sigul("list-certificates", "victim", secrets=secrets).stdout.decode()
        assert [line.split()[0] for line in listed.splitlines()] == ["a", "b", "c", "d"]
        assert "a (CA, subject CN=X, issuer CN=Evil, until " in listed
        for name in "abc":
            quiet.sigul("delete-certificate", "victim", name, secrets=secrets)
        quiet.sigul(
            "delete-certificate", "victim", "d", "--password", secrets=[quiet.admin_password]
        )
        assert quiet.sigul("list-certificates", "victim", secrets=secrets).stdout == b""
        sign_certificate(quiet, "victim", "victim", "a", "CN=Mine")
        gone = quiet.sigul("delete-certificate", "victim", "b", secrets=secrets, code=1)
        assert b"has no certificate named 'b'" in gone.stderr
        wrong = quiet.sigul("list-certificates", KEY, secrets=[passphrase("admin")], code=1)
        assert b"Unsupported keytype" in wrong.stderr


# ---------------------------------------------------------------------------- limits of an access


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """RPM packages by their names."""
    directory = tmp_path_factory.mktemp("packages")
    return {name: rpm_support.build(directory, name) for name in ("kernel-core", "bash")}


def limited(site: Site, *limits: str) -> None:
    """Give trent an access to `KEY` with limits."""
    site.sigul(
        "grant-key-access", KEY, "trent", *limits,
        secrets=[passphrase("admin"), passphrase("trent")],
    )  # fmt: skip


# More than 5 s: a score of requests, and honest users beside.
def test_an_access_is_good_for_what_it_says_and_no_more(
    quiet: Site,
    honest_at: HonestFactory,
    attacker: AttackerFactory,
    packages: Mapping[str, Path],
    tmp_path: Path,
) -> None:
    with quiet.running():
        limited(quiet, "--rpm-name", "kernel*")
        trent = attacker(quiet, "trent")
        secrets = with_passphrase("trent", KEY)
        mine = {"key": KEY}
        with honest_at(quiet).during("an access is used for all that a key is for"):
            for op, fields in (
                ("sign-text", mine),
                ("sign-data", mine),
                ("decrypt", mine),
                ("sign-container", {**mine, "docker-reference": "r"}),
            ):
                status, message = answered(trent, op, op, fields, secrets=secrets)
                assert status == Status.AUTHENTICATION_FAILED
                assert message == (
                    f"your access to key '{KEY}' is limited to sign-rpm, sign-rpms; RPMs named"
                    " kernel*"
                )
            other = packages["bash"].read_bytes()
            for further in ({}, {"rpm-name": "kernel-core"}):
                status, message = answered(
                    trent, f"another RPM {further}", "sign-rpm", {**mine, **further},
                    secrets=secrets, payload=other,
                )  # fmt: skip
                assert status in (Status.AUTHENTICATION_FAILED, Status.CORRUPT_RPM)
                assert "'bash'" in message
        # A wrong passphrase is told nothing of limits.
        wrong = {"passphrase": b"a wrong passphrase"}
        refused = answered(trent, "wrong passphrase", "sign-text", mine, secrets=wrong)
        assert refused == (Status.AUTHENTICATION_FAILED, "")

        def sigul(*words: str, code: int = 0) -> bytes:
            done = quiet.sigul(
                *words, secrets=[passphrase("trent")], config="trent.conf", code=code
            )
            return done.stderr

        target = tmp_path / "signed.rpm"
        for how in ([], ["--head-signing"]):
            said = sigul("sign-rpm", KEY, str(packages["bash"]), *how, "-o", str(target), code=1)
            assert b"RPMs named kernel*" in said
            assert not target.exists()
            sigul("sign-rpm", KEY, str(packages["kernel-core"]), *how, "-o", str(target))
            target.unlink()
        both = list(map(str, packages.values()))
        said = sigul("sign-rpms", KEY, *both, "-o", str(tmp_path / "out"), code=1)
        assert said.count(b"RPMs named kernel*") == 1
        assert [path.name for path in (tmp_path / "out").iterdir()] == [
            packages["kernel-core"].name
        ]
        assert (
            b"BEGIN PGP PUBLIC KEY"
            in quiet.sigul(
                "get-public-key", KEY, secrets=[passphrase("trent")], config="trent.conf"
            ).stdout
        )
        quiet.sigul(
            "change-passphrase", KEY, secrets=[passphrase("trent"), "another passphrase"],
            config="trent.conf",
        )  # fmt: skip
        assert rows(quiet, "SELECT operations, rpm_names FROM key_access_limits") == [
            ("sign-rpm,sign-rpms", "kernel*")
        ]


# More than 5 s: a score of requests, and honest users beside.
def test_nobody_gives_more_than_he_has(
    quiet: Site, honest_at: HonestFactory, attacker: AttackerFactory
) -> None:
    admin = [quiet.admin_password]
    with quiet.running():
        limited(quiet, "--only", "sign-data,grant-key-access,list-key-users")
        quiet.sigul("modify-key-user", "trent", KEY, "--key-admin", "yes", secrets=admin)
        quiet.sigul("modify-user", "trent", "--admin", "yes", "--change-password",
                    secrets=[*admin, "trent-password"])  # fmt: skip
        quiet.sigul("new-user", "mallory", secrets=admin)
        trent = attacker(quiet, "trent")
        passphrases = {**with_passphrase("trent", KEY), "new-passphrase": b"mallory's passphrase"}
        with honest_at(quiet).during("a limited key administrator"):
            for only in ("sign-data,decrypt", "sign-text", ""):
                status, message = answered(
                    trent, f"grants '{only}'", "grant-key-access",
                    {"key": KEY, "name": "mallory", "only": only}, secrets=passphrases,
                )  # fmt: skip
                assert status == Status.AUTHENTICATION_FAILED
                assert message.startswith("nobody gives more than he has: ")
            status, message = answered(
                trent, "lifts his own limit", "modify-key-user",
                {"key": KEY, "name": "trent", "only": ""},
                secrets={"password": b"trent-password"},
            )  # fmt: skip
            assert status == Status.AUTHENTICATION_FAILED
            assert message.startswith("nobody gives more than he has: ")
        # What he does not name is as his own.
        answer = answered(
            trent, "grants", "grant-key-access", {"key": KEY, "name": "mallory"},
            secrets=passphrases,
        )  # fmt: skip
        assert answer == (0, "")
        shown = quiet.sigul("key-user-info", "mallory", KEY, secrets=admin).stdout.decode()
        assert shown == (
            "Access defined, key administrator: no\n"
            "Only: grant-key-access, list-key-users, sign-data\n"
        )
        # Another administrator changes it, and ends it.
        for words, told in (
            (["--only", "sign-rpm"], "Only: sign-rpm\n"),
            (["--rpm-name", "a*", "--rpm-name", "b"], "Only: sign-rpm\nRPMs named: a*, b\n"),
            (["--only", "all"], "Only: sign-rpm, sign-rpms\nRPMs named: a*, b\n"),
            (["--rpm-name", "*", "--only", "all"], ""),
        ):
            quiet.sigul("modify-key-user", "mallory", KEY, *words, secrets=admin)
            shown = quiet.sigul("key-user-info", "mallory", KEY, secrets=admin).stdout.decode()
            assert shown == f"Access defined, key administrator: no\n{told}"
        for words, told in (
            (["--only", "sign-dat"], "'sign-dat' is no operation on a key"),
            (["--only", "list-users"], "'list-users' is no operation on a key"),
            (["--only", "sign-data", "--rpm-name", "a"], "who may use 'sign-data' can sign an RPM"),
        ):
            failed = quiet.sigul("modify-key-user", "mallory", KEY, *words, secrets=admin, code=1)
            assert told in failed.stderr.decode()


# ------------------------------------------------------------------ rights that were taken back


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


def revoked(site: Site) -> None:
    site.sigul("revoke-key-access", "trents", "trent", "--password", secrets=[site.admin_password])


def limited_meanwhile(site: Site) -> None:
    site.sigul(
        "modify-key-user", "trent", "trents", "--only", "sign-text", secrets=[site.admin_password]
    )


@pytest.mark.parametrize("taken_back", [revoked, limited_meanwhile])
def test_a_signature_is_not_sent_once_the_access_is_gone(
    quiet: Site, attacker: AttackerFactory, gate: Gate, taken_back: Callable[[Site], None]
) -> None:
    quiet.variables |= gate.environment
    with quiet.running():
        gate.close("PKSIGN")
        trent = attacker(quiet, "trent")
        trent.start(
            op="sign-data", user="trent", fields={"key": b"trents"}, payload=b"data",
            secrets=with_passphrase("trent", "trents"),
        )  # fmt: skip
        gate.wait()
        taken_back(quiet)
        gate.open()
        result = trent.result()
        print(f"ANSWER sign-data: {Status(result['status']).name}, {result.get('payload')!r}")
        assert result["status"] == Status.AUTHENTICATION_FAILED
        assert result["payload"] == b""


# More than 5 s: a key is made.
def test_what_an_administrator_began_is_not_done_once_he_is_none(
    quiet: Site, attacker: AttackerFactory, gate: Gate
) -> None:
    quiet.variables |= gate.environment
    admin = [quiet.admin_password]
    with quiet.running():
        quiet.sigul("modify-user", "trent", "--admin", "yes", "--change-password",
                    secrets=[*admin, "trent-password"])  # fmt: skip
        gate.close("--full-generate-key")
        trent = attacker(quiet, "trent")
        trent.start(
            op="new-key", user="trent", fields={"key": b"mine"},
            secrets={"password": b"trent-password", "passphrase": b"a passphrase"},
        )  # fmt: skip
        gate.wait()
        quiet.sigul("modify-user", "trent", "--admin", "no", secrets=admin)
        gate.open()
        result = trent.result()
        print(f"ANSWER new-key: {Status(result['status']).name}")
        assert result["status"] == Status.AUTHENTICATION_FAILED
        assert rows(quiet, "SELECT * FROM keys WHERE name = 'mine'") == []
        # His own password is another matter: what he changes himself is answered.
        quiet.sigul("modify-user", "admin", "--change-password", secrets=[*admin, "new password"])
        assert verifies("new password", _password(quiet, "admin"))


def _password(site: Site, user: str) -> bytes:
    ((found,),) = rows(site, "SELECT sha512_password FROM users WHERE name = ?", user)
    assert isinstance(found, bytes)
    return found


# ----------------------------------------------------------------------- a server of 1.2 meanwhile


# More than 5 s: a site is started three times.
def test_what_a_1_2_server_takes_away_leaves_no_limit_behind(quiet: Site, tmp_path: Path) -> None:
    """SQLite gives the number of a deleted row to the next one; 1.2 heeds no foreign keys."""
    with quiet.running():
        limited(quiet, "--only", "sign-rpm")
    file = quiet.path("server/server.sqlite")
    shutil.copy(file, tmp_path / "before")
    with closing(sqlite3.connect(file)) as theirs:
        # As 1.2 does: the access of the newest row goes, and another gets its number.
        ((number, key, sealed),) = theirs.execute(
            "SELECT id, key_id, encrypted_passphrase FROM key_accesses"
            " WHERE id IN (SELECT key_access_id FROM key_access_limits)"
        ).fetchall()
        theirs.execute("DELETE FROM key_accesses WHERE id = ?", (number,))
        theirs.execute("INSERT INTO users (name, admin) VALUES ('mallory', 0)")
        ((user,),) = theirs.execute("SELECT id FROM users WHERE name = 'mallory'").fetchall()
        theirs.execute(
            "INSERT INTO key_accesses (key_id, user_id, encrypted_passphrase, key_admin)"
            " VALUES (?, ?, ?, 0)", (key, user, sealed),
        )  # fmt: skip
        ((again,),) = theirs.execute(
            "SELECT id FROM key_accesses WHERE user_id = ?", (user,)
        ).fetchall()
        theirs.commit()
    assert again == number
    data = tmp_path / "data"
    data.write_text("data")
    with quiet.running():
        # Hers by 1.2: not limited.
        quiet.sigul(
            "sign-data", KEY, str(data), "-o", str(tmp_path / "signature"),
            secrets=[passphrase("trent")], config="mallory.conf",
        )  # fmt: skip
    # A passphrase that 1.2 changed leaves the limit where it is.
    shutil.copy(tmp_path / "before", file)
    with closing(sqlite3.connect(file)) as theirs:
        theirs.execute(
            "UPDATE key_accesses SET encrypted_passphrase = encrypted_passphrase WHERE id = ?",
            (number,),
        )
        theirs.commit()
    with quiet.running():
        failed = quiet.sigul(
            "sign-data", KEY, str(data), "-o", str(tmp_path / "other"),
            secrets=[passphrase("trent")], config="trent.conf", code=1,
        )  # fmt: skip
        assert b"is limited to sign-rpm" in failed.stderr
