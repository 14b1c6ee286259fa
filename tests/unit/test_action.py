"""The action on the runner: inputs, files, lines of the log. Its steps as a whole: tests/kit."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from action.runner import main, workflow
from action.runner.errors import ActionError, Rejected
from action.runner.files import find_files
from action.runner.inputs import Inputs, read_inputs
from action.runner.results import Results
from sigul_stack.cli.signjob.request import FORM

from ..checkout import TOP

ACTION = yaml.safe_load((TOP / "action" / "action.yml").read_text())
SOURCES = [TOP / "action" / "sign.py", *sorted((TOP / "action" / "runner").glob("*.py"))]


def environment(**changes: str) -> dict[str, str]:
    """The defaults of action.yml, with what is required; an underscore stands for a hyphen."""
    values = {name: item.get("default", "") for name, item in ACTION["inputs"].items()}
    values |= {
        "sign-object": "a", "sigul-conf": "[client]", "sigul-key-name": "k", "sigul-pass": "pw",
        "sigul-pki": "bundle", "container-image": "registry.example.org:5000/sigul/client",
        "container-tag": "1.0",
    }  # fmt: skip
    values |= {name.replace("_", "-"): text for name, text in changes.items()}
    return {f"INPUT_{name.upper().replace('-', '_')}": text for name, text in values.items()}


def read(**changes: str) -> Inputs:
    return read_inputs(environment(**changes))


def test_defaults_are_those_of_the_action_that_it_replaces() -> None:
    inputs = read()
    assert (inputs.max_retries, inputs.retry_delay, inputs.attempt_timeout) == (5, 15, 600)
    assert (inputs.push_tag, inputs.dry_run, inputs.is_tag) == (True, False, False)
    assert {"*.asc", "*.md5", "*.sha1"} <= set(inputs.exclude_globs)
    assert inputs.hosts_entry is None


def test_the_step_has_every_input_in_its_environment_and_none_in_its_script() -> None:
    """Text of an input in a script would be the script's."""
    sign, clean = ACTION["runs"]["steps"]
    given = {f"INPUT_{name.upper().replace('-', '_')}": name for name in ACTION["inputs"]}
    assert sign["env"] == {key: f"${{{{ inputs.{name} }}}}" for key, name in given.items()}
    assert "${{" not in sign["run"] + clean["run"]
    for name, item in ACTION["outputs"].items():
        assert item["value"] == f"${{{{ steps.sign.outputs.{name} }}}}"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sign_type": "sign-rpm"}, "sign-type"),
        ({"sign_object": " \n"}, "sign-object"),
        ({"sigul_pass": "\nsecond"}, "sigul-pass"),
        ({"sigul_conf": "x" * (1 << 20) + "y"}, "sigul-conf is longer"),
        ({"sigul_pki": "x" * 2_097_153}, "sigul-pki is longer"),
        ({"sigul_key_name": "a\nb"}, "sigul-key-name"),
        ({"public_key": "-----BEGIN PUBLIC KEY-----"}, "public-key"),
        ({"expected_bridge": "bridge"}, "expected-bridge"),
        ({"expected_bridge": "bridge:0"}, "expected-bridge"),
        ({"expected_bridge": "bridge:65536"}, "expected-bridge"),
        ({"expected_bridge": "a b:44334"}, "expected-bridge"),
        ({"expected_bridge": "bridge:٤٤"}, "expected-bridge"),
        ({"dry_run": "yes"}, "dry-run"),
        ({"allow_legacy": "maybe"}, "allow-legacy"),
        ({"max_retries": "0"}, "max-retries"),
        ({"max_retries": "86401"}, "max-retries"),
        ({"retry_delay": "-1"}, "retry-delay"),
        ({"attempt_timeout": "1.5"}, "attempt-timeout"),
        ({"container_image": ""}, "container-image"),
        ({"container_image": "", "container": "legacy"}, "container is 'legacy'"),
        ({"container": "other"}, "container has to be empty"),
        ({"container_image": "--privileged"}, "container-image is no name"),
        ({"container_image": "a/b:1"}, "container-image is no name"),
        ({"container_tag": ""}, "container-tag or a container-digest"),
        ({"container_tag": "a b"}, "container-tag is no tag"),
        ({"container_digest": "sha256:1234"}, "container-digest"),
        ({"sigul_hosts_entry": "true"}, "sigul-uri"),
        ({"sigul_ip": "1.2.3"}, "sigul-ip"),
        ({"sigul_uri": "a,b"}, "sigul-uri"),
    ],
)
def test_inputs_that_are_refused(changes: dict[str, str], reason: str) -> None:
    with pytest.raises(Rejected, match=re.escape(reason)):
        read(**changes)


