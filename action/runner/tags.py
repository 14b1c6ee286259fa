"""A tag of the workspace's repository: where it is, and how its signed form is pushed.

The container signs it and changes the reference; here it is pushed, in place of nothing but the
same tag without this signature.
"""

from __future__ import annotations

import base64
import os
import subprocess
from pathlib import Path

from .errors import ActionError, Rejected
from .inputs import Inputs
from .workflow import mask, plain

#: Seconds for a git that reads or writes the repository, and for one that talks to a remote.
LOCAL_SECONDS = 60.0
REMOTE_SECONDS = 600.0

_SIGNATURE = b"\n-----BEGIN PGP SIGNATURE-----"


def tag_name(text: str) -> str:
    """The tag that `sign-object` names. Raises `Rejected`."""
    name = text.strip()
    if name.startswith("-") or "\n" in name or "\0" in name:
        raise Rejected("sign-object has to be the name of one tag")
    done = _run(Path.cwd(), ["check-ref-format", f"refs/tags/{name}"])
    if done.returncode:
        raise Rejected(f"'{plain(name)}' of sign-object is no name of a tag")
    return name


class Repository:
    """The git repository that the workspace is in."""

    def __init__(self, workspace: Path) -> None:
        done = _run(workspace, ["rev-parse", "--path-format=absolute", "--git-common-dir"])
        if done.returncode:
            raise Rejected(f"the workspace is no git repository: {_reason(done)}")
        #: The directory with its references and objects.
        self.directory = Path(os.path.realpath(os.fsdecode(done.stdout.rstrip(b"\n"))))

    def push(self, inputs: Inputs, tag: str, new: str) -> str:
        """Push the tag, whose object now is `new`; where to. Raises `ActionError`."""
        remote, environment = _remote(inputs)
        there = self._tag_at(remote, tag, environment)
        if there == new:
            return remote
        if there is not None and self._unsigned(there) != self._unsigned(new):
            raise ActionError(
                f"the tag {plain(tag)} at {plain(remote)} is another one ({there}): it is left as"
                " it is, and nothing was pushed"
            )
        reference = f"refs/tags/{tag}"
        lease = f"--force-with-lease={reference}:{there or ''}"
        done = self._git(
            ["push", "--quiet", lease, "--", remote, f"{new}:{reference}"], environment
        )
        if done.returncode:
            raise ActionError(
                f"the signed tag could not be pushed to {plain(remote)}: {_reason(done)}"
            )
        return remote

    def _git(
        self, arguments: list[str], environment: dict[str, str], seconds: float = REMOTE_SECONDS
    ) -> subprocess.CompletedProcess[bytes]:
        # Hooks have no business with the key that is in the environment.
        return _run(
            self.directory, ["-c", "core.hooksPath=/dev/null", *arguments], environment, seconds
        )

    def _tag_at(self, remote: str, tag: str, environment: dict[str, str]) -> str | None:
        """The object that the tag is at the remote; None where there is no such tag."""
        done = self._git(["ls-remote", "--", remote, f"refs/tags/{tag}"], environment)
        if done.returncode:
            raise ActionError(f"{plain(remote)} does not tell its tags: {_reason(done)}")
        for line in done.stdout.decode("ascii", "replace").splitlines():
            object_id, _, name = line.partition("\t")
            if name == f"refs/tags/{tag}":
                return object_id
        return None

    def _unsigned(self, object_id: str) -> bytes | None:
        """A tag object without its signature; None where it is not in this repository."""
        done = self._git(["cat-file", "tag", object_id], {}, LOCAL_SECONDS)
        if done.returncode:
            return None
        return done.stdout.partition(_SIGNATURE)[0].rstrip(b"\n")


def _remote(inputs: Inputs) -> tuple[str, dict[str, str]]:
    """The remote to push to, and the variables that git needs for it: no secret is an argument."""
    if not inputs.gh_key:
        return "origin", {}
    server, repository = (os.environ.get(f"GITHUB_{name}") for name in ("SERVER_URL", "REPOSITORY"))
    if not (server and repository):
        raise ActionError(
            "GITHUB_SERVER_URL or GITHUB_REPOSITORY is not set: the action is for a runner"
        )
    url = f"{server.rstrip('/')}/{repository}"
    word = base64.b64encode(f"{inputs.gh_user}:{inputs.gh_key}".encode()).decode()
    mask(word)
    # An empty value takes back the headers that are configured, as actions/checkout leaves one.
    settings = [
        (f"http.{url}.extraHeader", ""),
        (f"http.{url}.extraHeader", f"Authorization: Basic {word}"),
        ("credential.helper", ""),
    ]
    variables = {"GIT_CONFIG_COUNT": str(len(settings))}
    for number, (name, value) in enumerate(settings):
        variables[f"GIT_CONFIG_KEY_{number}"] = name
        variables[f"GIT_CONFIG_VALUE_{number}"] = value
    return url, variables


def _run(
    directory: Path,
    arguments: list[str],
    environment: dict[str, str] | None = None,
    seconds: float = LOCAL_SECONDS,
) -> subprocess.CompletedProcess[bytes]:
    # The inputs are in the environment, secrets among them: they are not for git.
    own = {name: value for name, value in os.environ.items() if not name.startswith("INPUT_")}
    try:
        return subprocess.run(
            ["git", *arguments], cwd=directory, capture_output=True, stdin=subprocess.DEVNULL,
            timeout=seconds, check=False,
            env={**own, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C", **(environment or {})},
        )  # fmt: skip
    except FileNotFoundError:
        raise ActionError("git is not on this runner: signing a tag needs it") from None
    except subprocess.TimeoutExpired:
        raise ActionError(f"git did not end in {seconds:g} s") from None


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = done.stderr.decode("utf-8", "backslashreplace").strip().splitlines()
    return plain(lines[-1]) if lines else f"git ended with {done.returncode}"
