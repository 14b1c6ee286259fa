"""Tables that tell which module has a command: each says what the module says."""

from __future__ import annotations

import shutil
from importlib import import_module

import pytest

from sigul_stack.cli import stack
from sigul_stack.cli.commands import registry
from sigul_stack.cli.shared_arguments import Help, program_parser


def test_each_group_has_the_commands_that_it_is_said_to_have() -> None:
    for group, names in registry.GROUPS.items():
        module = import_module(f"sigul_stack.cli.commands.{group}")
        assert tuple(command.name for command in module.COMMANDS) == names


def test_each_module_of_sigul_stack_adds_the_command_that_it_is_said_to_add() -> None:
    for name, module in stack.MODULES.items():
        parser = program_parser("x", "y")
        subparsers = parser.add_subparsers()
        import_module(f"sigul_stack.cli.{module}").add_parser(subparsers)
        assert list(subparsers.choices) == [name]


@pytest.mark.parametrize("words", [[], ["--help"], ["nonsense"], ["--version", "health"]])
def test_help_and_errors_know_all_commands(words: list[str]) -> None:
    assert list(stack._modules_for(words)) == list(stack.MODULES.values())


@pytest.mark.parametrize("columns", ["", "0", "word", "40", "200"])
def test_help_is_as_wide_as_shutil_would_have_it(
    columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert Help("x")._width == shutil.get_terminal_size().columns - 2
