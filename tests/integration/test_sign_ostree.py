"""`sign-ostree`: commits in a real repository, looked at with `ostree show`."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.site import Site

from .commands_support import Gpg, done, failure, person, refused
from .signing_support import program, public_key, site_with_keys


@pytest.fixture(scope="module")
def running(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A running site with the gnupg keys `k` and `other` and the RSA key `rsa`."""
    directory = tmp_path_factory.mktemp("ostree")
    with site_with_keys(template, directory, k="gnupg", other="gnupg", rsa="RSA") as site:
        yield site


class Repository:
    """An OSTree repository with one commit."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "repo"
        tree = directory / "tree"
        tree.mkdir()
        (tree / "file").write_text("content")
        self.ostree("init", "--mode=archive")
        self.name = self.ostree(
            "commit", "-b", "lab", "-s", "subject", f"--tree=dir={tree}"
        ).strip()
        stem = self.path / "objects" / self.name[:2] / self.name[2:]
        self.commit = stem.with_suffix(".commit")
        self.metadata = stem.with_suffix(".commitmeta")

    def ostree(self, *arguments: str) -> str:
        return program("ostree", f"--repo={self.path}", *arguments).stdout.decode()

    def show(self, gpg: Gpg) -> str:
        """What `ostree show` says, to somebody who has some keys."""
        return self.ostree("show", f"--gpg-homedir={gpg.home}", self.name)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


@pytest.fixture(scope="module")
def gpg(running: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gpg]:
    """A person's GnuPG home, with both public keys where ostree looks for them."""
    keys = [public_key(running, name) for name in ("k", "other")]
    with person(tmp_path_factory.mktemp("gpg") / "person", *keys) as home:
        home("--output", str(home.home / "pubring.gpg"), "--export")
        yield home


def test_ostree_shows_a_good_signature(running: Site, gpg: Gpg, repository: Repository) -> None:
    command = ["sign-ostree", "k", repository.name, str(repository.commit)]
    done(running, *command, "-o", str(repository.metadata), secrets=["k-pw"])
    shown = repository.show(gpg)
    assert "Found 1 signature" in shown
    assert 'Good signature from "k <>"' in shown
    # Without -o it goes to standard output.
    repository.metadata.write_bytes(done(running, *command, secrets=["k-pw"]))
    assert 'Good signature from "k <>"' in repository.show(gpg)


def test_a_second_signature_beside_the_first(
    running: Site, gpg: Gpg, repository: Repository
) -> None:
    def sign(key: str, *further: str) -> None:
        done(
            running, "sign-ostree", key, repository.name, str(repository.commit),
            "-o", str(repository.metadata), *further, secrets=[f"{key}-pw"],
        )  # fmt: skip

    sign("k")
    # What ostree itself adds is kept as well.
    before = repository.metadata.read_bytes()
    own = gpg.make_key("own", "")
    repository.ostree("gpg-sign", f"--gpg-homedir={gpg.home}", repository.name, own)
    assert repository.metadata.read_bytes() != before
    sign("other", "--commitmeta", str(repository.metadata))
    shown = repository.show(gpg)
    assert "Found 3 signatures" in shown
    assert 'Good signature from "k <>"' in shown
    assert 'Good signature from "other <>"' in shown
    assert own[-16:] in shown


