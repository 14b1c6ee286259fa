"""Who may import whom (docs/architecture.md), and: nothing happens at import.

The first half walks the syntax trees of all modules of the package, imports inside functions and
for type checkers included. The second half imports each module in a process of its own
(import_probe.py) and looks at what that did.
"""

from __future__ import annotations

import ast
import json
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path

import pytest

from tests.imports import FULL_NAMES, MODULES, PACKAGE, TOP, Module, walk

# --- The rules. Names are those of modules and packages below sigul_stack. -----------------------

# "" is the package itself: its version.
EVERYBODY_MAY = frozenset({"", "errors", "secret", "logevents", "records"})
MAY_IMPORT: dict[str, frozenset[str]] = {
    "": frozenset(),
    "errors": frozenset(),
    "secret": frozenset(),
    "records": frozenset(),
    "checks": frozenset(),
    "password_strength": frozenset(),
    "logcontext": frozenset(),
    "logevents": frozenset(),
    "system": frozenset(),
    "metrics": frozenset(),
    "observe": frozenset({"metrics", "protocol", "system"}),
    "tools": frozenset({"system"}),
    "kojihub": frozenset(),
    "config": frozenset(),
    "protocol": frozenset(),
    "formats": frozenset(),
    "evidence": frozenset({"formats", "system"}),
    # Only these of protocol: chunks carry the inner session, hashes are made of what is carried.
    "transport": frozenset(
        {
            "config", "logcontext", "system",
            "protocol.authentication", "protocol.chunks", "protocol.codec", "protocol.hello",
        }
    ),
    "database": frozenset({"system"}),
    "pki": frozenset({"checks", "config", "password_strength", "system", "tools"}),
    "keystore": frozenset({"database", "formats", "password_strength", "system", "tools"}),
    "signing": frozenset({"database", "keystore", "formats", "system", "tools"}),
    "bridge": frozenset(
        {
            "config", "protocol", "formats", "transport", "evidence",
            "logcontext", "metrics", "observe", "system", "kojihub",
        }
    ),
    "server": frozenset(
        {
            "config", "protocol", "formats", "transport", "database", "keystore", "signing",
            "evidence", "logcontext", "metrics", "observe", "system", "tools",
        }
    ),
    "client": frozenset(
        {
            "config", "system", "protocol", "formats", "transport", "tools", "kojihub", "evidence",
            "logcontext",
        }
    ),
    # Of the server only what tells its stores, and who may change them when.
    "backup": frozenset(
        {
            "config", "system", "database", "keystore", "evidence", "formats",
            "server.keychanges", "server.services", "server.spool",
        }
    ),
    "bundle": frozenset({"formats", "system", "tools"}),
    "health": frozenset(
        {
            "checks", "config", "formats", "protocol", "transport", "pki", "client", "tools",
            "system", "evidence", "observe", "logcontext",
        }
    ),
    "cli": frozenset({"*"}),
}  # fmt: skip
#: What may be imported besides, but only inside a function: not at the price of every start.
MAY_IMPORT_LAZILY = {
    "client": frozenset({"keystore.bindings"}),
    # Of a server alone: a bridge's health check loads no database.
    "health": frozenset({"database", "keystore", "server.services"}),
}

#: Signature formats are given a `signing.signer.Signer`. Where a key is, only these know.
KNOW_KEYS = ("signing.signers", "signing.signers.*", "signing.decryption", "signing.osslsigncode")
NOT_IN_FORMATS = ("keystore", "database", "signing.signers")

