"""A name of an image that somebody has moved: neither the builder nor a role takes what is there.

Whoever can load an image into an engine gives it any name, labels and layers of a good one
included: here it has all of a good one, but for one variable of its environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from images.builder.build import layers_of

from ..checkout import TOP
from .molecule_runs import docker

pytestmark = pytest.mark.kit

PREFIX = f"sigul-test-identity-{os.getpid()}"
NAME = f"{PREFIX}/bridge:latest"
#: Seconds; limits against hanging alone.
SECONDS = 300

PLAYBOOK = """\
- hosts: control
  gather_facts: false
  tasks:
    - ansible.builtin.set_fact:
        images_built: {stdout: "{{ [{'image': images_carry, 'identity': made}] | to_json }}"}
    - ansible.builtin.include_role:
        name: images
        tasks_from: carry
    - ansible.builtin.debug:
        msg: "it runs {{ images_identity[images_carry] }}"
"""


@pytest.fixture
def good(images: dict[str, str]) -> Iterator[str]:
    """The ID of an image with a name of the test's own."""
    docker("tag", images["bridge"], NAME)
    yield docker("image", "inspect", "--format", "{{.Id}}", NAME).strip()
    docker("image", "rm", "--force", NAME)


@pytest.fixture
def evil(good: str) -> Iterator[str]:
    """The ID of one with the same layers and labels, to which the name has been moved."""
    container = f"{PREFIX}-evil"
    docker("create", "--name", container, good)
    made = docker("commit", "--change", "ENV PYTHONPATH=/tmp", container, f"{PREFIX}/evil").strip()
    docker("rm", container)
    docker("tag", made, NAME)
    yield made
    docker("image", "rm", "--force", f"{PREFIX}/evil")


def inspected(identity: str, what: str) -> object:
    return json.loads(docker("image", "inspect", "--format", f"{{{{json {what}}}}}", identity))


def test_a_moved_name_has_the_layers_and_labels_of_the_good_one(good: str, evil: str) -> None:
    """The attack is what it says it is."""
    assert good != evil == docker("image", "inspect", "--format", "{{.Id}}", NAME).strip()
    assert set(inspected(good, ".RootFS.Layers")) <= set(  # type: ignore[call-overload]
        inspected(evil, ".RootFS.Layers")  # type: ignore[call-overload]
    )
    assert inspected(good, ".Config.Labels") == inspected(evil, ".Config.Labels")


def missing(cache: Path) -> list[str]:
    """The names of the images that the builder would make."""
    done = subprocess.run(
        [TOP / "images/build", "--missing", "--prefix", PREFIX, "--cache", cache, "bridge"],
        capture_output=True, text=True, timeout=SECONDS, check=True,
    )  # fmt: skip
    return [line for line in done.stdout.splitlines() if line == f"{PREFIX}/bridge"]


def test_the_builder_does_not_take_it_for_what_it_made(
    good: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    assert missing(tmp_path) == [f"{PREFIX}/bridge"], "nothing tells what was made"
    kept = layers_of(tmp_path, PREFIX, "bridge")
    kept.mkdir(parents=True)
    (kept / "identity").write_text(f"{good}\n")
    assert missing(tmp_path) == []
    request.getfixturevalue("evil")
    assert missing(tmp_path) == [f"{PREFIX}/bridge"]


def carry(directory: Path, made: str) -> subprocess.CompletedProcess[str]:
    """Have a role take the image to a machine, whose engine is this one."""
    (directory / "playbook.yml").write_text(PLAYBOOK)
    (directory / "hosts").write_text(
        "[control]\n"
        f"localhost ansible_connection=local ansible_python_interpreter={sys.executable}\n"
    )
    given = {
        "sigul_root": str(directory), "sigul_control": str(directory), "images_carry": NAME,
        "made": made,
    }  # fmt: skip
    return subprocess.run(
        [Path(sys.executable).parent / "ansible-playbook", "-i", directory / "hosts",
         "-e", json.dumps(given), directory / "playbook.yml"],
        cwd=TOP, capture_output=True, text=True, timeout=SECONDS, check=False,
        env={**os.environ, "ANSIBLE_HOME": str(directory / "ansible")},
    )  # fmt: skip


# Saves and loads an image, and starts Ansible: half a minute on a busy machine.
@pytest.mark.timeout(600)
def test_a_role_runs_the_image_that_was_made_or_none(
    good: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    done = carry(tmp_path, good)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"it runs {good}" in done.stdout
    evil = request.getfixturevalue("evil")
    done = carry(tmp_path, good)
    said = " ".join(done.stdout.split())
    assert done.returncode != 0
    assert f"{NAME} on this machine is {evil}, which is not what the control machine has" in said
    assert f"it runs {evil}" not in said
