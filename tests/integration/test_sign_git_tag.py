"""`sign-git-tag`: tags in real repositories, verified by `git tag -v`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sigul_stack.client.git_tag import read_tag
from sigul_stack.errors import SigulError
from tests.site import Site

from .commands_support import Gpg, done, failure, person
from .signing_support import program, public_key, site_with_keys

WHO = {
    "GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "C", "GIT_COMMITTER_EMAIL": "c@example.org",
    "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null",
}  # fmt: skip


@pytest.fixture(scope="module")
def running(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A running site with the gnupg keys `k` and `other` and the ECC key `ecc`."""
    directory = tmp_path_factory.mktemp("tags")
    with site_with_keys(template, directory, k="gnupg", other="gnupg", ecc="ECC") as site:
        yield site


@pytest.fixture(scope="module")
def gpg(running: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gpg]:
    """A person's GnuPG home with both public keys."""
    keys = [public_key(running, name) for name in ("k", "other")]
    with person(tmp_path_factory.mktemp("gpg") / "person", *keys) as home:
        yield home


class Repository:
    """A repository with one commit."""

    def __init__(self, directory: Path, object_format: str = "sha1") -> None:
        self.directory = directory
        directory.mkdir()
        self.git("init", "--quiet", f"--object-format={object_format}")
        self.git("commit", "--quiet", "--allow-empty", "-m", "first")

    def git(self, *arguments: str, code: int = 0, data: bytes = b"") -> bytes:
        done_ = program(
            "git", *arguments, code=code, data=data, cwd=self.directory, environment=WHO
        )
        return done_.stdout

    def verify(self, tag: str, gpg: Gpg, *, code: int = 0) -> str:
        """What `git tag -v` says."""
        environment = {**WHO, "GNUPGHOME": str(gpg.home)}
        done_ = program(
            "git", "tag", "-v", tag, code=code, cwd=self.directory, environment=environment
        )
        return done_.stderr.decode()

    def object_id(self, tag: str) -> str:
        return self.git("rev-parse", f"refs/tags/{tag}").decode().strip()


@pytest.fixture(params=["sha1", "sha256"])
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository", request.param)


@pytest.fixture
def plain(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "plain")


def sign(site: Site, repository: Repository, tag: str, key: str = "k") -> None:
    output = done(site, "sign-git-tag", key, tag, secrets=[f"{key}-pw"], cwd=repository.directory)
    assert output == b""


def test_a_tag_is_signed_in_its_place(running: Site, gpg: Gpg, repository: Repository) -> None:
    repository.git("tag", "-a", "-m", "Release 1.0\n\nwith notes\n- one", "v1.0")
    before, old = repository.git("cat-file", "tag", "v1.0"), repository.object_id("v1.0")
    repository.verify("v1.0", gpg, code=1)
    sign(running, repository, "v1.0")
    after = repository.git("cat-file", "tag", "v1.0")
    assert after.startswith(before + b"-----BEGIN PGP SIGNATURE-----\n")
    assert "Good signature" in repository.verify("v1.0", gpg)
    repository.git("fsck", "--strict")
    # The tag's former object is still there, for who wants it back.
    assert repository.git("cat-file", "tag", old) == before


def test_a_signed_tag_is_signed_anew(running: Site, gpg: Gpg, repository: Repository) -> None:
    repository.git("tag", "-a", "-m", "Release", "v1.0")
    before = repository.git("cat-file", "tag", "v1.0")
    for key in ("other", "k"):
        sign(running, repository, "v1.0", key)
        after = repository.git("cat-file", "tag", "v1.0")
        assert after.count(b"-----BEGIN PGP SIGNATURE-----") == 1
        assert after.startswith(before)
        assert f'Good signature from "{key}"' in repository.verify("v1.0", gpg)


@pytest.mark.parametrize("header", ["gpgsig", "gpgsig-sha256"])
def test_a_signature_among_the_headers_is_left_out(
    running: Site, gpg: Gpg, repository: Repository, header: str
) -> None:
    """git of two formats writes one; when it verifies a tag, it looks at the tag without it."""
    repository.git("tag", "-a", "-m", "x", "v1")
    head, _, message = repository.git("cat-file", "tag", "v1").partition(b"\n\n")
    other = f"\n{header} -----BEGIN PGP SIGNATURE-----\n abc\n -----END PGP SIGNATURE-----"
    content = head + other.encode() + b"\n\n" + message
    written = repository.git(
        "hash-object", "-t", "tag", "-w", "--literally", "--stdin", data=content
    )
    repository.git("update-ref", "refs/tags/v1", written.decode().strip())
    sign(running, repository, "v1")
    assert "Good signature" in repository.verify("v1", gpg)
    assert header.encode() not in repository.git("cat-file", "tag", "v1")


def test_what_git_refuses_has_a_cure(running: Site, plain: Repository, tmp_path: Path) -> None:
    plain.git("tag", "-a", "-m", "x", "v1")

    def said(directory: Path, tag: str = "v1") -> str:
        return failure(running, "sign-git-tag", "k", tag, secrets=["k-pw"], cwd=directory)

    lock = plain.directory / ".git/refs/tags/v1.lock"
    lock.touch()
    assert said(plain.directory).endswith("; where nothing does, remove the file that git names")
    lock.unlink()
    hook = plain.directory / ".git/hooks/reference-transaction"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    assert "; look at the repository's hook reference-transaction" in said(plain.directory)
    hook.unlink()
    assert said(tmp_path).endswith("; run this in the repository that has the tag")
    assert len(said(plain.directory, "x" * 5000)) < 300


