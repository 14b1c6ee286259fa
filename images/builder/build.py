"""The order of things: base, then each component's layers and image.

Each image has a label with the hash of all that it was made from, and nothing is done where the
image with that label is there, and is the one that was made: its ID is kept with its layers. Roots,
wheels and layers are kept in .cache/images.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from . import (
    charts,
    components,
    debian,
    engine,
    monitoring,
    programs,
    sbom,
    tars,
    trimmed,
    wheels,
)
from .commands import BuildError, run, step
from .components import (
    BASE_PACKAGES,
    CHART_PACKAGES,
    CHARTS,
    COMPILED,
    COMPILED_FOR,
    COMPILED_WITH,
    COMPONENTS,
    SBOM,
    SUITE,
    Component,
)
from .programs import CHECKOUT

_IMAGES: Final = CHECKOUT / "images"
#: Times in Debian's layers: never later than the release of Debian 13.
_EPOCH: Final = 1754697600
#: What images are made from.
_INPUTS: Final = (
    "images",
    "sigul_stack",
    "pyproject.toml",
    "requirements",
    "scripts/use-system-nss",
)
#: git for this checkout, whoever it belongs to.
_GIT: Final = ("git", "-c", f"safe.directory={CHECKOUT}", "-C", str(CHECKOUT))
#: The file beside an image's layers that holds the ID of the image.
_IDENTITY: Final = "identity"


@dataclass(frozen=True, slots=True)
class Made:
    """What became of an image."""

    component: str
    image: str
    identity: str
    built: bool


class Builder:
    """Makes images with one prefix on one base."""

    def __init__(self, prefix: str, base_image: str | None, refresh: bool, cache: Path) -> None:
        self._prefix = prefix
        self._cache = cache
        self._given = base_image
        self._given_identity = "" if base_image is None else engine.have(base_image).identity
        self._refresh = refresh
        self._epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or _EPOCH)
        self._created = _created()
        self._origin = _origin()
        self._version = _version()
        builder = [
            *sorted((_IMAGES / "builder").glob("*.*")),
            *sorted(_IMAGES.glob("*/Dockerfile")),
            *sorted(path for path in programs.FILES.rglob("*") if path.suffix != ".pyc"),
        ]
        self._inputs = _hash(
            (str(path.relative_to(CHECKOUT)), path.read_bytes())
            for path in [*builder, *_sources()]
            if path.is_file()
        )
        # What Debian's layers depend on: a change of any other source makes no package be fetched.
        roots = [Path(code.__file__ or "") for code in (components, debian, tars)]
        self._roots_inputs = _hash(
            (path.name, path.read_bytes())
            for path in [*roots, debian.FINISH, debian.COMPILE, _IMAGES / "base" / "Dockerfile"]
        )
        own = [Path(monitoring.__file__), _IMAGES / monitoring.NAME / "Dockerfile"]
        self._monitoring_inputs = _hash(
            [(self._roots_inputs, b""), *((path.name, path.read_bytes()) for path in own)]
        )

    # --- Images -------------------------------------------------------------------------------

    def image(self, component: str) -> str:
        """The name of a component's image."""
        return f"{self._prefix}/{component}"

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those of `base` and these components that `make` would build."""
        return [name for name in _with_those_below(names) if self._there(name) is None]

    def _there(self, name: str) -> Made | None:
        """An image that is as it would be built now."""
        found = engine.find(f"{self.image(name)}:latest")
        if found is None or found.inputs != self._wanted(name) or self._refresh:
            return None
        # A name is moved, and a label copied, by whoever can load an image.
        if found.identity != self._identity(name):
            return None
        if name in CHARTS:
            below = self._there(CHARTS[name])
            if below is None or not _is_on(found, engine.inspect(below.identity)):
                return None
        return Made(name, f"{self.image(name)}:latest", found.identity, False)

    def _identity(self, name: str) -> str:
        """The ID of the image that was made last; empty where it is not known."""
        try:
            return (layers_of(self._cache, self._prefix, name) / _IDENTITY).read_text().strip()
        except FileNotFoundError:
            return ""

    def make(self, names: Iterable[str]) -> list[Made]:
        """Have `base` and these components."""
        wanted = {name: self._wanted(name) for name in _with_those_below(names)}
        made = {name: found for name in wanted if (found := self._there(name)) is not None}
        missing = [name for name in wanted if name not in made]
        if missing:
            roots = self._roots(("base", *(name for name in missing if name != "base")))
            if "base" in missing:
                made["base"] = self._base(roots["base"], wanted["base"])
            chosen = [COMPONENTS[name] for name in missing if name in COMPONENTS]
            if chosen:
                base = made["base"].identity
                everything, theirs = self._programs(chosen, base)
                for one in chosen:
                    layers = self._layers(one, roots, everything, theirs[one.name])
                    made[one.name] = self._build(one.name, layers, wanted[one.name], base)
            for name in missing:
                if name in CHARTS:
                    layers = self._chart_layers(name, roots)
                    below = made[CHARTS[name]].identity
                    made[name] = self._build(name, layers, wanted[name], below)
            if monitoring.NAME in missing:
                layers = self._monitoring_layers(roots)
                below = made["base"].identity
                made[monitoring.NAME] = self._build(
                    monitoring.NAME, layers, wanted[monitoring.NAME], below
                )
            engine.forget_replaced()
        return [made[name] for name in wanted]

    def _wanted(self, name: str) -> str:
        own = {"base": self._roots_inputs, monitoring.NAME: self._monitoring_inputs}
        return _hash(
            [
                ("builder", own.get(name, self._inputs).encode()),
                ("name", name.encode()),
                ("base", self._given_identity.encode()),
                ("times", f"{self._epoch} {'' if _is_debian(name) else self._created}".encode()),
                *(
                    ()
                    if _is_debian(name)
                    else sorted((k, v.encode()) for k, v in self._origin.items())
                ),
            ]
        )

    def _base(self, root: tars.Root, inputs: str) -> Made:
        below = {}
        if self._given is not None:
            below = self._read(self._given_root())
        listed = sbom.document("sigul-stack/base", SUITE, root, {}, self._epoch)
        entries = [*tars.added(root, below), tars.file(SBOM, listed)]
        layer = layers_of(self._cache, self._prefix, "base")
        layer.mkdir(parents=True, exist_ok=True)
        with (layer / "system.tar").open("wb") as archive:
            tars.write(tars.with_parents(entries, str(Path(SBOM).parent)), archive, self._epoch)
        (layer / "sbom.json").write_bytes(listed)
        return self._build("base", layer, inputs, self._given_identity)

    def _build(self, name: str, layers: Path, inputs: str, base: str) -> Made:
        """Build an image on the one whose ID is `base`; on nothing where that is empty."""
        image = self.image(name)
        below = f"{self.image(CHARTS.get(name, 'base'))}:latest"
        directory = "chart" if name in CHARTS else "component"
        if _is_debian(name):
            directory = name
        if name == "base":
            below = self._given or "scratch"
        shutil.copy(_IMAGES / directory / "Dockerfile", layers)
        created = self._epoch if _is_debian(name) else self._created
        with step(f"image {image}"):
            found = engine.build(
                layers,
                name,
                [f"{image}:latest", f"{image}:{self._version}"],
                {"BASE": below, "INPUTS": inputs},
                {
                    "org.opencontainers.image.created": _rfc3339(created),
                    "org.opencontainers.image.version": self._version,
                    # Not of what follows from Debian's packages alone.
                    **({} if _is_debian(name) else self._origin),
                },
            )
        # Not every engine builds on an image that is named by its ID.
        if base and not _is_on(found, engine.inspect(base)):
            raise BuildError(f"{image} was not built on {base}: {below} has become another image")
        (layers / _IDENTITY).write_text(f"{found.identity}\n")
        return Made(name, f"{image}:latest", found.identity, True)

    # --- Layers -------------------------------------------------------------------------------

    def _layers(
        self,
        component: Component,
        roots: dict[str, tars.Root],
        everything: tars.Root,
        own: list[Path],
    ) -> Path:
        root = roots[component.name]
        layers = layers_of(self._cache, self._prefix, component.name)
        layers.mkdir(parents=True, exist_ok=True)
        if component.packages:
            with (layers / "system.tar").open("wb") as archive:
                system = trimmed.files(component.name, tars.added(root, roots["base"]))
                tars.write(system, archive, self._epoch)
        files = {entry.name: entry for entry in programs.environment(own, everything)}
        listed = sbom.document(
            f"sigul-stack/{component.name}", self._version, root, files, self._created
        )
        entries = [*files.values(), *programs.own_files(component.name), tars.file(SBOM, listed)]
        with (layers / "programs.tar").open("wb") as archive:
            tars.write(tars.with_parents(entries, components.PREFIX), archive, self._epoch)
        (layers / "sbom.json").write_bytes(listed)
        return layers

    def _chart_layers(self, name: str, roots: dict[str, tars.Root]) -> Path:
        component = CHARTS[name]
        own = roots[component]
        root = charts.with_tools(own, roots[name])
        with (layers_of(self._cache, self._prefix, component) / "programs.tar").open("rb") as kept:
            files = tars.read(kept)
        listed = sbom.document(f"sigul-stack/{name}", self._version, root, files, self._created)
        entries = [*tars.added(root, own), tars.file(SBOM, listed)]
        layers = layers_of(self._cache, self._prefix, name)
        layers.mkdir(parents=True, exist_ok=True)
        with (layers / "system.tar").open("wb") as archive:
            tars.write(entries, archive, self._epoch)
        (layers / "sbom.json").write_bytes(listed)
        return layers

    def _monitoring_layers(self, roots: dict[str, tars.Root]) -> Path:
        root = roots[monitoring.NAME]
        listed = sbom.document(f"sigul-stack/{monitoring.NAME}", SUITE, root, {}, self._epoch)
        layers = layers_of(self._cache, self._prefix, monitoring.NAME)
        layers.mkdir(parents=True, exist_ok=True)
        with (layers / "system.tar").open("wb") as archive:
            entries = [*tars.added(root, roots["base"]), tars.file(SBOM, listed)]
            tars.write(entries, archive, self._epoch)
        (layers / "sbom.json").write_bytes(listed)
        return layers

    def _roots(self, names: Sequence[str]) -> dict[str, tars.Root]:
        """Debian roots by image; of images for charts, those with their tools alone.

        Images with the same packages share theirs.
        """
        names = [*names, *(CHARTS[name] for name in names if name in CHARTS)]
        packages = {
            name: BASE_PACKAGES
            + (COMPONENTS[name].packages if name in COMPONENTS else ())
            + (CHART_PACKAGES if name in CHARTS else ())
            + (monitoring.PACKAGES if name == monitoring.NAME else ())
            for name in names
        }
        if self._given is None:
            _ = self._foundation  # made once, before the threads ask for it
        # Each mostly waits for the network or the disk.
        with ThreadPoolExecutor(2) as pool:
            archives = dict(
                zip(
                    ordered := list(dict.fromkeys(packages.values())),
                    pool.map(self._root, ordered),
                    strict=True,
                )
            )
        read = {key: self._read(archive) for key, archive in archives.items()}
        return {name: read[key] for name, key in packages.items()}

    def _root(self, packages: tuple[str, ...]) -> Path:
        key = _hash(
            [
                ("builder", self._roots_inputs.encode()),
                ("packages", " ".join(packages).encode()),
                ("base", self._given_identity.encode()),
                ("epoch", str(self._epoch).encode()),
            ]
        )
        archive = self._kept("roots") / f"{key[:20]}.tar"
        if archive.exists() and not self._refresh:
            return archive
        partial = archive.with_suffix(f".{os.getpid()}.partial")
        own = [name for name in packages if name not in BASE_PACKAGES]
        with step(f"Debian packages: {' '.join(own or packages)}"):
            if self._given is None:
                debian.finish(self._foundation, own, partial, self._epoch)
            else:
                with partial.open("wb") as output:
                    debian.extend(self._given_identity, packages, output)
            partial.replace(archive)
        return archive

    @functools.cached_property
    def _foundation(self) -> Path:
        """A Debian root that can still install packages, and has those of `base`."""
        archive = self._kept("roots") / f"foundation-{self._roots_inputs[:20]}-{self._epoch}.tar"
        if not archive.exists() or self._refresh:
            partial = archive.with_suffix(f".{os.getpid()}.partial")
            with step("Debian, and what all images have"):
                debian.bootstrap(BASE_PACKAGES, partial, self._epoch)
            partial.replace(archive)
        return archive

    def _given_root(self) -> Path:
        archive = self._kept("roots") / f"{self._given_identity.rpartition(':')[2][:20]}.tar"
        if not archive.exists():
            partial = archive.with_suffix(f".{os.getpid()}.partial")
            with partial.open("wb") as output:
                engine.export(self._given_identity, output)
            partial.replace(archive)
        return archive

    def _kept(self, name: str) -> Path:
        directory = self._cache / name
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    @staticmethod
    def _read(path: Path) -> tars.Root:
        with path.open("rb") as archive:
            return tars.read(archive)

    def _programs(
        self, chosen: list[Component], base: str
    ) -> tuple[tars.Root, dict[str, list[Path]]]:
        """All files of all wheels, compiled; and each component's wheels."""
        own = self._kept("wheels") / "own"
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir()
        with step("wheel of this checkout"):
            programs.build(own, self._created)
        [project] = own.glob("*.whl")
        theirs = {
            one.name: [*trimmed.wheels(one.name, self._wheels(one.extras)), project]
            for one in chosen
        }
        every = {wheel.name: wheel for some in theirs.values() for wheel in some}
        with step("compiled modules"):
            return programs.compiled(every.values(), base), theirs

    def _wheels(self, extras: tuple[str, ...]) -> list[Path]:
        built = self._compiled() if COMPILED_FOR.intersection(extras) else None
        key = _hash(
            [
                *((wheel.name, wheel.read_bytes()) for wheel in _wheels_in(built)),
                ("constraints", programs.CONSTRAINTS.read_bytes()),
                ("requirements", "\n".join(programs.requirements(extras)).encode()),
                ("code", Path(programs.__file__).read_bytes()),
            ]
        )
        directory = self._kept("wheels") / key[:20]
        if not directory.exists():
            partial = directory.with_suffix(f".{os.getpid()}.partial")
            with step(f"wheels ({', '.join(extras)})"):
                programs.fetch(extras, partial, built)
            partial.rename(directory)
        return _wheels_in(directory)

    def _compiled(self) -> Path:
        """The directory with the wheels that have to be compiled."""
        key = _hash(
            [
                ("constraints", programs.CONSTRAINTS.read_bytes()),
                ("packages", " ".join((*COMPILED, SUITE, *COMPILED_WITH)).encode()),
                ("code", Path(wheels.__file__).read_bytes()),
                ("epoch", str(self._epoch).encode()),
            ]
        )
        directory = self._kept("wheels") / f"compiled-{key[:20]}"
        if not directory.exists():
            partial = directory.with_suffix(f".{os.getpid()}.partial")
            partial.mkdir()
            with step(f"wheels compiled: {' '.join(COMPILED)}"):
                wheels.build(partial, self._foundation, self._epoch)
            partial.rename(directory)
        return directory / "wheels"


