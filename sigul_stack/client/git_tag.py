"""A tag of the git repository in a directory: read, and replaced by its signed form.

By git itself, which alone knows a repository's format, configuration and hash, and checks the
objects that it writes. A tag is replaced only if it still is what was read, so that nothing done
meanwhile is lost.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from ..errors import SigulError, quoted
from ..system.programs import Finished, run
from ..system.wall import MIB, OWN_DOMAIN, Wall, all_but
from ..tools import GIT

#: Longest run of one git command, in seconds.
_SECONDS: Final = 60.0
#: Address space of git, in bytes: it maps parts of large packs, as many as there is room for.
_MEMORY: Final = 8192 * MIB
#: What git does not see of a person's directory: where keys and passphrases are.
_HIDDEN: Final = (".sigul", ".ssh", ".gnupg")

#: A signature at the end of a tag: OpenPGP's, X.509's or SSH's, as git knows them. Like git, of
#: several that follow each other this takes the last one for the tag's.
_SIGNATURE = re.compile(
    rb"^-----BEGIN (PGP SIGNATURE|PGP MESSAGE|SIGNED MESSAGE|SSH SIGNATURE)-----\n"
    rb"(?:(?!-----BEGIN ).*\n)*-----END \1-----\n*\Z",
    re.MULTILINE,
)

#: A signature among a tag's headers, over what the tag is in git's other format. When it verifies,
#: git takes the tag without it.
_SIGNATURE_HEADER = re.compile(rb"\ngpgsig(?:-sha256)? .*(?:\n .*)*")

#: What to do, by words of git's.
_CURES: Final = MappingProxyType(
    {
        "not a git repository": "run this in the repository that has the tag",
        "cannot lock ref": "see what else works on the repository; where nothing does, remove the"
        " file that git names",
        "aborted by hook": "look at the repository's hook reference-transaction; the tag is as it"
        " was",
        "repo version": "update git here, or sign where the repository was made",
        "bad config": "correct git's configuration there",
    }
)


@dataclass(frozen=True, slots=True)
class Tag:
    """An annotated tag of the repository in `directory`, as it was when it was read.

    `content` is the tag object without any signature; `was_signed` says whether it had one.
    """

    directory: Path
    reference: str
    object_id: str
    content: bytes
    was_signed: bool

    def replace(self, signature: bytes) -> str:
        """Write the tag anew with `signature`, and have its name mean that; the new object's id.

        The former object stays in the repository until git cleans up. Raises `SigulError`.
        """
        objects = _git(self.directory, "rev-parse", "--git-path", "objects")
        new = _text(
            _git(
                self.directory,
                "hash-object", "-t", "tag", "-w", "--stdin",
                given=self.content + signature,
                wall=_wall(self.directory / os.fsdecode(objects.rstrip(b"\n"))),
            )
        )  # fmt: skip
        # This runs the person's hooks, and reads none of the tag.
        _git(
            self.directory,
            "update-ref", "-m", "sigul sign-git-tag", self.reference, new, self.object_id,
            wall=OWN_DOMAIN,
        )  # fmt: skip
        return new


def read_tag(directory: Path, name: str) -> Tag:
    """The annotated tag `name` of the repository that `directory` is in.

    A signature that it has is left out: it is signed anew. Raises `SigulError`: not in a
    repository, no such tag, a lightweight one, one of something else than a commit; `ToolMissing`.
    """
    _git(directory, "rev-parse", "--git-dir")
    reference = f"refs/tags/{name}"
    found = _run(directory, "rev-parse", "--verify", "--quiet", "--end-of-options", reference)
    # A name may also be an expression (`v1^{}`), but that is no reference to replace.
    if found.returncode or _run(directory, "check-ref-format", reference).returncode:
        raise SigulError(
            f"there is no tag {quoted(name, 100)}", "git tag --list shows those that there are"
        )
    object_id = _text(found.stdout)
    kind = _text(_git(directory, "cat-file", "-t", object_id))
    if kind != "tag":
        raise SigulError(
            f"'{name}' is a lightweight tag, which cannot hold a signature",
            f"make it an annotated one with git tag -a -f {name} {name}",
        )
    content = _git(directory, "cat-file", "tag", object_id)
    lines = content.split(b"\n", 2)
    if len(lines) < 2 or lines[1] != b"type commit":
        raise SigulError(f"'{name}' is not a tag of a commit", "only those are signed")
    header, blank, message = content.partition(b"\n\n")
    message, signatures = _SIGNATURE.subn(b"", message)
    header, others = _SIGNATURE_HEADER.subn(b"", header)
    unsigned = header + blank + message
    if not unsigned.endswith(b"\n"):
        unsigned += b"\n"  # a signature begins a line
    return Tag(directory, reference, object_id, unsigned, was_signed=signatures + others > 0)


def _wall(*write: Path) -> Wall:
    """Around a git that reads objects: whoever made the tag may have made them for its faults."""
    home = Path(os.environ.get("HOME", "/nonexistent")).resolve()
    hidden = [Path("/proc"), Path("/sys"), *(home / name for name in _HIDDEN)]
    return Wall(read=tuple(all_but(hidden)), write=write, memory=_MEMORY)


def _git(directory: Path, *arguments: str, given: bytes = b"", wall: Wall | None = None) -> bytes:
    """The output of git. Raises `SigulError` with its own words where it fails."""
    done = _run(directory, *arguments, given=given, wall=wall)
    if done.returncode:
        # Advice may follow the line that says what is wrong: a command, as for a repository of
        # somebody else's (safe.directory).
        lines = done.stderr.splitlines()
        fatal = [line for line in lines if line.startswith("fatal:")]
        advice = [line.strip() for line in lines if line.startswith("\tgit ")]
        said = fatal[-1] if fatal else done.reason
        raise SigulError(
            f"git {arguments[0]} failed: {said}",
            f"git advises, where you trust what is there: {advice[0]}" if advice else _cure(said),
        )
    return done.stdout


def _cure(said: str) -> str:
    """Return what to do about what git says (in English); empty where it says that itself."""
    return next((cure for words, cure in _CURES.items() if words in said), "")


def _run(
    directory: Path, *arguments: str, given: bytes = b"", wall: Wall | None = None
) -> Finished:
    return run(
        ["git", *arguments],
        package=GIT.package,
        time_limit=_SECONDS,
        stdin=given,
        # The person's own: git has configuration and identity from there. Its words are read here.
        environment={**os.environ, "LC_ALL": "C"},
        directory=directory,
        timeout_cure="see what else works on the repository",
        wall=wall or _wall(),
    )


def _text(output: bytes) -> str:
    return output.decode("ascii").strip()
