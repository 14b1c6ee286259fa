"""What pip installs is what requirements/constraints.txt has the hashes of, and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import pytest

from images.builder import programs
from images.builder.commands import BuildError

from ..checkout import TOP

LOCK = TOP / "requirements" / "constraints.txt"
#: Seconds; a limit against hanging alone.
SECONDS = 100
REFUSED = "DO NOT MATCH THE HASHES"


def plain(name: str) -> str:
    """The one way to write a distribution's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, tuple[str, list[str]]]:
    """Version and hashes by name."""
    found = re.findall(
        r"^([\w.-]+)==([\w.]+)(?: ; [^\\\n]+)? \\\n((?:    --hash=.+\n)+)", LOCK.read_text(), re.M
    )
    return {plain(name): (version, hashes.split()) for name, version, hashes in found}


def project() -> dict[str, list[str]]:
    """The requirements of the project by extra; those of building it are `build`."""
    read = tomllib.loads((TOP / "pyproject.toml").read_text())
    return {
        "": read["project"]["dependencies"],
        "build": read["build-system"]["requires"],
        **read["project"]["optional-dependencies"],
    }


def names(requirements: list[str]) -> set[str]:
    return {plain(re.match(r"[\w.-]+", line)[0]) for line in requirements}  # type: ignore[index]


# ------------------------------------------------------------------------------------ the lock


def test_each_version_has_hashes() -> None:
    lines = [line for line in LOCK.read_text().splitlines() if not line.startswith("#")]
    assert sum(" --hash=" not in line for line in lines) == len(locked())
    hashes = [one.rstrip(" \\") for line in lines if (one := line.strip()).startswith("--hash=")]
    assert all(re.fullmatch("--hash=sha256:[0-9a-f]{64}", one) for one in hashes)
    assert len(hashes) == len(set(hashes)) > len(locked())


@pytest.mark.parametrize("extra", project())
def test_what_the_project_asks_for_is_locked(extra: str) -> None:
    assert names(project()[extra]) <= locked().keys()


def test_what_tools_ask_for_is_locked() -> None:
    lines = (TOP / "requirements" / "tools.in").read_text().splitlines()
    assert names([line for line in lines if not line.startswith("#")]) <= locked().keys()


def test_what_is_installed_here_is_what_is_locked() -> None:
    """The whole virtual environment: what each needs is locked as well."""
    directory = next((TOP / ".venv/lib").glob("python3*/site-packages"))
    found = {plain(one.name): one.version for one in metadata.distributions(path=[str(directory)])}
    found.pop("sigul-stack")
    assert len(found) > 20
    assert found == {name: locked()[name][0] for name in found if name in locked()}


@pytest.mark.parametrize(
    "path", ["scripts/bootstrap", "images/builder/programs.py", "images/builder/wheels.py"]
)
def test_whatever_runs_pip_requires_hashes(path: str) -> None:
    text = (TOP / path).read_text()
    assert "--require-hashes" in text
    assert "--no-build-isolation" in text


# ---------------------------------------------------------------------------------- the attack