def test_what_inputs_become() -> None:
    assert read(sigul_pass="first \r\nsecond").passphrase == "first "
    assert read(expected_bridge="Bridge.Example.ORG.:44334").expected_bridge == (
        "bridge.example.org:44334"
    )
    digest = "sha256:" + "0" * 64
    assert read(container_digest=digest).image.endswith(f"/client@{digest}")
    assert read(container="modern").image == "registry.example.org:5000/sigul/client:1.0"
    entry = {"sigul_ip": "2001:db8::1", "sigul_uri": "bridge.example.org"}
    assert read(**entry).hosts_entry is None
    assert read(**entry, sigul_hosts_entry="true").hosts_entry == (
        "bridge.example.org", "2001:db8::1",
    )  # fmt: skip


def test_no_secret_shows() -> None:
    secrets = {"sigul_pass": "s3cr3t", "gh_key": "s3cr3t", "sigul_conf": "s3cr3t"}
    assert "s3cr3t" not in repr(read(**secrets, sigul_pki="s3cr3t"))


# ------------------------------------------------------------------------------------------ files


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    top = tmp_path / "workspace"
    for name in ("a", "b", "b.asc", "d/e", "d/e.md5", "d/f/g", "d/.git/h", "[x]", "x", ".dot"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(name)
    (top / "d/link").symlink_to(top / "a")
    (top / "d/directory").symlink_to(tmp_path)
    (top / "inside").symlink_to("a")
    (top / "outside").symlink_to("/etc/hostname")
    return top


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ("a\n\n  b  \na", ["a", "b"]),
        ("d", ["d/e", "d/f/g"]),
        ("./d/../d/", ["d/e", "d/f/g"]),
        ("[x]", ["[x]"]),
        ("[*", ["[x]"]),
        ("b*", ["b"]),
        ("b.asc", ["b.asc"]),
        ("d/*", ["d/e", "d/e.md5", "d/f/g", "d/link"]),
        ("d/**/g", ["d/f/g"]),
        ("inside", ["inside"]),
    ],
)
def test_files_that_lines_mean(workspace: Path, lines: str, wanted: list[str]) -> None:
    if lines == "d/*":
        (workspace / "d/directory").unlink()
    found = find_files(lines, workspace, ("*.asc", "*.md5"))
    assert [str(path.relative_to(workspace)) for path in found] == wanted


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("nothing", "No such file"),
        ("nothing*", "nothing matches"),
        ("/etc/hostname", "outside of the workspace"),
        ("..", "outside of the workspace"),
        ("outside", "outside of the workspace"),
        ("d/directory", "outside of the workspace"),
        ("b\nb.asc", "would be the signature"),
        (".", "would be the signature"),
        ("a\0b", "NUL"),
    ],
)
def test_lines_that_are_refused(workspace: Path, lines: str, reason: str) -> None:
    with pytest.raises(Rejected, match=reason):
        find_files(lines, workspace, ())


# ----------------------------------------------------------------------------------------- the log


@pytest.mark.parametrize(
    "text",
    ["::set-output name=a::b", "  ::add-mask::a", "a ##[error]b", "a\n::error::b", "a\r::error::b"],
)
def test_a_line_of_the_log_is_no_command(text: str) -> None:
    shown = workflow.plain(text)
    assert len(shown.splitlines()) == 1
    assert not shown.lstrip().startswith("::")
    assert "##[" not in shown


def test_masks(capsys: pytest.CaptureFixture[str]) -> None:
    workflow.mask("one%0A\n\ntwo")
    assert capsys.readouterr().out == "::add-mask::one%250A\n::add-mask::two\n"


def test_wrong_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["other"]) == 2
    assert "usage" in capsys.readouterr().out


# -------------------------------------------------------------------------------- the container's

