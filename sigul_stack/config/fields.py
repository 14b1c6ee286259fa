"""Settings as data: an option is a field of a frozen dataclass, declared once.

A field made with `option`, `required`, `secret_option` or `family` says in which section it
stands, how its text is read, what it is when absent, and what it is for. Everything else is
derived from that: the reading (`build`), the warnings about what no program knows (`unknown`),
and any list of all options (`options_of`). An option is named like its field, with `-` for `_`,
unless it says otherwise.

Fields are looked at here and nowhere else; who uses settings sees plain typed attributes.
"""

from __future__ import annotations

import enum
import functools
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Generic, TypeVar

from ..errors import ConfigurationError
from ..records import MISSING, dataclass, field, fields, replace
from ..secret import Secret
from . import values
from .ini import Advice, ConfigEntry, ConfigFiles, place
from .tolerance import EMPTY_MEANS_ABSENT, readings

T = TypeVar("T")
S = TypeVar("S")

#: The section of the class's own `SECTION`.
OWN_SECTION: Final = ""

_KEY = "sigul-option"


class OptionForm(enum.Enum):
    """The ways in which options are written."""

    VALUE = "one value"
    SECRET = "the value itself, or `…-file` with the name of a file that holds it"  # noqa: S105 - a description
    FAMILY = "any number of options that begin alike"


class Needs(enum.Enum):
    """The things that have to be on the machine before a daemon starts."""

    NOTHING = "nothing"
    DIRECTORY = "the directory it names"
    PLACE = "a place for the directory it names, which the daemon makes where it is missing"
    NAMED_DIRECTORY = "the directory it names, where a file names one"
    PARENT = "the directory of the file it names"


@dataclass(frozen=True, slots=True)
class Reading:
    """A value as it is taken from a file.

    `odd` says why it cannot be right as it stands, and `cure` what to do about it; both are empty
    where it can. `absent`: it is taken for an option that is not there.
    """

    value: Any = None
    odd: str = ""
    cure: str = ""
    absent: bool = False


