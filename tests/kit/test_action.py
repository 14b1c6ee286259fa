"""`action/`, its steps run as a runner runs them, with the client's image and a real site.

The site's daemons are processes of this machine; containers reach its bridge through the inputs
`sigul-ip` and `sigul-uri`. Each test starts containers of its own, which takes some seconds. What a
job does inside is also in tests/integration/test_sign_job.py.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.integration.commands_support import ADMIN, Gpg, done, person
from tests.integration.test_sign_git_tag import WHO
from tests.integration.test_sign_job import bundle_of
from tests.kit.conftest import built_images
from tests.kit.runner import SECONDS, Runner, mode
from tests.site import BRIDGE_NAME, Site, wait_until

# The images may have to be built.
pytestmark = [pytest.mark.kit, pytest.mark.timeout(1800)]

PASSPHRASE = "the key's passphrase"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A running site with the key `k`, whose bridge containers reach, too."""
    directory = tmp_path_factory.mktemp("action") / "site"
    # Containers come from the engine's network, not from loopback.
    made = Site.make(directory, listen_address="0.0.0.0")  # noqa: S104
    with made.running():
        done(made, "new-key", "k", secrets=[ADMIN, PASSPHRASE])
        yield made


@pytest.fixture(scope="module")
def gpg(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gpg]:
    """A person's GnuPG home with the public key."""
    key = done(site, "get-public-key", "k", secrets=[PASSPHRASE])
    with person(tmp_path_factory.mktemp("gpg") / "person", key) as home:
        yield home


@pytest.fixture
def runner() -> Iterator[Runner]:
    """A runner, whose user may enter all directories above its own."""
    home = Path(tempfile.mkdtemp(prefix="action."))
    home.chmod(0o755)
    made = Runner(home)
    yield made
    assert made.leftovers() == []
    shutil.rmtree(home)


@pytest.fixture(scope="module")
def inputs(site: Site, engine: None) -> dict[str, str]:
    """Inputs for the site, but for `sign-object`."""
    # An engine that has just made this network does not say its gateway: the first address.
    network = ["docker", "network", "inspect", "bridge"]
    subnet = subprocess.run(
        [*network, "--format", "{{(index .IPAM.Config 0).Subnet}}"],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout.strip()  # fmt: skip
    gateway = str(next(ipaddress.ip_network(subnet).hosts()))
    name, _, tag = built_images("client")["client"].rpartition(":")
    return {
        "sigul_conf": site.path("client.conf").read_text(),
        "sigul_key_name": "k",
        # Of a secret with more lines the first one counts.
        "sigul_pass": f"{PASSPHRASE}\nanother line\n",
        "sigul_pki": bundle_of(site, PASSPHRASE),
        "sigul_uri": BRIDGE_NAME,
        "sigul_ip": gateway,
        "sigul_hosts_entry": "true",
        "container_image": name,
        "container_tag": tag,
        "max_retries": "2",
        "retry_delay": "0",
    }


def signed(runner: Runner) -> list[str]:
    found = runner.workspace.rglob("*.asc")
    return sorted(str(path.relative_to(runner.workspace)) for path in found)


def test_files_are_signed_and_verified(runner: Runner, inputs: dict[str, str], gpg: Gpg) -> None:
    # Names that a shell, a runner's log, docker or gpg would take for something else.
    odd = ["$(touch pwned)", "--output", "::error::no", "new\n::add-mask::line", 'a,b"c', "ü"]
    for name in odd:
        runner.write(f"tree/{name}", f"content of {name}")
    for name in ("tree/x.md5", "tree/.git/HEAD", "dist/a.tar", "dist/b.tar", "plain [1]"):
        runner.write(name, name)
    (runner.workspace / "tree/link").symlink_to("/etc/hostname")
    end = f"{BRIDGE_NAME}.:{re.search(r'bridge-port: (.+)', inputs['sigul_conf'])[1]}"  # type: ignore[index]
    result = runner.run(
        **inputs, sign_object="tree/\n dist/*.tar\nplain [1]\n", expected_bridge=end.upper()
    )
    assert result.ok, result.log
    wanted = [*(f"tree/{name}" for name in odd), "dist/a.tar", "dist/b.tar", "plain [1]"]
    assert signed(runner) == sorted(f"{name}.asc" for name in wanted)
    makers = set()
    for name in wanted:
        signature = runner.workspace / f"{name}.asc"
        assert mode(signature) == 0o644
        makers.add(gpg.signer(signature, runner.workspace / name))
    assert makers == {result.outputs["key_fingerprint"]}
    assert result.outputs["validation_status"] == "passed"
    assert (result.outputs["signed_count"], result.outputs["kept_count"]) == (str(len(wanted)), "0")
    assert result.outputs["container_image"].startswith("sha256:")
    assert not list(runner.home.rglob("pwned"))
    _has_no_rights(runner)
    _tells_no_secret(runner, result.log, inputs)
    # No line is a command to the runner but those that are meant as such.
    commands = re.findall(r"^\s*::(.*?)::|##\[", result.log, re.MULTILINE)
    assert set(commands) == {"add-mask"}


def _has_no_rights(runner: Runner) -> None:
    [call] = [call for call in runner.docker_calls() if call[0] == "run"]
    user = f"{os.geteuid()}:{os.getegid()}" if os.geteuid() else "48213:48213"
    assert call[call.index("--user") + 1] == user
    assert {
        "--cap-drop=ALL", "--security-opt=no-new-privileges", "--read-only", "--pull=never",
    } <= set(call)  # fmt: skip
    mounts = [call[place + 1] for place, word in enumerate(call) if word == "--mount"]
    space = runner.workspace
    assert mounts == [f'"type=bind","source={space}","target={space}","readonly"']


def _tells_no_secret(runner: Runner, log: str, inputs: dict[str, str]) -> None:
    assert f"::add-mask::{PASSPHRASE}" in log.splitlines()
    shown = "\n".join(line for line in log.splitlines() if not line.startswith("::add-mask::"))
    for text in (shown, *(" ".join(call) for call in runner.docker_calls())):
        assert PASSPHRASE not in text
        assert inputs["sigul_pki"].splitlines()[3] not in text


def test_another_run_signs_only_what_has_no_good_signature(
    runner: Runner, inputs: dict[str, str], site: Site, gpg: Gpg
) -> None:
    key = done(site, "get-public-key", "k", secrets=[PASSPHRASE]).decode()
    for name in ("a", "b", "c"):
        runner.write(name, name)
    first = runner.run(**inputs, sign_object="a\nb", public_key=key)
    assert first.ok, first.log
    before = (runner.workspace / "a.asc").read_bytes()
    runner.write("b", "changed")
    # `*` expands to signatures as well, which are none of what is to be signed.
    second = runner.run(**inputs, sign_object="*", public_key=key)
    assert second.ok, second.log
    assert (second.outputs["signed_count"], second.outputs["kept_count"]) == ("2", "1")
    assert (runner.workspace / "a.asc").read_bytes() == before
    for name in ("a", "b", "c"):
        gpg.signer(runner.workspace / f"{name}.asc", runner.workspace / name)
    assert signed(runner) == ["a.asc", "b.asc", "c.asc"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"expected_bridge": f"{BRIDGE_NAME}:1"}, "not 'sigul-bridge.example.org:1'"),
        ({"sigul_pass": "wrong"}, "does not open with this passphrase"),
    ],
)
def test_what_does_not_fit_is_rejected_before_anything_is_signed(
    runner: Runner, inputs: dict[str, str], changes: dict[str, str], reason: str
) -> None:
    runner.write("a", "a")
    result = runner.run(**{**inputs, **changes}, sign_object="a")
    assert not result.ok
    assert reason in result.log
    assert result.outputs["validation_status"] == "rejected"
    assert signed(runner) == []


