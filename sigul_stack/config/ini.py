"""Reading the INI files of a program: which text stands where, and nothing of what it means.

The system file is read first, then the named one; of two entries for one option the later
counts. `key: value` and `key = value` are the same; option names are not case sensitive; a value
may go on in indented lines; lines that begin with `#` or `;` are comments; nothing in a value is
interpolated. Entries of a `[DEFAULT]` section stand in every section that lacks them.

Every entry remembers its file, so that whatever is wrong with it later can be said with its place.
"""

from __future__ import annotations

import codecs
import configparser
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from ..errors import ConfigurationError
from ..records import dataclass
from .reading import read_small

#: What looks like a comment behind a value. In Python 2's files `;` began one there.
_COMMENT = re.compile(r"(?:^|\s)[;#]")
#: What to do about it.
COMMENT_RULE = "a comment has to be on a line of its own: what follows ` ;` or ` #` is in the value"

#: More than any real configuration file (bytes).
MAX_FILE_SIZE = 1 << 20


@dataclass(frozen=True, slots=True)
class ConfigEntry:
    """One option as a file has it: `text` is the value with surrounding blanks removed."""

    path: Path
    section: str
    option: str
    text: str

    @property
    def place(self) -> str:
        """The place of the entry, as messages say it."""
        return place(self.path, self.section, self.option)

    def error(self, problem: str, cure: str) -> ConfigurationError:
        """The error that names this entry, its `problem` and the `cure`."""
        if self.holds_comment:
            cure += f"; {COMMENT_RULE}"
        return ConfigurationError(f"{self.place}: {problem}", cure)

    @property
    def holds_comment(self) -> bool:
        """Whether the value holds what looks like a comment behind it, and is none."""
        return _COMMENT.search(self.text) is not None


def place(path: Path, section: str, option: str) -> str:
    """`FILE: [SECTION] OPTION`, the way every message names an option's place."""
    return f"{path}: [{section}] {option}"


class Advice(str):
    """A warning about a file: `problem; cure` as text, and its two parts.

    `of_daemon` tells that it is about what a daemon does with requests: of no interest to programs
    that read the same file and serve nobody. `possible`: it may well be what was meant, so that
    `check-config` finds no fault with it.
    """

    __slots__ = ("cure", "of_daemon", "possible", "problem")

    problem: str
    cure: str
    of_daemon: bool
    possible: bool

    def __new__(
        cls, problem: str, cure: str, *, of_daemon: bool = False, possible: bool = False
    ) -> Advice:
        """The warning of a problem and what to do about it."""
        advice = super().__new__(cls, f"{problem}; {cure}")
        advice.problem = problem
        advice.possible = possible
        advice.cure = cure
        advice.of_daemon = of_daemon
        return advice


