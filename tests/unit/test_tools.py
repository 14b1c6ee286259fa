"""The table of tools: what there is, what is missing, and what is said about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sigul_stack.protocol.operations import OPERATIONS
from sigul_stack.tools import GIT, GPG, OPENSSL_PKCS11, TOOLS, tools_of


@pytest.mark.system
def test_everything_that_tests_need_is_found_with_its_version() -> None:
    for tool in TOOLS:
        path = tool.find()
        assert path is not None and path.is_file(), tool.missing()
        assert bool(tool.version()) == bool(tool.version_arguments), tool.name


def test_what_is_missing_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for tool in TOOLS:
        assert tool.find() is None
        assert tool.version() == ""
        assert tool.name in str(tool.missing())
        assert str(tool.missing()).endswith(f"install the package {tool.package}")


@pytest.mark.system
def test_a_program_that_does_not_run_has_no_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "git").write_text("#!/no/such/interpreter\n")
    (tmp_path / "git").chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert GIT.find() == tmp_path / "git"
    assert GIT.version() == ""


def test_only_the_tools_of_enabled_binding_methods_count() -> None:
    assert GPG in tools_of("server")
    assert not any(tool.binding for tool in tools_of("server"))
    assert OPENSSL_PKCS11 in tools_of("client", ("pkcs11",))
    # The name that old sites have for `keyring`.
    assert tools_of("client", ("keyctl",)) == tools_of("client", ("keyring",))


def test_operations_are_those_of_the_table() -> None:
    named = {name for tool in TOOLS for name in tool.needed_for if name.startswith("sign-")}
    assert named <= OPERATIONS.keys()