def test_a_dry_run_signs_nothing(runner: Runner, inputs: dict[str, str]) -> None:
    runner.write("a", "a")
    result = runner.run(**inputs, sign_object="a", dry_run="true")
    assert result.ok, result.log
    assert result.outputs["validation_status"] == "passed"
    assert result.outputs["signed_count"] == "0"
    assert "name resolution: ok" in result.log
    assert signed(runner) == []


@pytest.mark.long("action", "sigul_stack/cli/signjob", "sigul_stack/client")
def test_a_run_after_a_failure_finishes_the_rest(
    runner: Runner, inputs: dict[str, str], site: Site, gpg: Gpg
) -> None:
    """The server ends in the midst of many files. To sign them takes a quarter of a minute."""
    names = [f"{number:02}" for number in range(40)]
    for name in names:
        (runner.workspace / name).write_text(name)
    runner.give(runner.workspace)
    wanted = {**inputs, "sign_object": "*", "max_retries": "1", "attempt_timeout": "5"}
    # `site.running` ends what it finds there.
    server = site.processes.pop()
    with runner.start(**wanted) as step:
        try:
            wait_until(lambda: signed(runner), SECONDS, "a signature")
        finally:
            server.stop()
        log, _ = step.communicate(timeout=SECONDS)
    assert step.returncode == 1, log
    before = {name: (runner.workspace / name).read_bytes() for name in signed(runner)}
    assert 0 < len(before) < len(names)
    assert f"{len(names) - len(before)} of {len(names)} files are not signed" in log
    site.start_server()
    result = runner.run(**wanted)
    assert result.ok, result.log
    assert result.outputs["kept_count"] == str(len(before))
    assert result.outputs["signed_count"] == str(len(names) - len(before))
    for name in names:
        gpg.signer(runner.workspace / f"{name}.asc", runner.workspace / name)
    after = {name: (runner.workspace / name).read_bytes() for name in before}
    assert after == before


