"""What docstrings, comments and pages name is there, and `#:` stands above what it is about."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PACKAGE = sorted((TOP / "sigul_stack").rglob("*.py"))
TESTS = sorted((TOP / "tests").rglob("*.py"))
BUILDER = sorted((TOP / "images").rglob("*.py"))
PAGES = [*sorted((TOP / "docs").rglob("*.md")), TOP / "README.md"]

#: What is named and belongs to others.
FOREIGN = frozenset(
    {
        "BASE_IMAGE", "KRB5_CLIENT_KTNAME", "PKCS11_MODULE_PATH", "ansible_user", "core_pattern",
        "pkcs11_NAME_pubkey", "signature_type", "sslLogin", "tx_queue", "writeSignedRPM",
    }
)  # fmt: skip
#: A capital or a low line where plain words have none.
LIKE_A_NAME = re.compile(r"_|[a-z][A-Z]|^[A-Z][a-z]")


def words_in(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


def names_in(tree: ast.AST) -> Iterator[str]:
    """Every name that a module's code defines or uses, and those in its texts."""
    documented = {id(docstring) for docstring in docstrings(tree)}
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.ClassDef(name=name) | ast.Name(id=name) | ast.Attribute(attr=name):
                yield name
            case ast.arg(arg=name) | ast.keyword(arg=str(name)):
                yield name
            case ast.alias(name=name):
                yield from name.split(".")
            case ast.Constant(value=str(text)) if id(node) not in documented:
                yield from (word for word in words_in(text) if LIKE_A_NAME.search(word))


def docstrings(tree: ast.AST) -> Iterator[ast.Constant]:
    for node in ast.walk(tree):
        # A text that stands by itself: a docstring, wherever it is.
        match node:
            case ast.Expr(value=ast.Constant(value=str()) as text):
                yield text


def comments(source: str) -> list[str]:
    return re.findall(r"^\s*#.*|(?<=  )# .*", source, re.M)


def identifiers(text: str) -> Iterator[str]:
    """What stands in backticks and looks like a function, class or constant of Python's."""
    for quoted in re.findall(r"`([^`\s]+)`", text):
        is_name = re.fullmatch(r"[A-Za-z_][\w.]*(\(\))?", quoted)
        if is_name and (LIKE_A_NAME.search(quoted) or quoted.endswith("()")):
            yield quoted.removesuffix("()")


def unknown(text: str, known: set[str] | frozenset[str]) -> list[str]:
    return [name for name in identifiers(text) if not known.issuperset(name.split("."))]


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


def names_of(paths: list[Path]) -> frozenset[str]:
    """The modules at `paths`, and what they name."""
    found: set[str] = set()
    for path in paths:
        found.update(path.relative_to(TOP).with_suffix("").parts)
        found.update(names_in(parsed(path)))
    return frozenset(found)


@pytest.fixture(scope="module")
def known() -> frozenset[str]:
    """What a docstring or page may name: of the package, of the kit, and of others."""
    files = [TOP / "pyproject.toml"]
    for directory in ("roles", "playbooks", "inventories"):
        files += (TOP / directory).rglob("*.yml")
    files += (path for path in (TOP / "scripts").iterdir() if path.is_file())
    return names_of(PACKAGE).union(FOREIGN, *(words_in(file.read_text("utf-8")) for file in files))


def told(path: Path) -> str:
    """A module's docstrings and comments."""
    texts = [str(docstring.value) for docstring in docstrings(parsed(path))]
    return "\n".join(texts + comments(path.read_text("utf-8")))


def test_comments_name_what_is_there(known: frozenset[str]) -> None:
    named = [(path, unknown(told(path), known)) for path in PACKAGE]
    assert [(path, names) for path, names in named if names] == []


def test_comments_of_tests_name_what_is_there(known: frozenset[str]) -> None:
    also_tests = known | names_of(TESTS)
    named = [(path, unknown(told(path), also_tests)) for path in TESTS]
    assert [(path, names) for path, names in named if names] == []


def test_pages_name_what_is_there(known: frozenset[str]) -> None:
    named = [(page, unknown(page.read_text("utf-8"), known)) for page in PAGES]
    assert [(page, names) for page, names in named if names] == []


def test_what_is_gone_is_seen(known: frozenset[str]) -> None:
    text = "made by `as_client`, `NoSuchThing`, `no_body()`, or `inner_session`"
    assert unknown(text, known) == ["as_client", "NoSuchThing", "no_body"]
    assert not unknown("`open_envelope()`, `Rights.ADMIN`, two `plain words`, `dash-ed`", known)


# --- `#:` ----------------------------------------------------------------------------------------


def orphans(source: str) -> list[int]:
    """The lines of comments `#:` that no assignment follows at once, nor stands before."""
    lines = source.splitlines()
    tree = ast.parse(source)
    assignments = [node for node in ast.walk(tree) if isinstance(node, ast.Assign | ast.AnnAssign)]
    starts = {node.lineno for node in assignments}
    ends = {node.end_lineno for node in assignments}
    found = []
    for number, line in enumerate(lines, 1):
        if re.match(r"\s*#:", line):
            code = (at for at in range(number, len(lines)) if not re.match(r"\s*#", lines[at]))
            if next(code, -1) + 1 not in starts:
                found.append(number)
        elif re.search(r"  #[:] ", line) and number not in starts | ends:
            found.append(number)
    return found


def test_comments_about_names_stand_above_them() -> None:
    paths = [*PACKAGE, *TESTS, *BUILDER]
    found = {str(path.relative_to(TOP)): orphans(path.read_text("utf-8")) for path in paths}
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_an_orphan_is_seen() -> None:
    mark = "#:"
    assert orphans(f"{mark} Of nothing.\n\nx = 1\n") == [1]
    assert orphans(f"{mark} Of a function.\ndef f() -> None: ...\n") == [1]
    assert orphans(f"f(\n    1,  {mark} Of an argument.\n)\n") == [2]
    assert orphans(f"{mark} Of x,\n{mark} and more.\nx = 1\ny: int = 2  {mark} Of y.\n") == []
    assert orphans(f"z = (\n    1,\n)  {mark} Of z.\n") == []


#: Words that begin a question or half a sentence, where a docstring says what a thing is or does.
QUESTIONS = re.compile(r"(What|Who|Whose|That|Where|Which|How|When|Those|Since|Why)\b")


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: str(path.relative_to(TOP)))
def test_docstrings_begin_with_what_a_thing_is_or_does(path: Path) -> None:
    defined = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(parsed(path)) if isinstance(node, defined)]
    texts = map(ast.get_docstring, nodes)
    assert [text for text in texts if text and QUESTIONS.match(text)] == []