def _is_debian(name: str) -> bool:
    """Whether an image has nothing of this checkout."""
    return name in ("base", monitoring.NAME)


def _with_those_below(names: Iterable[str]) -> list[str]:
    """These images and those that they are made on, which come first."""
    wanted = dict.fromkeys(["base"])
    for name in names:
        if name in CHARTS:
            wanted[CHARTS[name]] = None
        wanted[name] = None
    return list(wanted)


def _is_on(image: engine.Image, below: engine.Image) -> bool:
    """Whether an image was built on another one."""
    return image.layers[: len(below.layers)] == below.layers


# --- What images are made from -----------------------------------------------------------------


def _sources() -> list[Path]:
    package = [
        path
        for path in sorted((CHECKOUT / "sigul_stack").rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    ]
    others = [programs.PROJECT, programs.CONSTRAINTS, programs.USE_SYSTEM_NSS, CHECKOUT / "LICENSE"]
    return [*package, *others]


def _hash(parts: Iterable[tuple[str, bytes]]) -> str:
    digest = hashlib.sha256()
    for name, content in parts:
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _wheels_in(directory: Path | None) -> list[Path]:
    return [] if directory is None else sorted(directory.glob("*.whl"))


def _created() -> int:
    """When what images are made from last changed, in seconds of the epoch."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    try:
        return int(run([*_GIT, "log", "-1", "--format=%ct", "--", *_INPUTS]))
    except (BuildError, ValueError):
        return _EPOCH


def _origin() -> dict[str, str]:
    """Labels: the last commit that changed what images are made from, and the repository's URL.

    Empty outside a repository. Changes that are in no commit are marked with `-dirty`.
    """
    labels = {}
    try:
        revision = run([*_GIT, "log", "-1", "--format=%H", "--", *_INPUTS]).decode().strip()
        if revision:
            changed = run([*_GIT, "status", "--porcelain", "--", *_INPUTS]).strip()
            labels["org.opencontainers.image.revision"] = revision + ("-dirty" if changed else "")
        source = run([*_GIT, "config", "--get", "remote.origin.url"]).decode().strip()
        # Before an @ there may be a name and a token.
        labels["org.opencontainers.image.source"] = re.sub(r"//[^/@]*@", "//", source)
    except BuildError:
        pass
    return labels


def _version() -> str:
    text = (CHECKOUT / "sigul_stack" / "__init__.py").read_text()
    found = re.search(r'^__version__.*= "(.+)"$', text, re.MULTILINE)
    if found is None:
        raise BuildError("sigul_stack/__init__.py has no __version__")
    return found[1].replace("+", "-")


def _rfc3339(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def layers_of(cache: Path, prefix: str, name: str) -> Path:
    """Where the archives of an image are kept."""
    return cache / "layers" / f"{re.sub(r'[^a-z0-9]+', '-', prefix)}-{name}"
