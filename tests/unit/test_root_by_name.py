"""Root changes nothing by name in a directory of others: a rule on the package's syntax trees.

Who can change a directory decides which file a name in it means, at any moment. So whatever may run
as root works by descriptor, or inside `rights_for` or `rights_of_owner` (config/identity.py), with
the rights of whom the directory belongs to. test_privileges and test_root_among_others try it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.imports import MODULES, Module

#: Modules that make and change files by name, and why root's rights are not at stake there: the
#: prefix of a module's name, and who calls it.
NEVER_ROOT_BESIDE_OTHERS = {
    "backup": "the server's own user (cli/backup.py becomes him)",
    "bundle": "whoever calls it: cli/bundle.py has the directory's rights, a CI job its own one",
    "cli.commands": "the client: files that its user names",
    "cli.demo": "a site of the caller's own, below a directory that he alone may enter",
    "cli.signjob": "a CI job: a directory of its own, which nobody else may enter",
    "client": "the client: files that its user names",
    "database": "the server's own user (cli/server_tools.py becomes him)",
    "evidence": "the server's own user (its writer and `prepare` have become him), or who calls it",
    "keystore": "a server's worker, which has become the server's user",
    "server.keychanges": "a server's worker, which has become the server's user",
    "signing": "a server's worker, which has become the server's user",
    "system.files": "whoever calls it: the rule is for the caller",
    "system.wall": "opens what a program may come to, with O_PATH, and changes nothing",
}

#: What gives the rights of a directory's user to a block.
RIGHTS = frozenset({"rights_for", "rights_of_owner"})

#: Changes of owner or mode, for which there are descriptors everywhere.
_MODES = frozenset({"chmod", "lchmod", "chown", "lchown"})
_OS = frozenset(
    {
        "link", "makedirs", "mkdir", "mkfifo", "mknod", "open", "remove", "removedirs", "rename",
        "renames", "replace", "rmdir", "symlink", "truncate", "unlink", "utime",
    }
)  # fmt: skip
_SHUTIL = frozenset(
    {"copy", "copy2", "copyfile", "copymode", "copystat", "copytree", "move", "rmtree"}
)
_PATH = frozenset(
    {
        "hardlink_to", "mkdir", "rename", "rmdir", "symlink_to", "touch", "unlink", "write_bytes",
        "write_text",
    }
)  # fmt: skip
#: Keywords that tell that a call has a descriptor, or leaves the opening to another.
_BY_DESCRIPTOR = frozenset({"closefd", "dir_fd", "fileobj", "opener", "src_dir_fd"})
#: Flags of `os.open` with which nothing changes.
_READING = frozenset(
    f"os.O_{flag}" for flag in ("CLOEXEC", "DIRECTORY", "NOCTTY", "NOFOLLOW", "NONBLOCK", "RDONLY")
)
#: Files that nobody swaps.
_DEVICES = ("/dev/", "/proc/")


@dataclass
class Function:
    """What one function does outside of a block with rights: changes by name, and calls."""

    changes: list[tuple[int, str, bool]] = field(default_factory=list)
    calls: set[str] = field(default_factory=set)
    #: Names that it calls inside of such a block.
    calls_with_rights: set[str] = field(default_factory=set)


def change_by_name(call: ast.Call) -> tuple[str, bool] | None:
    """What a call changes by a file's name, and whether that is its owner or mode."""
    if any(keyword.arg in _BY_DESCRIPTOR for keyword in call.keywords) or _is_device(call):
        return None
    match call.func:
        case ast.Attribute(value=ast.Name(id="os"), attr="open") if _only_reads(call):
            return None
        case ast.Attribute(value=ast.Name(id="os"), attr=attr) if attr in _MODES | _OS:
            return (f"os.{attr}", attr in _MODES)
        case ast.Attribute(value=ast.Name(id="shutil"), attr=attr) if attr in _SHUTIL | {"chown"}:
            return (f"shutil.{attr}", attr == "chown")
        case ast.Name(id="open") | ast.Attribute(attr="open"):
            modes = [*call.args[:2], *(one.value for one in call.keywords if one.arg == "mode")]
            texts = {str(mode.value) for mode in modes if isinstance(mode, ast.Constant)}
            if any(set(text) & set("wax+") and set(text) <= set("rwxabt+") for text in texts):
                return ("open for writing", False)
        case ast.Attribute(attr=attr) if attr in _MODES:
            return (f".{attr}", True)
        case ast.Attribute(value=value, attr="replace"):
            known = isinstance(value, ast.Name) and value.id == "dataclasses"
            if len(call.args) == 1 and not call.keywords and not known:
                return (".replace", False)
        case ast.Attribute(value=value, attr=attr) if attr in _PATH:
            return (f".{attr}", False)
    return None


def _only_reads(call: ast.Call) -> bool:
    """Whether `os.open` is told, in the call itself, to read and to make nothing."""
    flags = set(ast.unparse(call.args[1]).split(" | ")) if len(call.args) == 2 else set()
    return "os.O_RDONLY" in flags and flags <= _READING


def _is_device(call: ast.Call) -> bool:
    first = ast.unparse(call.args[0]) if call.args else ""
    if isinstance(call.func, ast.Attribute):
        first += " " + ast.unparse(call.func.value)
    return "os.devnull" in first or any(f"'{start}" in first for start in _DEVICES)


