"""A runner of workflows, as far as a composite action needs one: it runs the steps of `action/`.

What a runner does, by GitHub's documentation of composite actions: it puts inputs and their
defaults into expressions, runs each step's script with `bash --noprofile --norc -eo pipefail` in
the workspace, reads outputs from a file, and runs steps with `if: always()` after a failure, too.
An expression that this runner does not know is an error.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.kit.conftest import CHECKOUT

#: A user that is in no passwd file, as runners' users are in no image's.
UID = 48213
SECONDS = 240

#: `docker` on the runner's path: notes how it is called, and is docker.
_DOCKER = """#!/bin/sh
{ printf '%s\\0' "$@"; printf '\\0'; } >>"$DOCKER_CALLS"
exec REAL "$@"
"""


@dataclass(frozen=True)
class Done:
    """A run of the action: whether it went well, its outputs, and all that it printed."""

    ok: bool
    outputs: Mapping[str, str]
    log: str

    def shown(self) -> str:
        """The log as a person sees it: without the lines that only the runner reads."""
        lines = self.log.splitlines()
        return "\n".join(line for line in lines if not line.startswith("::add-mask::"))


@dataclass
class Runner:
    """A runner whose directories are below `home`, which its user may enter."""

    home: Path
    #: Further variables of the runner.
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.action = self.home / "_actions"
        self.workspace = self.home / "work space"
        self.temporary = self.home / "_temp"
        self.calls = self.home / "docker-calls"
        shutil.copytree(
            CHECKOUT / "action", self.action, ignore=shutil.ignore_patterns("__pycache__")
        )
        for directory in (self.workspace, self.temporary, self.home / "bin"):
            directory.mkdir()
        docker = shutil.which("docker")
        assert docker is not None
        wrapper = self.home / "bin/docker"
        wrapper.write_text(_DOCKER.replace("REAL", docker))
        wrapper.chmod(0o755)
        self.give(self.home)

    def give(self, path: Path) -> None:
        """Let the runner's user own a file, or all in a directory."""
        if os.geteuid() == 0:
            for item in [path, *path.rglob("*")]:
                os.chown(item, UID, UID, follow_symlinks=False)

    def as_user(self, *command: str) -> list[str]:
        """A command line for the runner's user, who may use the engine."""
        if os.geteuid() != 0:
            return list(command)
        socket = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        group = Path(socket.removeprefix("unix://")).stat().st_gid
        return [
            *("setpriv", "--reuid", str(UID), "--regid", str(UID), "--groups", str(group), "--"),
            *command,
        ]

    def write(self, name: str, content: str) -> Path:
        """A file in the workspace."""
        path = self.workspace / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        self.give(self.workspace)
        return path

    def docker_calls(self) -> list[list[str]]:
        """How docker was called, each time."""
        text = self.calls.read_text() if self.calls.exists() else ""
        return [call.split("\0") for call in text.removesuffix("\0\0").split("\0\0") if call]

    # --------------------------------------------------------------------------------- the action

    def run(self, **inputs: str) -> Done:
        """Run the action; an underscore in an input's name stands for a hyphen."""
        action = yaml.safe_load((self.action / "action.yml").read_text())
        values = self._inputs(action, {name.replace("_", "-"): inputs[name] for name in inputs})
        steps: dict[str, dict[str, str]] = {}
        ok, log = True, ""
        for number, step in enumerate(action["runs"]["steps"]):
            assert set(step) <= {"name", "id", "shell", "env", "run", "if"}, step
            assert step["shell"] == "bash"
            assert step.get("if", "always()") == "always()"
            if not ok and "if" not in step:
                continue
            code, printed, outputs = self._step(number, step, values)
            ok = ok and code == 0
            log += printed
            if "id" in step:
                steps[step["id"]] = outputs
        found = {
            name: re.sub(
                r"\$\{\{ steps\.(\w+)\.outputs\.(\w+) \}\}",
                lambda match: steps.get(match[1], {}).get(match[2], ""),
                output["value"],
            )
            for name, output in action["outputs"].items()
        }
        return Done(ok, found, log)

    def start(self, **inputs: str) -> subprocess.Popen[str]:
        """Start the action's first step, for who ends it."""
        action = yaml.safe_load((self.action / "action.yml").read_text())
        values = self._inputs(action, {name.replace("_", "-"): inputs[name] for name in inputs})
        return self._start(0, action["runs"]["steps"][0], values)

    def clean(self) -> str:
        """Run the action's last step alone; what it prints."""
        action = yaml.safe_load((self.action / "action.yml").read_text())
        code, printed, _ = self._step(1, action["runs"]["steps"][1], self._inputs(action, {}))
        assert code == 0, printed
        return printed

    def _inputs(self, action: dict[str, Any], given: Mapping[str, str]) -> dict[str, str]:
        declared = action["inputs"]
        assert set(given) <= set(declared), "a runner warns of inputs that are not declared"
        values = {name: item.get("default", "") for name, item in declared.items()}
        assert all(isinstance(value, str) for value in values.values()), "YAML's false is no text"
        return {**values, **given}

    def _step(
        self, number: int, step: Mapping[str, Any], values: Mapping[str, str]
    ) -> tuple[int, str, dict[str, str]]:
        with self._start(number, step, values) as process:
            try:
                printed, _ = process.communicate(timeout=SECONDS)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        text = (self.temporary / f"output-{number}").read_text()
        outputs = dict(line.split("=", 1) for line in text.splitlines())
        return process.returncode, printed, outputs

    def _start(
        self, number: int, step: Mapping[str, Any], values: Mapping[str, str]
    ) -> subprocess.Popen[str]:
        def evaluated(text: str) -> str:
            def value(match: re.Match[str]) -> str:
                return values[match[1]]

            return re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", value, text)

        script = self.temporary / f"step-{number}.sh"
        script.write_text(evaluated(step["run"]))
        output = self.temporary / f"output-{number}"
        output.write_text("")
        self.give(self.temporary)
        environment = {
            "PATH": f"{self.home}/bin:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "DOCKER_CALLS": str(self.calls),
            "GITHUB_ACTION_PATH": str(self.action),
            "GITHUB_ACTOR": "somebody",
            "GITHUB_OUTPUT": str(output),
            "GITHUB_REPOSITORY": "owner/name",
            "GITHUB_WORKSPACE": str(self.workspace),
            "RUNNER_TEMP": str(self.temporary),
            **self.variables,
            **{name: evaluated(text) for name, text in step.get("env", {}).items()},
        }
        if "DOCKER_HOST" in os.environ:
            environment["DOCKER_HOST"] = os.environ["DOCKER_HOST"]
        return subprocess.Popen(
            self.as_user("bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="backslashreplace", cwd=self.workspace, env=environment,
            start_new_session=True,
        )  # fmt: skip

    # ------------------------------------------------------------------------------- what is left

    def leftovers(self) -> list[str]:
        """What runs have left beside signatures: marks, drafts, containers."""
        marks = [path.name for path in self.temporary.glob("sigul-action-*")]
        drafts = [path.name for path in self.workspace.rglob(".sigul-*")]
        names = [call[call.index("--name") + 1] for call in self.docker_calls() if "run" in call]
        running = subprocess.run(
            ["docker", "ps", "--all", "--format", "{{.Names}}"],
            capture_output=True, text=True, check=True, timeout=60,
        ).stdout.split()  # fmt: skip
        return [*marks, *drafts, *(name for name in names if name in running)]


def mode(path: Path) -> int:
    """A file's permissions."""
    return stat.S_IMODE(path.stat().st_mode)