def look_for(path: Path) -> bool | None:
    """Whether the file `path`, which may be missing, is there; None where this user may not look.

    Raises `ConfigurationError` where that cannot be told for another reason.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError:
        return None
    except OSError as error:
        raise ConfigurationError(
            f"{path}: cannot be looked at: {error.strerror}",
            "put that right, or remove what is there",
        ) from error
    return True


class ConfigFiles:
    """All entries of a program's configuration files, in the order they were read."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Read `paths`, earliest first.

        Raises `ConfigurationError` for a file that cannot be read or is not of INI form.
        """
        self.paths = tuple(paths)
        #: What is odd about the form of the files, and has a meaning nevertheless.
        self.odd: list[Advice] = []
        #: SHA-256 of what each file held when it was read, in hex.
        self.digests: dict[Path, str] = {}
        self._sections: list[tuple[Path, str]] = []
        self._entries: dict[tuple[str, str], list[ConfigEntry]] = {}
        for path in self.paths:
            self._read(path)

    def _read(self, path: Path) -> None:
        # Sigul 0.x ran with files that have an option or a section twice.
        parser = configparser.RawConfigParser(strict=False)
        try:
            data = read_small(path, MAX_FILE_SIZE)
        except OSError as error:
            raise ConfigurationError(
                f"{path}: cannot be read: {error.strerror}",
                "make it a file that this user may read, or name another with -c",
            ) from error
        if len(data) > MAX_FILE_SIZE:
            raise ConfigurationError(
                f"{path}: larger than {MAX_FILE_SIZE} bytes",
                "this is no configuration file: name another with -c",
            )
        self.digests[path.absolute()] = hashlib.sha256(data).hexdigest()
        # A byte order mark makes UTF-16 of it, which is told below.
        if b"\0" in data and not data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            line = data.count(b"\n", 0, data.index(b"\0")) + 1
            raise ConfigurationError(
                f"{path}: line {line} has a NUL byte, as text in UTF-16 has", "save it as UTF-8"
            )
        try:
            text = self._decode(path, data)
            parser.read_string(text, source=str(path))
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise ConfigurationError(
                f"{path}: line {line} is not UTF-8 text", "save the file as UTF-8"
            ) from error
        except configparser.Error as error:
            problem, cure = _syntax_error(error)
            raise ConfigurationError(f"{path}: {problem}", cure) from error
        self.odd += _repeated(path, text)
        defaults = parser.defaults()
        for option, text in defaults.items():
            self._add(ConfigEntry(path, parser.default_section, option, text))
        for section in parser.sections():
            self._sections.append((path, section))
            for option, text in parser.items(section):
                # An entry of [DEFAULT] shows in every section; one that is written in the section
                # itself as well, with the same text, may as well be taken for inherited.
                if defaults.get(option) != text:
                    self._add(ConfigEntry(path, section, option, text))

    def _decode(self, path: Path, data: bytes) -> str:
        """The file's text; only in its comments may it be of an old encoding."""
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError:
            lines = data.splitlines(keepends=True)
            for number, line in enumerate(lines):
                if line.lstrip().startswith((b"#", b";")):
                    lines[number] = line.decode("utf-8", "replace").encode()
            text = b"".join(lines).decode("utf-8-sig")
        self.odd.append(
            Advice(f"{path}: a comment is not UTF-8 text", "save the file as UTF-8", possible=True)
        )
        return text

    def _add(self, entry: ConfigEntry) -> None:
        self._entries.setdefault((entry.section, entry.option), []).append(entry)

    def get(self, section: str, option: str) -> ConfigEntry | None:
        """The entry that counts for `option` of `section`, or None."""
        entries = self._entries.get((section, option.lower()))
        if entries is None:
            entries = self._entries.get((configparser.DEFAULTSECT, option.lower()))
        return entries[-1] if entries else None

    def find(self, section: str, options: Iterable[str]) -> Iterator[ConfigEntry]:
        """The entries that count for those of `options` that are there."""
        return filter(None, (self.get(section, option) for option in options))

    def section(self, section: str) -> Iterator[ConfigEntry]:
        """The entries of `section` that count, in the order they were first written."""
        return (entries[-1] for (name, _), entries in self._entries.items() if name == section)

    def sections(self) -> tuple[tuple[Path, str], ...]:
        """Each file's sections, `[DEFAULT]` left out."""
        return tuple(self._sections)

    def entries(self) -> Iterator[ConfigEntry]:
        """Every entry of every file, those that a later one overrides too."""
        return chain.from_iterable(self._entries.values())

    def last(self) -> Path:
        """The file in which an option that is missing would best be written."""
        return self.paths[-1]


def _repeated(path: Path, text: str) -> Iterator[Advice]:
    """A warning for each section and option that a file has twice; the later option counts."""
    section = ""
    option: str | None = None
    depth = 0
    seen: set[tuple[str, str]] = set()
    for number, line in enumerate(text.split("\n"), 1):
        bare = line.strip()
        if not bare or bare.startswith(("#", ";")):
            continue
        indent = len(line) - len(line.lstrip())
        if option is not None and indent > depth:
            continue  # it continues the value above
        depth = indent
        if heading := configparser.RawConfigParser.SECTCRE.match(bare):
            section, option = heading["header"], None
            what, cure = f"section [{section}]", "put its options under one heading"
        elif found := configparser.RawConfigParser.OPTCRE.match(bare):
            option = found["option"].rstrip().lower()
            what = f"[{section}] {option}"
            cure = "remove the other one: the last one counts"
        if (section, option or "") in seen:
            yield Advice(f"{path}: line {number}: {what} stands there twice", cure)
        seen.add((section, option or ""))


def _syntax_error(error: configparser.Error) -> tuple[str, str]:
    """Problem and cure of a file's form, without its text: a line may hold a secret."""
    if isinstance(error, configparser.MissingSectionHeaderError):
        where = f"line {error.lineno}"
        return f"{where}: an option before any section", "put its [section] line above it"
    if isinstance(error, configparser.ParsingError):
        lines = ", ".join(str(line) for line, _ in error.errors)
        return f"line {lines}: neither a [section] nor `option: value`", "correct it"
    return "not a configuration file of the form `[section]`, `option: value`", "correct it"