@pytest.mark.long("action", "sigul_stack/cli/signjob", "sigul_stack/client")
def test_a_run_that_is_ended_leaves_no_container(
    runner: Runner, inputs: dict[str, str], site: Site
) -> None:
    """A runner ends a step with SIGINT and SIGTERM; when it kills it, the next step cleans up."""
    runner.write("a", "a")
    server = site.processes.pop()
    server.stop()
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            runner.calls.unlink(missing_ok=True)
            with runner.start(**inputs, sign_object="a") as step:
                name = _running(runner)
                # Without a server the request waits at the bridge.
                os.killpg(step.pid, number)
                log, _ = step.communicate(timeout=SECONDS)
            assert step.returncode != 0
            assert PASSPHRASE not in log.replace(f"::add-mask::{PASSPHRASE}", "")
            if number == signal.SIGKILL:
                assert name in runner.leftovers()
                assert f"removing the container {name}" in runner.clean()
            else:
                assert "the step was ended" in log
            assert runner.leftovers() == []
            assert signed(runner) == []
    finally:
        site.start_server()


def _running(runner: Runner) -> str:
    """Wait until the job is accepted, and so has its container; the container's name."""

    def name() -> str:
        calls = [call for call in runner.docker_calls() if call[0] == "run"]
        return calls[0][calls[0].index("--name") + 1] if calls else ""

    def there() -> bool:
        listed = subprocess.run(
            ["docker", "ps", "--format", "{{.Names}}"],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        return bool(name()) and name() in listed.stdout.split()

    wait_until(there, SECONDS, "a container")
    return name()


# ------------------------------------------------------------------------------------------- tags


class Tagged:
    """A runner's workspace as a git repository with a tag, and the bare repository `origin`."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.origin = runner.home / "origin.git"
        self.git("init", "--quiet", "--bare", str(self.origin))
        self.git("init", "--quiet", ".")
        self.git("remote", "add", "origin", str(self.origin))
        self.git("commit", "--quiet", "--allow-empty", "-m", "first")
        self.git("tag", "-a", "-m", "Release", "v1")
        self.git("push", "--quiet", "origin", "v1")

    def git(self, *arguments: str, **variables: str) -> str:
        done_ = subprocess.run(
            self.runner.as_user("git", *arguments), cwd=self.runner.workspace, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False,
            env={**os.environ, **WHO, "HOME": str(self.runner.home), **variables},
        )  # fmt: skip
        assert done_.returncode == 0, done_.stdout
        return done_.stdout.strip()

    def at_origin(self, tag: str = "v1") -> str:
        return self.git("ls-remote", str(self.origin), f"refs/tags/{tag}").split()[0]


def test_a_tag_is_signed_verified_and_pushed(
    runner: Runner, inputs: dict[str, str], gpg: Gpg
) -> None:
    tagged = Tagged(runner)
    old = tagged.at_origin()
    hook = runner.workspace / ".git/hooks/reference-transaction"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {runner.home}/pwned /tmp/pwned\nexit 1\n")
    hook.chmod(0o755)
    runner.give(hook)
    result = runner.run(**inputs, sign_type="sign-git-tag", sign_object="v1")
    assert result.ok, result.log
    new = tagged.git("rev-parse", "refs/tags/v1")
    assert tagged.at_origin() == new != old
    done_ = subprocess.run(
        ["git", "-c", "safe.directory=*", "tag", "-v", "v1"], cwd=tagged.origin, text=True,
        capture_output=True, env={**os.environ, **WHO, "GNUPGHOME": str(gpg.home)}, check=False,
    )  # fmt: skip
    assert "Good signature" in done_.stderr
    assert result.outputs["signed_count"] == "0"
    assert not list(runner.home.rglob("pwned"))


def test_another_tag_at_the_remote_is_left(runner: Runner, inputs: dict[str, str]) -> None:
    tagged = Tagged(runner)
    tagged.git("tag", "-f", "-a", "-m", "Another release", "v1")
    there = tagged.at_origin()
    result = runner.run(**inputs, sign_type="sign-git-tag", sign_object="v1")
    assert not result.ok
    assert "is another one" in result.log
    assert tagged.at_origin() == there


def test_a_tag_is_pushed_with_the_key_and_no_other_secret(
    runner: Runner, inputs: dict[str, str]
) -> None:
    """The key goes to the server in a header, in place of the one that a checkout has left."""
    tagged = Tagged(runner)
    with GitServer() as server:
        runner.variables["GITHUB_SERVER_URL"] = server.url
        left = "AUTHORIZATION: basic b2xkOm9sZA=="
        tagged.git("config", f"http.{server.url}/.extraheader", left)
        result = runner.run(
            **inputs, sign_type="sign-git-tag", sign_object="v1", gh_user="robot", gh_key="t0ken"
        )
    assert not result.ok
    assert "does not tell its tags" in result.log
    word = base64.b64encode(b"robot:t0ken").decode()
    assert server.asked == [("/owner/name/info/refs?service=git-upload-pack", [f"Basic {word}"])]
    for secret in ("t0ken", word):
        assert secret not in result.shown()


class GitServer:
    """A server that refuses everything, and keeps what it was asked, with which authorizations."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append((self.path, self.headers.get_all("Authorization", [])))
                self.send_error(403)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> GitServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