#: Packages that are not of the standard library, and the modules that may import them.
THIRD_PARTY: dict[str, tuple[str, ...]] = {
    "nss": ("transport.nss", "transport.nss_*"),
    "sqlalchemy": ("database", "database.*"),
    "alembic": ("database", "database.*"),
    "psycopg": ("database", "database.*"),
    "passlib": ("keystore", "keystore.*"),
    "cryptography": (
        "keystore",
        "keystore.*",
        "signing",
        "signing.*",
        "pki",
        "pki.*",
        "backup.signatures",
        "formats.signed_note",
        "formats.keygrip",
        "formats.openpgp_certificate",
        "formats.openpgp_hashes",
        "formats.openpgp_public_keys",
        "formats.openpgp_signatures",
    ),
    "PyKCS11": ("keystore.token_probe",),
    "tqdm": ("cli", "cli.*", "client", "client.*"),
    "koji": ("kojihub",),
    "requests": ("kojihub",),
    "fasjson_client": ("bridge.fasjson",),
    "bravado": ("bridge.fasjson",),
    "ldap": ("bridge.groups",),
    "prometheus_client": ("observe.*",),
    # It writes to the terminal by itself: see MAY_PRINT.
    "rich": ("cli.status_screen", "cli.status_tables", "cli.status_parts"),
}

#: The modules that may start programs, and what of the standard library starts one.
MAY_START_PROGRAMS = ("system.programs",)
STARTS_PROGRAMS = frozenset({"subprocess", "pty", "multiprocessing", "asyncio"})
STARTING_CALLS = ("system", "popen", "exec*", "spawn*", "posix_spawn*")

#: The one module that prints: it escapes what a terminal would obey. What rich draws is escaped
#: where it is made, in cli.status_parts (tests/unit/test_status.py).
MAY_PRINT = frozenset({"cli.outcome"})
#: What has names that peers have said in its messages.
SEES_PEERS = frozenset({"bridge", "server", "database"})

#: protocol/ and formats/ take bytes apart and put them together, and touch nothing else.
PURE_BYTES = frozenset({"protocol", "formats"})
NOT_IN_PURE_BYTES = frozenset(
    {
        "asyncio", "fcntl", "glob", "logging", "os", "pathlib", "random", "secrets",
        "select", "selectors", "shutil", "signal", "socket", "ssl", "sys", "tempfile",
        "threading", "time",
    }
)  # fmt: skip

#: What a process never loads by importing these: secrets have no business in a bridge, and each
#: of these packages costs a client a good part of its start-up time.
_NOT_IN_A_BRIDGE = frozenset(
    {
        "sqlalchemy",
        "rich",
        "prometheus_client",
        "koji",
        "requests",
        "bravado",
        "ldap",
        f"{PACKAGE}.database",
        f"{PACKAGE}.keystore",
    }
)
_SLOW = frozenset(
    {
        "sqlalchemy",
        "alembic",
        "cryptography",
        "passlib",
        "tqdm",
        "asyncio",
        "koji",
        "requests",
        "rich",
        "prometheus_client",
    }
)
NEVER_LOADS = {
    "bridge": _NOT_IN_A_BRIDGE,
    "cli.sigul_bridge": _NOT_IN_A_BRIDGE,
    "client": _SLOW,
    "cli.sigul": _SLOW,
    "cli.stack": frozenset({"rich", "prometheus_client"}),
}

# --- The checks: each returns what is wrong ------------------------------------------------------