@dataclass(frozen=True, slots=True)
class Option:
    """One declared option. `help` is a phrase for people, with the unit where there is one.

    `new_site` is what the files of a new site say, where that is stricter than its absence, which
    has to mean what it always meant.
    """

    section: str
    name: str
    parse: Callable[[ConfigEntry], Any]
    help: str
    form: OptionForm = OptionForm.VALUE
    needs: Needs = Needs.NOTHING
    excludes: str = ""
    prefixes: tuple[str, ...] = ()
    strip_prefix: bool = True
    new_site: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The names under which the option may stand in a file; none for a family."""
        if self.form is OptionForm.FAMILY:
            return ()
        return (self.name, self.name + "-file") if self.form is OptionForm.SECRET else (self.name,)

    @property
    def excluded(self) -> tuple[str, ...]:
        """The names under which an option may stand that cannot be given beside this one."""
        return (self.excludes, self.excludes + "-file") if self.excludes else ()

    def covers(self, name: str) -> bool:
        """Whether `name` is this option."""
        if self.form is OptionForm.FAMILY:
            return any(name.startswith(p) and len(name) > len(p) for p in self.prefixes)
        return name in self.names

    def read(self, entry: ConfigEntry) -> Reading:
        """The value of `entry`, as `tolerance` has it where it cannot be right as it stands.

        Raises `ConfigurationError` where nothing can be made of it.
        """
        try:
            return Reading(self.parse(entry))
        except ConfigurationError as error:
            if self.form is OptionForm.SECRET:
                raise
            for text, cure in (*readings(entry.text), (entry.text, "give it a value")):
                other = replace(entry, text=text)
                try:
                    value = self.parse(other)
                except ConfigurationError:
                    if not text and self.name in EMPTY_MEANS_ABSENT:
                        problem = f"{entry.place} is empty, and taken for not set"
                        return Reading(None, problem, "give it a value or remove the line", True)
                else:
                    return Reading(value, f"{error.problem}, and is read as {text!r}", cure)
            raise


def option(
    section: str,
    parse: Callable[[ConfigEntry], T],
    default: T,
    help: str,
    *,
    name: str = "",
    needs: Needs = Needs.NOTHING,
    excludes: str = "",
    new_site: str = "",
) -> T:
    """A field for an option that is `default` when absent.

    `excludes` names another option of the section that cannot be given beside this one; `new_site`
    is as in `Option`.
    """
    declared = Option(section, name, parse, help, needs=needs, excludes=excludes, new_site=new_site)
    return field(default=default, metadata={_KEY: declared}, kw_only=True)


def required(section: str, parse: Callable[[ConfigEntry], T], help: str, *, name: str = "") -> T:
    """A field for an option that has to be given."""
    declared = Option(section, name, parse, help)
    made: T = field(metadata={_KEY: declared}, kw_only=True)
    return made


def secret_option(section: str, help: str, *, name: str = "", excludes: str = "") -> Secret | None:
    """A field for a secret, given itself or as `…-file`; None when absent."""
    declared = Option(
        section, name, values.any_secret, help, form=OptionForm.SECRET, excludes=excludes
    )
    return field(default=None, metadata={_KEY: declared}, kw_only=True)


def family(
    section: str,
    prefixes: tuple[str, ...],
    parse: Callable[[ConfigEntry], T],
    help: str,
    *,
    strip_prefix: bool = True,
) -> Mapping[str, T]:
    """A field for all options that begin with one of `prefixes`: rest of the name → value.

    Names are lower case, as option names are not case sensitive. With `strip_prefix` False the
    whole name is the key.
    """
    declared = Option(
        section, "", parse, help, OptionForm.FAMILY, prefixes=prefixes, strip_prefix=strip_prefix
    )
    return field(
        default_factory=lambda: MappingProxyType({}), metadata={_KEY: declared}, kw_only=True
    )


def options_of(cls: type[Any]) -> dict[str, Option]:
    """Every option that `cls` declares: field name → option, in the order of declaration."""
    return {
        field.name: replace(
            declared,
            section=declared.section or cls.SECTION,
            name=declared.name or field.name.replace("_", "-"),
        )
        for field in fields(cls)
        if (declared := field.metadata.get(_KEY)) is not None
    }


def build(cls: type[S], files: ConfigFiles, **given: object) -> S:
    """The settings of `cls` as `files` have them; `given` fields are taken as they are.

    Raises `ConfigurationError` for the first option that cannot be right or is missing.
    """
    result: dict[str, object] = dict(given)
    defaults = {
        field.name
        for field in fields(cls)  # type: ignore[arg-type]
        if field.default is not MISSING or field.default_factory is not MISSING
    }
    for name, declared in options_of(cls).items():
        if name in result:
            continue
        if declared.form is OptionForm.FAMILY:
            result[name] = MappingProxyType(dict(_family(declared, files)))
        elif (entry := counting_entry(declared, files)) is not None:
            reading = declared.read(entry)
            if not reading.absent:
                result[name] = reading.value
        elif name not in defaults:
            raise ConfigurationError(
                f"{place(files.last(), declared.section, declared.name)} is not set",
                f"add `{declared.name}: …` to section [{declared.section}]: {declared.help}",
            )
    return cls(**result)


def counting_entry(declared: Option, files: ConfigFiles) -> ConfigEntry | None:
    """The entry that gives `declared` its value: of its own name, or the secret's `…-file`.

    None when it is absent, and when an option that excludes it stands in a later file. Both in
    one file: `ConfigurationError`.
    """
    own = None
    for entry in files.find(declared.section, declared.names):
        own = later(own, entry, files)
    if own is not None:
        for other in files.find(declared.section, declared.excluded):
            if later(own, other, files) is other:
                return None
    return own


def later(first: ConfigEntry | None, second: ConfigEntry, files: ConfigFiles) -> ConfigEntry:
    """The one of two entries that counts: of the later file.

    Both in one file: `ConfigurationError`.
    """
    if first is None:
        return second
    if first.path == second.path:
        raise first.error(f"stands beside {second.option}", "give one of the two, not both")
    return max(first, second, key=lambda entry: files.paths.index(entry.path))


def _family(declared: Option, files: ConfigFiles) -> Iterator[tuple[str, object]]:
    for entry in files.section(declared.section):
        for prefix in declared.prefixes:
            if entry.option.startswith(prefix) and len(entry.option) > len(prefix):
                key = entry.option[len(prefix) :] if declared.strip_prefix else entry.option
                reading = declared.read(entry)
                if not reading.absent:
                    yield key, reading.value


@dataclass(frozen=True, slots=True)
class Loaded(Generic[S]):
    """Settings, where they come from, and what is odd but no error about the files.

    `warnings` are whole sentences for a log, one a finding.
    """

    settings: S
    warnings: tuple[Advice, ...]
    files: ConfigFiles

    def check_paths(self) -> None:
        """Check that each directory that a daemon needs is there; not the NSS database's.

        Raises `ConfigurationError` naming the first that is missing and how to make it.
        """
        for name, declared in options_of(type(self.settings)).items():
            path = getattr(self.settings, name)
            if declared.needs is Needs.NOTHING or path is None:
                continue
            entry = counting_entry(declared, self.files)
            replaced = any(self.files.find(declared.section, declared.excluded))
            if entry is None and (replaced or declared.needs is Needs.NAMED_DIRECTORY):
                continue
            if declared.needs is Needs.PLACE and not os.path.lexists(path) and path.parent.is_dir():
                continue
            directory: Path = path.parent if declared.needs is Needs.PARENT else path
            if (problem := _problem_of(directory)) is None:
                continue
            where = place(self.files.last(), declared.section, declared.name)
            raise ConfigurationError(
                f"{entry.place if entry else where + ' (not set)'}: '{directory}' {problem}",
                f"make it (`install -d -m 0700 {directory}`, owned by the daemon's user)"
                f" or correct {declared.name}",
            )


def _problem_of(directory: Path) -> str | None:
    """Describe the fault of a directory that has to be there; None where there is none."""
    try:
        if stat.S_ISDIR(directory.stat().st_mode):
            return None
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except OSError as error:
        return f"cannot be looked at: {error.strerror}"
    return "is not a directory"


# Without slots, which have no place for what is cached.
@dataclass(frozen=True)
class Program(Generic[S]):
    """One program's configuration: `NAME.conf`, the classes that declare its options, its loader.

    `from_files` gives the settings and warnings about them; a client's user name may be given
    beside its files. `default_file` is the file that is read where none is named, beside the one in
    the system's directory; None: there is none.
    """

    name: str
    classes: tuple[type[Any], ...]
    from_files: Callable[[ConfigFiles, str | None], tuple[S, tuple[Advice, ...]]]
    default_file: Callable[[], Path | None] = lambda: None

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.name}.conf"

    @functools.cached_property
    def options(self) -> tuple[Option, ...]:
        """Every option of the program. Each entry of a file is looked for here, at each start."""
        return tuple(chain.from_iterable(options_of(cls).values() for cls in self.classes))

    def sections(self) -> set[str]:
        """The names of all sections of the program."""
        return {option.section for option in self.options}

    def new_site(self, section: str) -> dict[str, str]:
        """The options that a new site's file gives in `section`, and their values as text."""
        return {o.name: o.new_site for o in self.options if o.section == section and o.new_site}

    def knows(self, section: str, name: str) -> bool:
        """Whether option `name` of `section` means something to the program."""
        return any(o.section == section and o.covers(name) for o in self.options)
