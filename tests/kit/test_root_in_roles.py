"""What the roles do as root on a machine: nothing by name where the containers' user is, and no
image by a name that may have been moved. Rules on the tasks as they are written, without an engine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

TOP = Path(__file__).parents[2]
TASKS = sorted([*TOP.glob("roles/*/tasks/*.yml"), *TOP.glob("playbooks/**/*.yml")])
#: Modules that follow names on the machine, as root. (`component_files` works by descriptor.)
BY_NAME = frozenset(
    {
        "assemble", "blockinfile", "command", "copy", "docker_image_load", "fetch", "file",
        "get_url", "lineinfile", "replace", "script", "shell", "slurp", "synchronize", "tempfile",
        "template", "unarchive",
    }
)  # fmt: skip
#: Below the site's directory: a component's, which is root's, and what is the containers' user's.
COMPONENT = r"sigul_root \}\}/(?:server|bridge|client|\{\{ ?component(?:_name|_directory)? ?\}\})"
BELOW = re.compile(COMPONENT + r"/.")
#: What stands for an image's ID; the last is that of the image which a container has.
BY_ID = re.compile(r"\{\{ (?:component_image|_\w+_identity|\w+\.container\.Image) \}\}")


def variables() -> dict[str, str]:
    """The roles' own variables that are texts."""
    found: dict[str, str] = {}
    for path in TOP.glob("roles/*/vars/main.yml"):
        read = yaml.safe_load(path.read_text()) or {}
        found |= {name: value for name, value in read.items() if isinstance(value, str)}
    return found


def resolved(text: str, known: Mapping[str, str]) -> str:
    """A text with what the roles' variables in it stand for."""
    for _ in range(5):
        text = re.sub(
            r"\{\{ ?(\w+) ?((?:\| ?\w+ ?)*)\}\}", lambda found: known.get(found[1], found[0]), text
        )
    return text


def tasks(found: Any) -> Iterator[Mapping[str, Any]]:
    """All tasks in a file, those in blocks and plays too."""
    for one in found or []:
        for part in ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks", "handlers"):
            yield from tasks(one.get(part))
        yield one


def module(task: Mapping[str, Any]) -> tuple[str, Any]:
    """A task's module, without its collection, and what it is given."""
    for name, given in task.items():
        short = name.rpartition(".")[2]
        if "." in name or short in BY_NAME:
            return short, given
    return "", {}


def texts(given: Any) -> Iterator[str]:
    """All texts in what a module is given."""
    if isinstance(given, str):
        yield given
    elif isinstance(given, Mapping):
        for value in given.values():
            yield from texts(value)
    elif isinstance(given, list):
        for value in given:
            yield from texts(value)


def by_name(task: Mapping[str, Any], known: Mapping[str, str]) -> list[str]:
    """What a task names below a component's directory, as root."""
    short, given = module(task)
    if short not in BY_NAME or task.get("become") is False:
        return []
    every = [*texts(given), *texts(task.get("loop", []))]
    return [text for text in every if BELOW.search(resolved(text, known))]


def by_tag(task: Mapping[str, Any]) -> bool:
    """Whether a task starts a container of an image that is not named by its ID."""
    short, given = module(task)
    if short != "docker_container" or "image" not in given:
        return False
    return not BY_ID.fullmatch(str(given["image"]))


def every_task() -> Iterator[tuple[str, Mapping[str, Any]]]:
    for path in TASKS:
        for task in tasks(yaml.safe_load(path.read_text())):
            yield str(path.relative_to(TOP)), task


def test_root_names_nothing_in_the_containers_user_s_directories() -> None:
    known = variables()
    breaches = [
        f"{path}, {task.get('name')}: {text}"
        for path, task in every_task()
        for text in by_name(task, known)
    ]
    assert not breaches, "leave it to component_files:\n" + "\n".join(breaches)


def test_containers_run_images_by_their_id() -> None:
    breaches = [f"{path}, {task.get('name')}" for path, task in every_task() if by_tag(task)]
    assert not breaches, "take the image from images_identity:\n" + "\n".join(breaches)
    # Where `component_image` comes from.
    for role in ("bridge", "client", "server"):
        text = (TOP / "roles" / role / "tasks" / "main.yml").read_text()
        assert re.findall(r"component_image: (.+)", text) == [
            '"{{ _' + role + '_image_identity }}"'
        ]


@pytest.mark.parametrize(
    "task",
    [
        {"ansible.builtin.file": {"path": "{{ sigul_root }}/server/state/x", "state": "absent"}},
        {"copy": {"dest": "{{ sigul_root }}/{{ component_name }}/etc/x", "content": ""}},
        {"ansible.builtin.template": {"dest": "{{ _server_state }}/x", "src": "x.j2"}},
        {"ansible.builtin.command": {"argv": ["rm", "{{ _component_home }}/state/x"]}},
        {"ansible.builtin.file": {"path": "{{ item }}"}, "loop": ["{{ _component_home }}/nss"]},
    ],
)
def test_a_name_below_is_found(task: Mapping[str, Any]) -> None:
    assert by_name(task, variables())


@pytest.mark.parametrize(
    "task",
    [
        {"ansible.builtin.file": {"path": "{{ sigul_root }}/egress", "state": "directory"}},
        {"ansible.builtin.file": {"path": "{{ sigul_root }}/{{ component }}", "state": "absent"}},
        {"ansible.builtin.stat": {"path": "{{ _server_state }}/server.sqlite"}},
        {"component_files": {"home": "{{ _component_home }}", "step": "home"}},
    ],
)
def test_other_names_are_no_breach(task: Mapping[str, Any]) -> None:
    assert not by_name(task, variables())


def test_an_image_by_its_tag_is_found() -> None:
    for image in ("{{ sigul_image_prefix }}/server:latest", "{{ _server_image }}", "debian"):
        assert by_tag({"community.docker.docker_container": {"image": image}})
    assert not by_tag({"community.docker.docker_container": {"name": "x", "state": "absent"}})
