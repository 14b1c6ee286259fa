"""The package's modules as syntax trees, and what each imports: for its rules and its picture."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

PACKAGE = "sigul_stack"
TOP = Path(__file__).parents[1]


class Import(NamedTuple):
    """One imported module, by its full name, and whether a function imports it when called."""

    module: str
    line: int
    lazy: bool


@dataclass(frozen=True)
class Module:
    """One source file of the package. `name` is relative to the package, whose own is ""."""

    name: str
    is_package: bool
    tree: ast.Module

    @classmethod
    def load(cls, path: Path) -> Module:
        """Parse one file."""
        parts = path.relative_to(TOP / PACKAGE).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        return cls(name, is_package, ast.parse(path.read_bytes(), str(path)))

    @property
    def top(self) -> str:
        """The first part of the name, which the rules go by."""
        return self.name.partition(".")[0]

    @property
    def full_name(self) -> str:
        """The name to import it by."""
        return f"{PACKAGE}.{self.name}".rstrip(".")

    def base(self, level: int) -> str:
        """The package that `level` leading dots mean in this module."""
        parts = self.full_name.split(".")
        return ".".join(parts[: len(parts) - level + self.is_package])

    def imports(self) -> Iterator[Import]:
        """All imports, wherever they stand. `from a import b` gives `a.b` if that is a module."""
        for node, lazy in walk(self.tree):
            for module in self._imported_by(node):
                yield Import(module, getattr(node, "lineno", 0), lazy)

    def _imported_by(self, node: ast.AST) -> Iterator[str]:
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield alias.name
            case ast.ImportFrom(module=module, names=names, level=level):
                start = f"{self.base(level)}.{module or ''}".rstrip(".") if level else module or ""
                for alias in names:
                    inside = f"{start}.{alias.name}"
                    yield inside if inside in FULL_NAMES or start == PACKAGE else start
            case (
                ast.Call(func=ast.Name(id="import_module" | "__import__"), args=args)
                | ast.Call(func=ast.Attribute(attr="import_module"), args=args)
            ):
                yield self._imported_by_name(args)

    def _imported_by_name(self, arguments: list[ast.expr]) -> str:
        """What `import_module` loads. A name made at run time must be of the same package."""
        match arguments:
            case [ast.Constant(value=str(name)), *_]:
                stripped = name.lstrip(".")
                level = len(name) - len(stripped)
                return f"{self.base(level)}.{stripped}" if level else name
            case [_, ast.Name(id="__package__" | "__name__")]:
                return self.full_name
        return "?"


def walk(tree: ast.AST, lazy: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """All nodes, each with whether it is executed only when some function is called."""
    for node in ast.iter_child_nodes(tree):
        yield node, lazy
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from walk(node, lazy or function)


PATHS = sorted((TOP / PACKAGE).rglob("*.py"))
FULL_NAMES = frozenset(
    ".".join(path.relative_to(TOP).with_suffix("").parts).removesuffix(".__init__")
    for path in PATHS
)
#: Every module of the package, by its full name.
MODULES = {module.full_name: module for module in map(Module.load, PATHS)}