def functions(module: Module) -> dict[str, Function]:
    """The functions of a module by name (methods too); what stands outside of all is ""."""
    found: dict[str, Function] = {"": Function()}

    def visit(node: ast.AST, name: str, rights: bool) -> None:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                found.setdefault(node.name, Function())
                for child in ast.iter_child_nodes(node):
                    visit(child, node.name, False)
                return
            case ast.With():
                inside = rights
                for item in node.items:
                    visit(item, name, inside)
                    inside = inside or _gives_rights(item.context_expr)
                for child in node.body:
                    visit(child, name, inside)
                return
            case ast.Call():
                function = found[name]
                change = change_by_name(node)
                if change is not None and not rights:
                    function.changes.append((node.lineno, *change))
                if (called := _called(node)) is not None:
                    (function.calls_with_rights if rights else function.calls).add(called)
        for child in ast.iter_child_nodes(node):
            visit(child, name, rights)

    visit(module.tree, "", False)
    return found


def _gives_rights(expression: ast.expr) -> bool:
    match expression:
        case ast.Call(func=ast.Name(id=name)):
            return name in RIGHTS
    return False


def _called(call: ast.Call) -> str | None:
    match call.func:
        case ast.Name(id=name) | ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name):
            return name
    return None


def uncovered(module: Module) -> Iterator[str]:
    """Changes by name outside of a block with rights, in a function that is not called in one."""
    found = functions(module)
    without = {name for one in found.values() for name in one.calls}
    covered: set[str] = set()
    while True:
        # Private ones alone: others may be called from anywhere.
        more = {
            name
            for name in found
            if name.startswith("_")
            and name not in covered
            and any(
                name in one.calls_with_rights or (caller in covered and name in one.calls)
                for caller, one in found.items()
            )
            and (
                name not in without
                or all(caller in covered or name not in one.calls for caller, one in found.items())
            )
        }
        if not more:
            break
        covered |= more
    for name, function in found.items():
        if name not in covered:
            for line, change, of_modes in function.changes:
                if of_modes or not _is_exempt(module.name):
                    yield f"{module.name}, line {line}: {change} in {name or 'the module'}"


def _is_exempt(name: str) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in NEVER_ROOT_BESIDE_OTHERS)


def test_root_changes_nothing_by_name() -> None:
    breaches = [breach for module in MODULES.values() for breach in uncovered(module)]
    assert not breaches, "work by descriptor or with rights_for:\n" + "\n".join(breaches)


def test_every_exemption_is_of_use() -> None:
    used = {
        one
        for one in NEVER_ROOT_BESIDE_OTHERS
        for module in MODULES.values()
        if (module.name == one or module.name.startswith(f"{one}."))
        and any(function.changes for function in functions(module).values())
    }
    assert used == set(NEVER_ROOT_BESIDE_OTHERS)


def test_what_stays_root_is_under_the_rule() -> None:
    """Modules that are known to work on files beside a daemon's user, or in his directories."""
    for name in ("cli.pidfile", "cli.logfile", "transport.status_socket", "pki.nss_directory",
                 "pki.password_files", "pki.rollover"):  # fmt: skip
        module = next(one for one in MODULES.values() if one.name == name)
        assert not _is_exempt(name)
        assert "rights_" in ast.unparse(module.tree)


@pytest.mark.parametrize(
    "source",
    [
        "import os\ndef f(p): os.chown(p, 1, 1)",
        "import os\ndef f(p): os.chmod(p, 0o600)",
        "def f(p): p.chmod(0o600)",
        "def f(p, q): p.rename(q)",
        "def f(p, q): p.replace(q)",
        "import os\ndef f(p, q): os.replace(p, q)",
        "import os\ndef f(p): return os.open(p, os.O_WRONLY)",
        "import os\ndef f(p): return os.open(p, os.O_RDONLY | os.O_CREAT)",
        "import os\ndef f(p, flags): return os.open(p, os.O_RDONLY | flags)",
        "def f(p): return open(p, 'a')",
        "def f(p): return p.open('wb')",
        "def f(p): return p.open(mode='r+b')",
        "def f(p): p.unlink()",
        "import shutil\ndef f(p): shutil.rmtree(p)",
        "def f(p):\n    with rights_for(i, p): pass\n    p.unlink()",
        "def f(p):\n    with p.write_text(''), rights_for(i, p): pass",
        "def f(p):\n    with rights_for(i, p): _g(p)\n    _g(p)\ndef _g(p): p.unlink()",
        "def f(p):\n    with rights_for(i, p): g(p)\ndef g(p): p.unlink()",
        "def f(p):\n    with rights_for(i, p):\n        def g(): p.unlink()\n    return g",
    ],
)
def test_a_breach_is_found(source: str) -> None:
    assert list(uncovered(Module("cli.test", False, ast.parse(source))))


@pytest.mark.parametrize(
    "source",
    [
        "import os\ndef f(d): os.fchown(d, 1, 1); os.fchmod(d, 0o600)",
        "import os\ndef f(n, d): os.rename(n, 'x', src_dir_fd=d, dst_dir_fd=d)",
        "def f(p): return p.open('rb')",
        "import os\ndef f(p): return os.open(p, os.O_RDONLY | os.O_CLOEXEC)",
        "def f(p): return open(p)",
        "def f(s): return s.replace('a', 'b')",
        "import dataclasses\ndef f(s): return dataclasses.replace(s)",
        "import os\ndef f(): os.open(os.devnull, os.O_RDWR); os.open('/dev/tty', os.O_RDWR)",
        "def f(p):\n    with rights_for(i, p): p.unlink()",
        "def f(p):\n    with suppress(OSError), rights_of_owner(p), p.mkdir(): p.unlink()",
        "def f(p):\n    with rights_for(i, p): _g(p)\ndef _g(p): _h(p)\ndef _h(p): p.unlink()",
        "class A:\n    def f(self, p):\n        with rights_for(i, p): self._g(p)\n"
        "    def _g(self, p): p.unlink()",
    ],
)
def test_what_is_right_is_no_breach(source: str) -> None:
    assert not list(uncovered(Module("cli.test", False, ast.parse(source))))
