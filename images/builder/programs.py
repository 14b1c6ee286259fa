"""The programs: wheels fetched or built on this machine, unpacked into a virtual environment.

The environment is made by hand, for the image's Python is not this machine's. pip is in none of it.
"""

from __future__ import annotations

import configparser
import hashlib
import os
import platform
import re
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Final

from . import engine, tars
from .commands import FETCH_SECONDS, BuildError, run
from .components import GLIBC_MINOR, PREFIX, PYTHON
from .tars import Entry

CHECKOUT: Final = Path(__file__).parent.parent.parent
CONSTRAINTS: Final = CHECKOUT / "requirements" / "constraints.txt"
PROJECT: Final = CHECKOUT / "pyproject.toml"
USE_SYSTEM_NSS: Final = CHECKOUT / "scripts" / "use-system-nss"
#: What each component's image has at other places: a directory for each, as from the root.
FILES: Final = CHECKOUT / "images" / "files"
INSIDE: Final = Path(__file__).with_name("inside.py")

_SITE: Final = f"{PREFIX}/lib/python{PYTHON}/site-packages"
_PURE: Final = re.compile(r"[^/]+\.data/(?:purelib|platlib)/(?P<rest>.+)")
REGISTRY_HINT: Final = "is a package registry reached (proxy, PIP_CERT, PIP_INDEX_URL)?"

_SCRIPT: Final = """\
#!/{prefix}/bin/python
import sys
from {module} import {function}
if __name__ == '__main__':
    sys.exit({function}())
"""