def test_signed_again_by_the_same_key_there_is_one_signature(
    running: Site, gpg: Gpg, repository: Repository
) -> None:
    """So has ostree, which refuses the second one."""

    def sign(key: str) -> None:
        done(
            running, "sign-ostree", key, repository.name, str(repository.commit),
            "-o", str(repository.metadata), *further, secrets=[f"{key}-pw"],
        )  # fmt: skip

    further: list[str] = []
    sign("other")
    further = ["--commitmeta", str(repository.metadata)]
    sign("k")
    first = repository.metadata.read_bytes()
    # Of another second, so that it is another signature.
    time.sleep(1)
    sign("k")
    assert repository.metadata.read_bytes() != first
    assert len(repository.metadata.read_bytes()) == len(first)
    shown = repository.show(gpg)
    assert "Found 2 signatures" in shown
    assert 'Good signature from "k <>"' in shown
    assert 'Good signature from "other <>"' in shown
    # ostree's own second one.
    own = gpg.make_key("second", "")
    gpg("--yes", "--output", str(gpg.home / "pubring.gpg"), "--export")
    repository.ostree("gpg-sign", f"--gpg-homedir={gpg.home}", repository.name, own)
    again = program(
        "ostree", f"--repo={repository.path}", "gpg-sign", f"--gpg-homedir={gpg.home}",
        repository.name, own, code=1,
    )  # fmt: skip
    assert b"already signed" in again.stderr


def test_the_metadata_of_another_commit_are_refused(
    running: Site, gpg: Gpg, repository: Repository, tmp_path: Path
) -> None:
    """Their signature would stand there as a bad one."""
    done(
        running, "sign-ostree", "other", repository.name, str(repository.commit),
        "-o", str(repository.metadata), secrets=["other-pw"],
    )  # fmt: skip
    (tmp_path / "tree" / "file").write_text("changed")
    later = repository.ostree(
        "commit", "-b", "lab", "-s", "later", f"--tree=dir={tmp_path / 'tree'}"
    ).strip()
    commit = (repository.path / "objects" / later[:2] / later[2:]).with_suffix(".commit")
    output = tmp_path / "output"
    line = failure(
        running, "sign-ostree", "k", later, str(commit), "-o", str(output),
        "--commitmeta", str(repository.metadata), secrets=["k-pw"],
    )  # fmt: skip
    assert line == (
        "these detached metadata have a signature of another commit; give the .commitmeta of the"
        " commit that is signed, or none"
    )
    assert not output.exists()


def test_the_object_must_be_a_commit(running: Site, repository: Repository) -> None:
    """Whatever else has that SHA-256 is not signed, another object of the repository neither."""
    (tree,) = repository.path.glob("objects/*/*.dirtree")
    name = hashlib.sha256(tree.read_bytes()).hexdigest()
    line = failure(running, "sign-ostree", "k", name, str(tree), secrets=["k-pw"])
    assert line.startswith("Unknown error: this is no OSTree commit: it")


def test_the_object_must_be_the_commit(running: Site, repository: Repository) -> None:
    commit = str(repository.commit)
    found = hashlib.sha256(repository.commit.read_bytes()).hexdigest()
    assert found == repository.name
    for name, reason in (
        ("0" * 64, f"the SHA-256 of the commit object is {found}, not {'0' * 64}"),
        (repository.name.upper(), "a commit's name is a SHA-256 in lower-case"),
        (repository.name[:-1], "a commit's name is a SHA-256 in lower-case"),
    ):
        line = failure(running, "sign-ostree", "k", name, commit, secrets=["k-pw"])
        assert line.startswith(f"Unknown error: {reason}")


def test_refused(running: Site, repository: Repository, tmp_path: Path) -> None:
    command = [repository.name, str(repository.commit)]
    refused(
        running, "Unsupported keytype for operation", "sign-ostree", "rsa", *command,
        secrets=["rsa-pw"],
    )  # fmt: skip
    refused(running, "Authentication failed", "sign-ostree", "k", *command, secrets=["rsa-pw"])
    # What is no .commitmeta is found before a secret is asked for, and what is there stays.
    (tmp_path / "junk").write_bytes(b"junk")
    line = failure(
        running, "sign-ostree", "k", *command, "--commitmeta", str(tmp_path / "junk"),
        "-o", str(tmp_path / "junk"),
    )  # fmt: skip
    assert "give the commit's .commitmeta" in line
    assert (tmp_path / "junk").read_bytes() == b"junk"
    line = failure(running, "sign-ostree", "k", *command, "--commitmeta", "/nowhere")
    assert line.startswith("'/nowhere' cannot be read")
