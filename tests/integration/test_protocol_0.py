"""All of protocol 0 by our own client, bridge and server: each operation, and what it makes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sigul_stack.protocol.versions import VERSIONS
from tests.site import Process, Site

from .commands_support import ADMIN, Gpg, done, leftovers, person
from .rpm_support import Rpm, build
from .test_sign_container import REFERENCE, manifest, verify
from .test_sign_git_tag import Repository as GitRepository
from .test_sign_ostree import Repository as OstreeRepository

pytestmark = pytest.mark.once("what the protocol says; other tests have each kind of signature")

__all__ = ["manifest"]

#: What the server's log says of a request.
SERVED = re.compile(r"'([a-z-]+)' of user 'admin'.*protocol version 0")


@pytest.fixture(scope="module")
def daemons(
    template: Site, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Site, Process]]:
    """A site whose bridge and server speak version 0 and no other, and its server."""
    site = Site.copy(template, tmp_path_factory.mktemp("zero") / "site")
    site.extra = {
        "client": {"client": "protocol: 0\n"},
        "bridge": {"bridge": "protocol-versions: 0\n"},
        "server": {"server": "protocol-versions: 0\n"},
    }
    site.configure()
    with site.running() as (_bridge, server):
        done(site, "new-key", "--name-real", "k", "k", secrets=[ADMIN, "k-pw"])
        yield site, server
        assert leftovers(site) == []


@pytest.fixture(scope="module")
def site(daemons: tuple[Site, Process]) -> Site:
    return daemons[0]


@pytest.fixture(scope="module")
def public(site: Site) -> bytes:
    return done(site, "get-public-key", "k", secrets=["k-pw"])


@pytest.fixture(scope="module")
def gpg(public: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gpg]:
    """A person who has the public key."""
    with person(tmp_path_factory.mktemp("person") / "gnupg", public) as someone:
        yield someone


def check_users(site: Site) -> None:
    assert done(site, "list-users", secrets=[ADMIN]) == b"admin\n"
    done(site, "new-user", "alice", "--with-password", secrets=[ADMIN, "alice-pw"])
    assert done(site, "user-info", "alice", secrets=[ADMIN]) == b"Administrator: no\n"
    done(site, "modify-user", "alice", "--admin", "yes", "--new-name", "bob", secrets=[ADMIN])
    assert done(site, "user-info", "bob", secrets=[ADMIN]) == b"Administrator: yes\n"
    done(site, "delete-user", "bob", secrets=[ADMIN])
    assert done(site, "list-users", secrets=[ADMIN]) == b"admin\n"


def check_access(site: Site) -> None:
    done(site, "new-user", "carol", secrets=[ADMIN])
    done(site, "grant-key-access", "k", "carol", secrets=["k-pw", "carol-pw"])
    assert done(site, "list-key-users", "k", secrets=["k-pw"]) == b"admin\ncarol\n"
    done(site, "modify-key-user", "carol", "k", "--key-admin", "yes", secrets=[ADMIN])
    said = done(site, "key-user-info", "carol", "k", secrets=[ADMIN])
    assert said == b"Access defined, key administrator: yes\n"
    done(site, "revoke-key-access", "k", "carol", secrets=["k-pw"])
    assert done(site, "list-key-users", "k", secrets=["k-pw"]) == b"admin\n"
    done(site, "change-passphrase", "k", secrets=["k-pw", "new-pw"])
    done(site, "change-passphrase", "k", secrets=["new-pw", "k-pw"])
    done(site, "list-server-binding-methods", secrets=[ADMIN])


def check_keys(site: Site, gpg: Gpg, tmp_path: Path) -> None:
    theirs = gpg.make_key("theirs", "file-pw")
    (tmp_path / "secret").write_bytes(gpg.secret_key(theirs, "file-pw"))
    words = ["import-key", "theirs", str(tmp_path / "secret")]
    done(site, *words, secrets=[ADMIN, "file-pw", "theirs-pw"])
    assert done(site, "list-keys", secrets=[ADMIN]) == b"k\ntheirs\n"
    done(site, "modify-key", "theirs", "--new-name", "other", secrets=[ADMIN])
    done(site, "change-key-expiration", "other", "--expire-date", "2099-12-31",
         secrets=["theirs-pw"])  # fmt: skip
    gpg("--import", data=done(site, "get-public-key", "other", secrets=["theirs-pw"]))
    (primary,) = [line for line in gpg.listed(theirs) if line[0] == "pub"]
    assert 4_102_272_000 <= int(primary[6]) < 4_102_444_800
    done(site, "delete-key", "other", secrets=[ADMIN])
    assert done(site, "list-keys", secrets=[ADMIN]) == b"k\n"


def check_texts_and_data(site: Site, gpg: Gpg, tmp_path: Path) -> None:
    file, signature = tmp_path / "file", tmp_path / "detached"
    file.write_bytes(b"content\n" * 10_000)
    gpg.signer("-o", tmp_path / "out",
               data=done(site, "sign-text", "k", str(file), secrets=["k-pw"]))  # fmt: skip
    assert (tmp_path / "out").read_bytes() == file.read_bytes()
    for options in ([], ["--armor"]):
        words = ["sign-data", *options, "-o", str(signature), "k", str(file)]
        done(site, *words, secrets=["k-pw"])
        assert signature.read_bytes().startswith(b"-----BEGIN PGP SIG") == bool(options)
        gpg.signer(signature, file)


def check_tags_containers_and_commits(site: Site, gpg: Gpg, manifest: Path, tmp_path: Path) -> None:
    git = GitRepository(tmp_path / "git")
    git.git("tag", "-a", "-m", "Release 1.0", "v1.0")
    done(site, "sign-git-tag", "k", "v1.0", secrets=["k-pw"], cwd=git.directory)
    assert "Good signature" in git.verify("v1.0", gpg)
    signature = tmp_path / "signature"
    done(site, "sign-container", "k", str(manifest), REFERENCE, "-o", str(signature),
         secrets=["k-pw"])  # fmt: skip
    verify(gpg, manifest, REFERENCE, signature)
    ostree = OstreeRepository(tmp_path)
    words = ["sign-ostree", "k", ostree.name, str(ostree.commit), "-o", str(ostree.metadata)]
    done(site, *words, secrets=["k-pw"])
    gpg("--output", str(gpg.home / "pubring.gpg"), "--yes", "--export")
    assert "Good signature" in ostree.show(gpg)


def check_packages(site: Site, public: bytes, tmp_path: Path) -> None:
    rpm = Rpm(tmp_path / "rpm", public)
    packages = [build(tmp_path, name, source=name == "second") for name in ("first", "second")]
    one = tmp_path / "one.rpm"
    done(site, "sign-rpm", "-o", str(one), "k", str(packages[0]), secrets=["k-pw"])
    assert len(rpm.signatures(one)) == 1
    done(site, "sign-rpms", "-o", str(tmp_path / "many"), "k", *map(str, packages),
         secrets=["k-pw"])  # fmt: skip
    for package in packages:
        assert len(rpm.signatures(tmp_path / "many" / package.name)) == 1
    done(site, "sign-rpm", "-o", str(one), "--v3-signature", "k", str(packages[0]),
         secrets=["k-pw"])  # fmt: skip


# About 12 s: every operation, with the programs that look at what it made.
def test_every_operation_of_version_0(
    daemons: tuple[Site, Process], gpg: Gpg, public: bytes, manifest: Path, tmp_path: Path
) -> None:
    site, server = daemons
    check_users(site)
    check_access(site)
    check_keys(site, gpg, tmp_path)
    check_texts_and_data(site, gpg, tmp_path)
    check_tags_containers_and_commits(site, gpg, manifest, tmp_path)
    check_packages(site, public, tmp_path)
    assert set(SERVED.findall(server.text)) == set(VERSIONS[0].operations)
