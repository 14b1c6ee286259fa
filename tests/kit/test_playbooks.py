"""Playbooks, tags, runbooks and the paths that pages name: they agree, without a site.

What the playbooks do is tried on one in test_runbooks.py.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..checkout import TOP, own_files

BIN = Path(sys.executable).parent
RUNBOOKS = (TOP / "docs/runbooks.md").read_text()
PLAYBOOKS = sorted(path.name for path in (TOP / "playbooks").glob("*.yml"))
#: Parts of site.yml, which nobody runs by hand.
PARTS = {"components.yml", "certificates.yml"}
PAGES = sorted(path for path in own_files() if path.suffix == ".md")


def ansible(*words: str) -> str:
    """What `ansible-playbook` says of playbooks that it does not run."""
    done = subprocess.run(
        [BIN / "ansible-playbook", *words],
        cwd=TOP, capture_output=True, text=True, timeout=100, check=False,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(120)  # Ansible reads all roles for each of them: some 10 s.
def test_all_can_be_read() -> None:
    said = ansible("--syntax-check", "site.yml", *(f"playbooks/{name}" for name in PLAYBOOKS))
    assert said.count("playbook: ") == len(PLAYBOOKS) + 1


@pytest.mark.timeout(120)
def test_tags_are_those_that_are_described() -> None:
    said = ansible("--list-tags", "site.yml")
    found = {tag for tags in re.findall(r"TAGS: \[(.*)\]", said) for tag in tags.split(", ") if tag}
    page = RUNBOOKS.partition("## A part of the site")[2].partition("\n## ")[0]
    described = set(re.findall(r"`(\w+)`", page.partition("`--tags bridge`")[0]))
    assert found - {"always"} == described
    comment = (TOP / "site.yml").read_text().partition("--tags takes a part:")[2].partition("\n- ")
    assert found - {"always"} <= set(re.findall(r"\w+", comment[0]))


def test_each_playbook_is_on_a_page() -> None:
    """In the runbooks, or in the page that they point to; and none is named that there is not."""
    pages = RUNBOOKS + (TOP / "docs/deploy.md").read_text()
    named = set(re.findall(r"playbooks/([\w-]+\.yml)", pages))
    assert named <= set(PLAYBOOKS)
    assert set(PLAYBOOKS) - PARTS <= named


def test_each_runbook_is_tried() -> None:
    """A row for each section, with the test that has done what it says."""
    sections = re.findall(r"^## (.*)$", RUNBOOKS, re.M)
    rows = re.findall(r"^\| \[(.*?)\]\(#(.*?)\) \| `(.*?)` \| `(.*?)::(\w+)` \|$", RUNBOOKS, re.M)
    assert [row[0].lower() for row in rows] == [section.lower() for section in sections]
    for title, link, command, file, test in rows:
        assert link == re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        assert f"def {test}(" in (TOP / file).read_text()
        [playbook] = re.findall(r"[\w/-]+\.yml", command)
        assert (TOP / playbook).is_file()


def test_what_is_asked_of_a_variable_is_described() -> None:
    """What a playbook refuses to go without, its head and the runbook name."""
    for name in ("revoke.yml", "passphrase.yml", "version.yml"):
        text = (TOP / "playbooks" / name).read_text()
        [variable, *_] = re.findall(r"-e (\w+)=", text)
        assert f"playbooks/{name} -e {variable}=" in RUNBOOKS


@pytest.mark.timeout(120)  # Ansible is started four times.
def test_a_vault_beside_the_variables(tmp_path: Path) -> None:
    """As inventories/README.md has it: both are read, of each machine."""
    page = (TOP / "inventories/README.md").read_text()
    [moved] = re.findall(r"move that to `(group_vars/[\w/]+\.yml)`", page)
    [vault] = re.findall(r"^\| `(group_vars/[\w/]+\.yml)`, which `ansible-vault`", page, re.M)
    copy = shutil.copytree(TOP / "inventories/three_host", tmp_path / "copy")
    password = tmp_path / "password"
    password.write_text("of the vault")
    (copy / moved).parent.mkdir()
    (copy / "group_vars/all.yml").rename(copy / moved)
    secrets = "secrets_values: {admin-password: of the administrator}"
    options = ["--vault-password-file", password]
    subprocess.run(
        [BIN / "ansible-vault", "encrypt", *options, "--output", copy / vault, "-"],
        input=secrets, text=True, timeout=60, check=True,
    )  # fmt: skip
    for host in ("localhost", "sigul-server", "build-1"):
        done = subprocess.run(
            [BIN / "ansible-inventory", "-i", copy, *options, "--host", host],
            cwd=TOP, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        said = json.loads(done.stdout)
        assert said["sigul_site"] == "example"
        assert said["secrets_values"] == {"admin-password": "of the administrator"}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(TOP)))
def test_paths_in_pages_are_there(page: Path) -> None:
    """Those that begin as the checkout's own do, but for the copy that somebody is to make."""
    tops = {path.relative_to(TOP).parts[0] for path in own_files() if path.parent != TOP}
    begins = "|".join(map(re.escape, sorted(tops)))
    text = page.read_text()
    named = re.findall(rf"(?<![\w./-])((?:{begins})/[\w./*-]*[\w*])", text)
    missing = [path for path in named if not list(TOP.glob(path.rstrip("/")))]
    assert set(missing) <= {"inventories/COPY"}


def test_directories_of_the_control_machine_are_those_of_the_roles() -> None:
    """What stands below `sigul_control` in the page, and what roles and playbooks have there."""
    page = (TOP / "docs/deploy.md").read_text().partition("## What goes where")[2].split("```")[1]
    first = [line[:35] for line in page.splitlines()]
    listed = {match[1] for line in first if (match := re.match(r"   ([\w-]+)/", line))}
    texts = [
        path.read_text()
        for top in ("roles", "playbooks")
        for path in (TOP / top).rglob("*")
        if path.suffix in {".yml", ".py", ".j2"} and path.name != "argument_specs.yml"
    ]
    made = set(re.findall(r"sigul_control(?: ~ '| \}\})/([\w-]+)", "".join(texts)))
    assert listed == made, json.dumps(sorted(listed ^ made))