def _is_one_of(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _is_inside(name: str, packages: Iterable[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


Check = Callable[[Module], list[str]]


def wrong_inside(module: Module) -> list[str]:
    """Imports of the package's own modules that the rules do not allow."""
    wrong = []
    allowed = MAY_IMPORT.get(module.top, frozenset()) | EVERYBODY_MAY | {module.top}
    if module.top in {"", "errors", "secret", "records"}:
        allowed = frozenset({module.top})
    for imported in module.imports():
        if imported.module == "?":
            wrong.append(f"line {imported.line} imports a name made at run time")
        if imported.module.partition(".")[0] != PACKAGE:
            continue
        name = imported.module.removeprefix(PACKAGE).lstrip(".")
        top = name.partition(".")[0]
        # `from sigul_stack import __version__`: a name of the package, not a module.
        if f"{PACKAGE}.{top}" not in FULL_NAMES:
            top = ""
        if (
            module.top == "signing"
            and not _is_one_of(module.name, KNOW_KEYS)
            and _is_inside(name, NOT_IN_FORMATS)
        ):
            wrong.append(f"line {imported.line} imports {imported.module}, where keys are")
            continue
        may = allowed | MAY_IMPORT_LAZILY.get(module.top, frozenset()) if imported.lazy else allowed
        if top not in may and "*" not in may and not _is_inside(name, may):
            wrong.append(f"line {imported.line} imports {imported.module}")
    return wrong


def wrong_outside(module: Module) -> list[str]:
    """Imports of other packages that are not listed, or not for this module."""
    return [
        f"line {imported.line} imports {imported.module}"
        for imported in module.imports()
        if (top := imported.module.partition(".")[0]) not in sys.stdlib_module_names
        and top not in {PACKAGE, "?"}
        and not _is_one_of(module.name, THIRD_PARTY.get(top, ()))
    ]


def wrong_programs(module: Module) -> list[str]:
    """Ways of starting a program in a module that must not."""
    if _is_one_of(module.name, MAY_START_PROGRAMS):
        return []
    imports = [
        f"line {imported.line} imports {imported.module}"
        for imported in module.imports()
        if imported.module.partition(".")[0] in STARTS_PROGRAMS
    ]
    calls = [
        f"line {node.lineno} has os.{node.attr}"
        for node, _ in walk(module.tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
        and _is_one_of(node.attr, STARTING_CALLS)
    ]
    names = [
        f"line {node.lineno} imports os.{alias.name}"
        for node, _ in walk(module.tree)
        if isinstance(node, ast.ImportFrom) and node.module == "os"
        for alias in node.names
        if _is_one_of(alias.name, STARTING_CALLS)
    ]
    return imports + calls + names


def wrong_protocol(module: Module) -> list[str]:
    """Files, sockets, the clock and the like in protocol/ and formats/."""
    if module.top not in PURE_BYTES:
        return []
    imports = [
        f"line {imported.line} imports {imported.module}"
        for imported in module.imports()
        if imported.module.partition(".")[0] in NOT_IN_PURE_BYTES
    ]
    calls = []
    for node, _ in walk(module.tree):
        match node:
            case ast.Call(func=ast.Name(id="open" | "input" | "print" as name)):
                calls.append(f"line {node.lineno} calls {name}")
            case ast.Attribute(attr="now" | "utcnow" | "today" as name):
                calls.append(f"line {node.lineno} reads the clock with {name}")
    return imports + calls


def wrong_output(module: Module) -> list[str]:
    """Ways to a person's terminal past the place where control characters are escaped."""
    if module.name in MAY_PRINT:
        return []
    wrong = []
    for node, _ in walk(module.tree):
        match node:
            case ast.Call(func=ast.Name(id="print")):
                wrong.append(f"line {node.lineno} prints")
            case ast.Attribute(
                value=ast.Attribute(value=ast.Name(id="sys"), attr="stdout" | "stderr"),
                attr="write" | "writelines",
            ):
                wrong.append(f"line {node.lineno} writes to a standard stream")
    return wrong


def wrong_quotes(module: Module) -> list[str]:
    """Names in quotes that they could end: in what handles peers, `quoted` makes the quotes."""
    if module.top not in SEES_PEERS:
        return []
    wrong = []
    for node, _ in walk(module.tree):
        match node:
            case ast.Constant(value=str(text)) if "'%s'" in text:
                wrong.append(f"line {node.lineno} has '%s'")
            case ast.JoinedStr(values=values):
                for before, value in pairwise(values):
                    match before, value:
                        case ast.Constant(value=str(text)), ast.FormattedValue() if text.endswith(
                            "'"
                        ):
                            wrong.append(f"line {node.lineno} puts a name in quotes by itself")
    return wrong


# --- The tests -----------------------------------------------------------------------------------


def test_every_module_has_a_place_in_the_rules() -> None:
    # A new one gets a row in MAY_IMPORT, and docs/ says what it is.
    assert {module.top for module in MODULES.values()} <= MAY_IMPORT.keys()


@pytest.mark.parametrize(
    "check",
    [wrong_inside, wrong_outside, wrong_programs, wrong_protocol, wrong_output, wrong_quotes],
)
def test_every_module_follows_the_rules(check: Check) -> None:
    breaches = [f"{name}: {wrong}" for name, module in MODULES.items() for wrong in check(module)]
    assert not breaches, "\n".join(breaches)


def may_import(name: str) -> str:
    """What docs/architecture.md says under "may import" of a module or package."""
    packages = list(MAY_IMPORT)

    def listed(names: frozenset[str]) -> str:
        order = sorted(names, key=lambda item: (packages.index(item.partition(".")[0]), item))
        return ", ".join(f"`{item}`" for item in order)

    allowed = MAY_IMPORT[name]
    text = "everything" if "*" in allowed else listed(allowed) or "nothing"
    lazily = MAY_IMPORT_LAZILY.get(name)
    return f"{text}; when needed {listed(lazily)}" if lazily else text


def test_the_page_has_these_rules() -> None:
    text = (TOP / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^(\| `(\w+)` \| (.+?) \| .+ \|)$", text, re.M)
    purposes = {name: purpose for _row, name, purpose in rows}
    wanted = [
        f"| `{name}` | {purposes.get(name, '…')} | {may_import(name)} |"
        for name in MAY_IMPORT
        if name
    ]
    found = [row for row, _name, _purpose in rows]
    missing = [row for row in wanted if row not in found]
    assert not missing, "docs/architecture.md lacks these rows:\n" + "\n".join(missing)
    assert len(found) == len(wanted), "docs/architecture.md has rows of modules without a rule"


def test_the_picture_is_of_these_imports() -> None:
    command = [sys.executable, str(TOP / "scripts" / "draw-architecture"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_picture_tells_what_leads_up_and_what_is_needless() -> None:
    drawn = runpy.run_path(str(TOP / "scripts" / "draw-architecture"))
    graph = {"top": frozenset({"middle", "low"}), "middle": frozenset({"low"}), "low": frozenset()}
    assert drawn["floors_of"](graph) == {"low": 0, "middle": 1, "top": 2}
    assert drawn["reduced"](graph)["top"] == {"middle"}
    with pytest.raises(ValueError, match="these rooms import each other"):
        drawn["floors_of"]({"a": frozenset({"b"}), "b": frozenset({"a"})})


def test_every_file_of_a_request_is_there() -> None:
    """Paths that the page names in the life of a request, below sigul_stack."""
    text = (TOP / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`((?:\w+/)*\w+\.py)`", text))
    assert len(named) > 20
    roots = (TOP / PACKAGE, TOP)
    assert [path for path in named if not any((root / path).is_file() for root in roots)] == []


def test_no_rule_allows_what_nobody_does() -> None:
    done = {(MODULES[name].top, item) for name in MODULES for item in own_imports(MODULES[name])}
    for name, allowed in MAY_IMPORT.items():
        for item in (allowed | MAY_IMPORT_LAZILY.get(name, frozenset())) - {"*"}:
            used = any(top == name and _is_inside(imported, [item]) for top, imported in done)
            assert used, f"{name} may import {item}, and does not"


def own_imports(module: Module) -> Iterator[str]:
    """The package's own modules that `module` imports, named as in the rules."""
    for imported in module.imports():
        if imported.module.partition(".")[0] == PACKAGE:
            yield imported.module.removeprefix(PACKAGE).lstrip(".")


def test_every_program_has_its_entry_point() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    for program, target in project["scripts"].items():
        module, _, function = target.partition(":")
        assert module in MODULES, f"{program} has no {module}"
        defined = {n.name for n in MODULES[module].tree.body if isinstance(n, ast.FunctionDef)}
        assert function in defined, f"{program} has no {target}"


@pytest.mark.parametrize(
    ("check", "name", "source"),
    [
        (wrong_inside, "protocol.codec", "from ..config import ClientSettings"),
        (wrong_inside, "protocol.codec", "import sigul_stack.transport"),
        (wrong_inside, "formats.rpm_head", "from ..protocol.codec import Parser"),
        (wrong_inside, "protocol.codec", "from ..formats import pe_head"),
        (wrong_inside, "transport.stream", "from ..formats import pe_head"),
        (wrong_inside, "secret", "from sigul_stack import errors"),
        (wrong_inside, "bridge.pairing", "from .. import keystore"),
        (wrong_inside, "bridge.pairing", "def f():\n    from sigul_stack.database import Reader"),
        (wrong_inside, "bridge.pairing", "if TYPE_CHECKING:\n    import sigul_stack.keystore"),
        (wrong_inside, "bridge.pairing", "import_module('..database.queries', __package__)"),
        (wrong_inside, "bridge.pairing", "importlib.import_module(name)"),
        (wrong_inside, "client.core", "from ..keystore.bindings import methods"),
        (wrong_inside, "client.core", "def f():\n    from ..keystore import envelope"),
        (wrong_inside, "transport.stream", "from ..protocol.messages import ReplyKeys"),
        (wrong_inside, "signing.openpgp", "from ..keystore.gnupg import GnuPG"),
        (wrong_inside, "signing.rpm", "def f():\n    from .signers import open_signer"),
        (wrong_inside, "signing.x509", "from .signers.pem import PemSigner"),
        (wrong_inside, "signing.ima", "from ..database import Key"),
        (wrong_outside, "transport.nested", "import nss.ssl"),
        (wrong_outside, "bridge.pairing", "from nss import io"),
        (wrong_outside, "server.worker", "from sqlalchemy import select"),
        (wrong_outside, "keystore.envelope", "import requests"),
        (wrong_outside, "formats.ima_signature", "from cryptography import x509"),
        (wrong_programs, "server.worker", "import subprocess"),
        (wrong_programs, "cli.stack", "def f():\n    from subprocess import run"),
        (wrong_programs, "server.supervisor", "os.execv('/bin/true', [])"),
        (wrong_programs, "server.supervisor", "from os import posix_spawn"),
        (wrong_protocol, "protocol.codec", "import time"),
        (wrong_protocol, "formats.pe_head", "import os"),
        (wrong_protocol, "formats.pe_head", "def f():\n    return open('x')"),
        (wrong_protocol, "protocol.codec", "def f():\n    return open('x')"),
        (wrong_protocol, "protocol.codec", "def f():\n    return datetime.date.today()"),
        (wrong_output, "cli.pki", "print(name)"),
        (wrong_output, "cli.pki", "sys.stderr.write(name)"),
        (wrong_quotes, "server.worker", "log.info(\"user '%s'\", name)"),
        (wrong_quotes, "bridge.session", "f\"user '{name}'\""),
        (wrong_quotes, "bridge.session", "f\"user '{shortened(name, 60)}' is no more\""),
    ],
)  # fmt: skip
def test_a_breach_of_the_rules_is_seen(check: Check, name: str, source: str) -> None:
    module = Module(name, False, ast.parse(source))
    assert len(check(module)) == 1


@pytest.mark.parametrize(
    ("check", "name", "source"),
    [
        (wrong_inside, "client.core", "def f():\n    from ..keystore.bindings import methods"),
        (wrong_inside, "client.core", "from sigul_stack import __version__"),
        (wrong_inside, "config.programs", "import_module(f'.{name}', __package__)"),
        (wrong_inside, "transport.nested", "from ..protocol.codec import Parser"),
        (wrong_inside, "keystore.envelope", "from ..formats import openpgp_packets"),
        (wrong_inside, "cli.sigul_server", "from ..server import supervisor"),
        (wrong_inside, "signing.signers.gnupg_agent", "from ...keystore.gnupg import GnuPG"),
        (wrong_inside, "signing.openpgp", "from ..formats import openpgp_packets"),
        (wrong_outside, "transport.nss", "import nss.nss"),
        (wrong_outside, "client.core", "from ..transport import nss"),
        (wrong_programs, "system.programs", "import subprocess"),
        (wrong_programs, "server.supervisor", "os.fork()"),
        (wrong_output, "cli.outcome", "print(name)"),
        (wrong_quotes, "server.worker", 'f"user {quoted(name)} isn\'t {name}"'),
    ],
)
def test_what_the_rules_allow_passes(check: Check, name: str, source: str) -> None:
    module = Module(name, False, ast.parse(source))
    assert check(module) == []


Findings = dict[str, dict[str, list[str]]]


def _probe(*modules: str, directory: Path = TOP) -> Findings:
    """What importing each of `modules` does; see import_probe.py."""
    done = subprocess.run(
        [sys.executable, str(TOP / "tests" / "unit" / "import_probe.py"), *modules],
        cwd=directory,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(directory)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: Findings = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def imported() -> Findings:
    """What importing each module of the package did; "loaded" only where a rule asks for it."""
    ruled = [name for name in MODULES if any(_has_prefix(name, prefix) for prefix in NEVER_LOADS)]
    return _probe(*ruled, "--", *(name for name in MODULES if name not in ruled))


def test_nothing_happens_at_import(imported: Findings) -> None:
    happened = [line for finding in imported.values() for line in finding["happened"]]
    assert not happened, "\n".join(happened)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import os\nos.environ.get('HOME')", "reads the environment's 'HOME'"),
        ("import os\nos.getenv('HOME')", "reads the environment's 'HOME'"),
        ("from pathlib import Path\nPath.home()", "reads the environment's 'HOME'"),
        ("import os\ndict(os.environ)", "reads the whole environment"),
        ("import subprocess\nsubprocess.run(['true'])", "subprocess.Popen"),
        ("import socket\nsocket.socket().close()", "socket.__new__"),
        ("from pathlib import Path\nPath('/etc/passwd').read_text()", "open"),
        ("import logging\nlogging.basicConfig()", "sets up logging"),
        ("import logging\nlogging.getLogger(__name__).setLevel(10)", "sets up logging"),
        ("import signal\nsignal.signal(2, signal.SIG_IGN)", "sets a signal handler"),
        ("import threading\nthreading.Timer(60, print).start()", "starts a thread"),
        ("import nss.nss\nnss.nss.nss_init_nodb()", "initialises NSS"),
        ("import no_such_module", "cannot be imported: ModuleNotFoundError"),
    ],
)
def test_what_happens_at_import_is_seen(tmp_path: Path, source: str, says: str) -> None:
    package = tmp_path / PACKAGE
    package.mkdir()
    (package / "__init__.py").write_text(source)
    [finding] = _probe(PACKAGE, directory=tmp_path)[PACKAGE]["happened"][:1]
    assert says in finding


def _has_prefix(name: str, prefix: str) -> bool:
    return _is_one_of(MODULES[name].name, (prefix, f"{prefix}.*"))


@pytest.mark.parametrize("prefix", NEVER_LOADS)
def test_importing_does_not_load_what_does_not_belong(imported: Findings, prefix: str) -> None:
    loads = [
        f"{name} loads {unwanted}"
        for name, finding in imported.items()
        if _has_prefix(name, prefix)
        for unwanted in sorted(NEVER_LOADS[prefix].intersection(finding["loaded"]))
    ]
    assert not loads, "\n".join(loads)