ARMOURED = "-----BEGIN PGP SIGNATURE-----\n\nabc\n-----END PGP SIGNATURE-----\n"
PROOF = "c2sp.org/tlog-proof@v1\nextra \n"
SIGNED = {"event": "signed", "file": 0, "fingerprint": "A" * 40, "signature": ARMOURED}


def results(workspace: Path, *, dry_run: bool = False, accepted: bool = True) -> Results:
    found = Results(workspace, [workspace / "a", workspace / "b"], dry_run=dry_run)
    if accepted:
        found.hear({"event": "accepted"})
    return found


@pytest.mark.parametrize(
    "event",
    [
        {"event": "other"},
        {"event": "other", "file": 0},
        {"event": "log"},
        {**SIGNED, "file": -1},
        {**SIGNED, "file": 2},
        {**SIGNED, "file": True},
        {**SIGNED, "file": "0"},
        {**SIGNED, "signature": "other"},
        {**SIGNED, "signature": ARMOURED * 2000},
        {**SIGNED, "signature": ARMOURED.replace("abc", "ü")},
        {**SIGNED, "fingerprint": "a\nb"},
        {**SIGNED, "proof": "other"},
        {**SIGNED, "proof": 5},
        {**SIGNED, "proof": PROOF * 10_000},
        {**SIGNED, "proof": f"{PROOF}\ud800"},
        {"event": "tag", "old": "", "new": "--all", "fingerprint": "A" * 40},
    ],
)
def test_events_that_make_no_sense_end_the_step(workspace: Path, event: dict[str, Any]) -> None:
    before = sorted(workspace.rglob("*"))
    with pytest.raises(ActionError, match="no event"):
        results(workspace).hear(event)
    assert sorted(workspace.rglob("*")) == before


@pytest.mark.parametrize("kind", ["signed", "kept", "stale", "failed"])
def test_a_dry_run_believes_no_signature(workspace: Path, kind: str) -> None:
    for found in (results(workspace, dry_run=True), results(workspace, accepted=False)):
        with pytest.raises(ActionError):
            found.hear({**SIGNED, "event": kind, "reason": "", "file": 1})
    assert (workspace / "b.asc").read_text() == "b.asc"


def test_what_cannot_be_written_costs_that_file(workspace: Path) -> None:
    (workspace / "a.asc").mkdir()
    found = results(workspace)
    found.hear(SIGNED)
    found.hear({"event": "stale", "file": 1})
    assert not (workspace / "b.asc").exists()
    found.hear({**SIGNED, "file": 1})
    assert (found.signed, found.kept) == ({1}, set())
    assert (workspace / "b.asc").read_text() == ARMOURED
    with pytest.raises(ActionError, match="1 of 2 files are not signed"):
        found.check_files()


def test_a_proof_lies_beside_its_signature_and_goes_with_it(workspace: Path) -> None:
    proof = workspace / "a.asc.tlog-proof"
    results(workspace).hear({**SIGNED, "proof": PROOF})
    assert proof.read_text() == PROOF
    assert proof.stat().st_mode & 0o777 == 0o644
    # A signature without one: what lies there is of the former.
    results(workspace).hear(SIGNED)
    assert not proof.exists()
    proof.write_text(PROOF)
    results(workspace).hear({"event": "stale", "file": 0})
    assert not proof.exists()
    assert not (workspace / "a.asc").exists()


def test_proofs_are_no_files_to_sign(workspace: Path) -> None:
    (workspace / "a.asc").write_text("a.asc")
    (workspace / "a.asc.tlog-proof").write_text(PROOF)
    for lines in (".", "a*"):
        names = [path.name for path in find_files(lines, workspace, ["*.asc"])]
        assert "a" in names
        assert not [name for name in names if name.endswith("tlog-proof")]


# ------------------------------------------------------------------------------- what it rests on


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_it_runs_with_python_3_9_and_nothing_else(path: Path) -> None:
    """Runners of Debian 11 and of Ubuntu 22.04 have no newer one; nothing is installed there."""
    import sys

    tree = ast.parse(path.read_text(), feature_version=(3, 9))
    for node in ast.walk(tree):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules = [node.module or ""]
        for name in modules:
            assert name.partition(".")[0] in {*sys.stdlib_module_names, "runner"}, name


def test_both_sides_have_one_form_of_jobs() -> None:
    assert main.FORM == FORM
    assert json.dumps(FORM)