def requirements(extras: Iterable[str]) -> list[str]:
    """What the project depends on with these extras, from pyproject.toml."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    optional = project["optional-dependencies"]
    return [*project["dependencies"], *(one for extra in extras for one in optional[extra])]


def fetch(extras: Iterable[str], directory: Path, built: Path | None) -> None:
    """Put the wheels of all that the project depends on into a directory.

    Those in the directory `built` are for the images' Debian, and are not looked for elsewhere.
    Every wheel has a hash that is locked, or is one of these. Raises `BuildError`.
    """
    machine = platform.machine()
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC_MINOR, 4, -1)]
    platforms += [f"{old}_{machine}" for old in ("manylinux2014", "manylinux2010", "manylinux1")]
    command: list[str | Path] = [
        *(*pip(), "download", "--dest", directory, "--require-hashes"),
        *("--only-binary=:all:", "--implementation", "cp", "--python-version", PYTHON),
    ]
    for abi in (f"cp{PYTHON.replace('.', '')}", "abi3", "none"):
        command += ["--abi", abi]
    if built is not None:
        command += ["--find-links", built]
        platforms.append(f"linux_{machine}")
    for name in platforms:
        command += ["--platform", name]
    with tempfile.NamedTemporaryFile("w", prefix="sigul-", suffix=".txt") as constraints:
        constraints.write(locked(() if built is None else built.glob("*.whl")))
        constraints.flush()
        command += ["--constraint", constraints.name]
        run([*command, *requirements(extras)], seconds=FETCH_SECONDS, hint=REGISTRY_HINT)


def locked(built: Iterable[Path]) -> str:
    """The constraints with their hashes, in which a wheel that was built here has its own.

    Its sources had the hash that is locked; a wheel of another machine's has no place here.
    """
    text = CONSTRAINTS.read_text()
    for wheel in built:
        name = wheel.name.partition("-")[0].replace("_", "-").lower()
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        text, found = re.subn(
            rf"(?m)^({re.escape(name)}==[^ ]+)[^\\\n]*(?: \\\n +--hash=[^ \n]+)+$",
            rf"\1 --hash=sha256:{digest}",
            text,
        )
        if found != 1:
            raise BuildError(f"{wheel.name} was built, but {CONSTRAINTS} has no version of {name}")
    return text


def build(directory: Path, epoch: int) -> None:
    """Put the wheel of this checkout into a directory."""
    run(
        [
            *(*pip(), "wheel", "--no-deps", "--no-index", "--wheel-dir", directory),
            # With what scripts/bootstrap has installed by its hash.
            *("--no-build-isolation", CHECKOUT),
        ],
        seconds=FETCH_SECONDS,
        environment={"SOURCE_DATE_EPOCH": str(epoch)},
        hint=REGISTRY_HINT,
    )


def compiled(wheels: Iterable[Path], base: str) -> tars.Root:
    """The files of these wheels below PREFIX, modules compiled by the Python of image `base`."""
    archive = BytesIO()
    entries = [entry for wheel in wheels for entry in unpacked(wheel)]
    entries.append(tars.file("tmp/use-system-nss", USE_SYSTEM_NSS.read_bytes()))
    tars.write(tars.with_parents(entries, PREFIX), archive, 0)
    made = engine.process(
        base, ["python3", "-c", INSIDE.read_text(), f"/{PREFIX}"], archive.getvalue()
    )
    return tars.read(BytesIO(made))


def environment(wheels: Iterable[Path], everything: tars.Root) -> Iterator[Entry]:
    """A virtual environment with these wheels, whose files are among `everything`."""
    for wheel in wheels:
        for plain in unpacked(wheel):
            yield everything[plain.name]
            module = PurePosixPath(plain.name)
            if module.suffix == ".py":
                cached = module.parent / "__pycache__"
                tag = f"cpython-{PYTHON.replace('.', '')}"
                yield everything[str(cached)]
                yield everything[str(cached / f"{module.stem}.{tag}.pyc")]
        yield from _scripts(wheel)
    configuration = f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {PYTHON}\n"
    yield tars.file(f"{PREFIX}/pyvenv.cfg", configuration.encode())
    # By both names: whoever looks for one on PATH finds the programs' own.
    for name in ("python", "python3"):
        yield tars.link(f"{PREFIX}/bin/{name}", "/usr/bin/python3")


def own_files(component: str) -> Iterator[Entry]:
    """The files of `FILES` that the component's image has; those that may be run here may there."""
    top = FILES / component
    if (top / "usr/share/sigul").is_dir():
        yield tars.directory("usr/share/sigul")
    for path in sorted(top.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            mode = 0o755 if os.access(path, os.X_OK) else 0o644
            yield tars.file(str(path.relative_to(top)), path.read_bytes(), mode)


def unpacked(wheel: Path) -> Iterator[Entry]:
    """What a wheel puts below site-packages."""
    with zipfile.ZipFile(wheel) as content:
        for member in content.infolist():
            name = member.filename
            if member.is_dir() or name.endswith(".dist-info/RECORD"):
                continue
            if ".data/" in name:
                found = _PURE.fullmatch(name)
                if found is None:
                    # Start scripts and manual pages of libraries.
                    continue
                name = found["rest"]
            if name.startswith("/") or ".." in PurePosixPath(name).parts:
                raise BuildError(f"{wheel.name} has a file outside of itself: {name}")
            yield tars.file(f"{_SITE}/{name}", content.read(member))


def _scripts(wheel: Path) -> Iterator[Entry]:
    if not wheel.name.startswith("sigul_stack-"):
        return
    with zipfile.ZipFile(wheel) as content:
        [listed] = [name for name in content.namelist() if name.endswith("/entry_points.txt")]
        points = configparser.ConfigParser(delimiters=("=",))
        points.optionxform = str  # type: ignore[assignment,method-assign]
        points.read_string(content.read(listed).decode())
    for name, target in points["console_scripts"].items():
        module, _, function = target.partition(":")
        text = _SCRIPT.format(prefix=PREFIX, module=module, function=function)
        yield tars.file(f"{PREFIX}/bin/{name}", text.encode(), 0o755)


def pip() -> list[str | Path]:
    """The command line that this checkout's pip begins with."""
    python = CHECKOUT / ".venv" / "bin" / "python"
    if not python.exists():
        raise BuildError(f"{python} is not there; run `scripts/bootstrap kit`")
    cache = os.environ.get("PIP_CACHE_DIR") or CHECKOUT / ".cache" / "pip"
    options = ["--no-input", "--disable-pip-version-check", "--quiet", "--cache-dir", cache]
    return [python, "-m", "pip", *options]