@pytest.mark.once("what is refused before anything is signed")
def test_lightweight_tags_and_what_is_none(running: Site, plain: Repository) -> None:
    plain.git("tag", "light")
    plain.git("tag", "-a", "-m", "a tree", "tree", "HEAD^{tree}")
    plain.git("tag", "-a", "-m", "x", "v1")
    everything = plain.git("for-each-ref")
    for tag, reason in (
        ("light", "'light' is a lightweight tag, which cannot hold a signature"),
        ("tree", "'tree' is not a tag of a commit"),
        ("none", "there is no tag 'none'"),
        ("v1^{}", "there is no tag 'v1^{}'"),
        ("../heads/master", "there is no tag '../heads/master'"),
    ):
        # Found before a secret is asked for.
        result = running.sigul("sign-git-tag", "k", tag, stdin=b"", code=1, cwd=plain.directory)
        assert result.stderr.decode().startswith(f"Error: {reason}")
    assert plain.git("for-each-ref") == everything


def test_outside_of_a_repository(running: Site, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    line = failure(running, "sign-git-tag", "k", "v1", cwd=tmp_path / "nothing")
    assert "not a git repository" in line


def test_a_repository_of_somebody_elses(plain: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """git takes it for that where this variable is set."""
    plain.git("tag", "-a", "-m", "x", "v1")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(plain.directory / "config"))
    with pytest.raises(SigulError) as caught:
        read_tag(plain.directory, "v1")
    assert "detected dubious ownership in repository at" in caught.value.problem
    command = f"git config --global --add safe.directory {plain.directory}"
    assert caught.value.cure.endswith(f": {command}")
    program(*command.split())
    assert read_tag(plain.directory, "v1").reference == "refs/tags/v1"


@pytest.mark.once("what is refused before anything is signed")
def test_nothing_changes_when_the_server_refuses(running: Site, plain: Repository) -> None:
    plain.git("tag", "-a", "-m", "x", "v1")
    old = plain.object_id("v1")
    for key, password, text in (
        ("k", "wrong", "Authentication failed"),
        ("ecc", "ecc-pw", "Unsupported keytype for operation"),
    ):
        line = failure(running, "sign-git-tag", key, "v1", secrets=[password], cwd=plain.directory)
        assert line == text
    assert plain.object_id("v1") == old


def test_a_tag_that_was_moved_meanwhile_is_left_alone(plain: Repository) -> None:
    plain.git("tag", "-a", "-m", "x", "v1")
    tag = read_tag(plain.directory, "v1")
    plain.git("tag", "-a", "-f", "-m", "y", "v1")
    moved = plain.object_id("v1")
    with pytest.raises(SigulError, match="git update-ref failed"):
        tag.replace(b"-----BEGIN PGP SIGNATURE-----\n\n=\n-----END PGP SIGNATURE-----\n")
    assert plain.object_id("v1") == moved


@pytest.mark.parametrize(
    "message",
    ["-----BEGIN PGP SIGNATURE-----\nquoted\n-----END PGP SIGNATURE-----\nand more", "no end", "ü"],
)
def test_a_message_is_kept_as_it_is(
    running: Site, gpg: Gpg, plain: Repository, message: str
) -> None:
    commit = plain.git("rev-parse", "HEAD").decode().strip()
    content = (
        f"object {commit}\ntype commit\ntag v1\ntagger T <t@example.org> 1 +0000\n\n{message}"
    ).encode()
    made = plain.git("hash-object", "-t", "tag", "-w", "--stdin", data=content)
    plain.git("update-ref", "refs/tags/v1", made.decode().strip())
    sign(running, plain, "v1")
    assert plain.git("cat-file", "tag", "v1").startswith(content + b"\n-----BEGIN PGP")
    assert "Good signature" in plain.verify("v1", gpg)


@pytest.mark.once("what is refused before anything is signed")
def test_the_server_signs_tags_only(running: Site, plain: Repository, tmp_path: Path) -> None:
    """A client that sends something else, here by a git of its own, gets no signature for it."""
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text(
        f'#!/bin/sh\nif [ "$1 $2" = "cat-file tag" ]; then\n'
        "  printf 'object x\\ntype commit\\n\\nnot a tag\\n'\nelse\n"
        f'  exec {shutil.which("git")} "$@"\nfi\n'
    )
    fake.chmod(0o755)
    plain.git("tag", "-a", "-m", "x", "v1")
    done_ = program(
        "env", f"PATH={fake.parent}:/usr/bin:/bin", *_sigul(running), "sign-git-tag", "k", "v1",
        data=b"k-pw\0", code=1, cwd=plain.directory, environment=running.environment,
    )  # fmt: skip
    assert b"this is not an annotated tag of a commit" in done_.stderr


@pytest.mark.once("what is refused before anything is signed")
def test_without_git(running: Site, plain: Repository, tmp_path: Path) -> None:
    done_ = program(
        "env", f"PATH={tmp_path}", *_sigul(running), "sign-git-tag", "k", "v1",
        code=1, cwd=plain.directory, environment=running.environment,
    )  # fmt: skip
    assert done_.stderr == b"Error: git is not installed; install the package git\n"


def _sigul(site: Site) -> list[str]:
    from tests.site import module

    return [*module("sigul"), "--batch", "-c", str(site.path("client.conf"))]