def tampered(directory: Path, name: str, marker: Path) -> None:
    """Put a wheel there of the version that is locked, whose code leaves a mark when it runs."""
    module = name.replace("-", "_")
    version = locked()[plain(name)][0]
    code = f"open({str(marker)!r}, 'w').close()\n"
    about = f"{module}-{version}.dist-info"
    files = {
        f"{module}/__init__.py": code,
        f"{module}/build.py": code + "raise SystemExit('tampered')\n",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in files) + f"{about}/RECORD,,\n"
    with zipfile.ZipFile(directory / f"{module}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in {**files, f"{about}/RECORD": record}.items():
            wheel.writestr(path, text)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is all that pip finds packages in."""
    path = tmp_path / "registry"
    path.mkdir()
    settings: Mapping[str, str] = {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(path),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_CACHE_DIR": str(tmp_path / "cache"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return path


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """As much of a checkout as scripts/bootstrap needs."""
    path = tmp_path / "checkout"
    for name in ("requirements", "scripts", "sigul_stack"):
        shutil.copytree(TOP / name, path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(TOP / name, path / name)
    return path


def bootstrap(checkout: Path) -> str:
    """What scripts/bootstrap says, which has to fail."""
    done = subprocess.run(
        ["scripts/bootstrap", "run"],
        cwd=checkout, capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    return done.stderr


def with_environment(checkout: Path) -> Path:
    """Give it the virtual environment that bootstrap has made once pip is up to date."""
    site = Path("lib", f"python{sys.version_info[0]}.{sys.version_info[1]}", "site-packages")
    subprocess.run(
        ["/usr/bin/python3", "-m", "venv", "--without-pip", checkout / ".venv"],
        timeout=SECONDS, check=True,
    )  # fmt: skip
    for one in (TOP / ".venv" / site).glob("pip*"):
        (checkout / ".venv" / site / one.name).symlink_to(one)
    identity = subprocess.run(
        ["bash", "-c", 'source scripts/bootstrap && venv_identity "$(nss_source)"'],
        cwd=checkout, capture_output=True, text=True, timeout=SECONDS, check=True,
    )  # fmt: skip
    (checkout / ".venv/.bootstrap").write_text(identity.stdout)
    return checkout / ".venv" / site


# Makes a virtual environment with Debian's pip in it: about ten seconds.
@pytest.mark.system
def test_another_pip_is_refused(checkout: Path, registry: Path, tmp_path: Path) -> None:
    tampered(registry, "pip", tmp_path / "marker")
    said = bootstrap(checkout)
    assert (REFUSED in said) and ("pip could not be updated" in said)
    [site] = (checkout / ".venv/lib").glob("python3*/site-packages")
    assert (site / "pip/_internal").is_dir(), "the pip that Debian has"


@pytest.mark.system
def test_another_backend_is_refused_before_it_builds(
    checkout: Path, registry: Path, tmp_path: Path
) -> None:
    tampered(registry, "hatchling", tmp_path / "marker")
    for name in ("Cython", "setuptools", "editables"):
        tampered(registry, name, tmp_path / "marker")
    site = with_environment(checkout)
    said = bootstrap(checkout)
    assert not (tmp_path / "marker").exists()
    assert REFUSED in said
    assert not list(site.glob("hatchling*"))


@pytest.mark.system
def test_another_dependency_is_refused(checkout: Path, registry: Path, tmp_path: Path) -> None:
    site = with_environment(checkout)
    # What builds is there already, so that pip goes on.
    for pattern in (
        *("hatchling*", "editables*", "packaging*", "pathspec*", "pluggy*", "tomlkit*"),
        *("trove_classifiers*", "[Cc]ython*", "setuptools*", "_distutils_hack"),
    ):
        for one in (TOP / ".venv" / site.relative_to(checkout / ".venv")).glob(pattern):
            (site / one.name).symlink_to(one)
    dependencies = names([*project()[""], *project()["postgresql"], *project()["nss"]])
    for name in dependencies:
        tampered(registry, name, tmp_path / "marker")
    # Of a name with an extra, the distribution behind that as well.
    tampered(registry, "psycopg-binary", tmp_path / "marker")
    said = bootstrap(checkout)
    assert REFUSED in said
    assert not any(list(site.glob(f"{name}*")) for name in dependencies)


@pytest.mark.system
def test_no_image_gets_another_dependency(registry: Path, tmp_path: Path) -> None:
    for name in names([*project()[""], *project()["nss"]]):
        tampered(registry, name, tmp_path / "marker")
    with pytest.raises(BuildError, match=REFUSED):
        programs.fetch(("nss",), tmp_path / "wheels", None)
    assert not list((tmp_path / "wheels").glob("*.whl"))


@pytest.mark.system
def test_a_release_that_is_not_locked_is_refused(registry: Path, tmp_path: Path) -> None:
    """A requirement that somebody adds without its hashes, in pyproject.toml or in a dependency."""
    done = subprocess.run(
        [*map(str, programs.pip()), "download", "--require-hashes", "--constraint", str(LOCK),
         "--dest", str(tmp_path / "wheels"), "not-locked"],
        env={**os.environ, "PIP_FIND_LINKS": str(_unlocked(tmp_path))},
        capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "--require-hashes" in done.stderr


def _unlocked(directory: Path) -> Path:
    about = "not_locked-1.dist-info"
    with zipfile.ZipFile(directory / "not_locked-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: not-locked\nVersion: 1\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        wheel.writestr(f"{about}/RECORD", "")
    return directory
