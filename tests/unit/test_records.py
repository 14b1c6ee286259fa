"""Classes of data are what `dataclasses` would make of them, and do not load it."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pytest

from sigul_stack import records

MAKERS: list[Any] = [records, dataclasses]


def made(of: Any, **how: Any) -> Any:
    """A class with all that a field can be."""

    @of.dataclass(**how)  # type: ignore[untyped-decorator]
    class Made:
        """What it is for."""

        KIND: ClassVar[str] = "kind"
        name: str
        number: int = 3
        hidden: str = of.field(default="h", repr=False)
        names: list[str] = of.field(default_factory=list, compare=False)
        about: Mapping[str, str] = of.field(default=None, metadata={"a": "b"}, kw_only=True)
        last: int = of.field(default=0, kw_only=True)

        def twice(self) -> int:
            return self.number * 2

    Made.__qualname__ = "Made"
    return Made


HOWS: list[dict[str, bool]] = [
    {},
    {"frozen": True},
    {"slots": True},
    {"frozen": True, "slots": True},
    {"frozen": True, "slots": True, "eq": False, "repr": False},
    {"kw_only": True},
]


def outcome(call: Callable[[], object]) -> object:
    """What `call` gives, or the kind of its error."""
    try:
        return call()
    except Exception as error:
        return type(error)


@pytest.mark.parametrize("how", HOWS, ids=str)
def test_a_class_is_like_that_of_dataclasses(how: dict[str, bool]) -> None:
    told = []
    for of in MAKERS:
        cls = made(of, **how)
        one = cls(name="n")
        others = [cls(name="n"), cls(name="m"), cls(name="n", names=["x"]), "n"]
        told.append(
            [
                repr(one).partition(" at ")[0].rpartition(".")[2],
                [one == other for other in others],
                [
                    outcome(lambda cls=cls, other=other: hash(other) == hash(cls(name="n")))  # type: ignore[misc]
                    for other in others
                ],
                outcome(lambda cls=cls: cls("n", 4, "x", ["y"], about={}, last=5).names),  # type: ignore[misc]
                [
                    outcome(lambda cls=cls, of=of: of.replace(cls(name="n"), number=5).twice()),  # type: ignore[misc]
                    outcome(lambda cls=cls, of=of: of.replace(cls(name="n"), unknown=5)),  # type: ignore[misc]
                    outcome(cls),
                    outcome(lambda cls=cls: cls(name="n", unknown=1)),  # type: ignore[misc]
                    outcome(lambda cls=cls: cls("n", 1, "h", [], {}, 2)),  # type: ignore[misc]
                    outcome(lambda cls=cls: cls("n", name="n")),  # type: ignore[misc]
                    outcome(lambda one=one: setattr(one, "number", 4)),  # type: ignore[misc]
                    outcome(lambda one=one: delattr(one, "number")),  # type: ignore[misc]
                ],
                outcome(lambda one=one: setattr(one, "unknown", 4)) is None,  # type: ignore[misc]
                cls.__match_args__,
                getattr(cls, "__slots__", None),
                [(item.name, item.type, item.kw_only, item.repr) for item in of.fields(cls)],
                [dict(item.metadata) for item in of.fields(cls)],
                cls.__doc__,
                copy.copy(one).name,
                copy.deepcopy(one).names,
            ]
        )
    ours, theirs = told
    assert ours == theirs


def test_defaults_are_not_shared() -> None:
    cls = made(records)
    assert cls("a").names is not cls("b").names
    with pytest.raises(ValueError, match="can be changed"):

        @records.dataclass
        class _Wrong:
            names: list[str] = []  # type: ignore[misc] # noqa: RUF012


@records.dataclass(frozen=True)
class Base:
    first: int
    last: int = records.field(kw_only=True)


@records.dataclass(frozen=True, slots=True)
class Derived(Base):
    second: int = 2
    seen: list[int] = records.field(default_factory=list)

    def __post_init__(self) -> None:
        self.seen.append(self.first)

    def __repr__(self) -> str:
        return "own"


def test_a_base_and_its_methods() -> None:
    record = Derived(1, last=9)
    assert (record.first, record.second, record.last, record.seen) == (1, 2, 9, [1])
    assert repr(record) == "own"
    assert record != Base(1, last=9)
    again = pickle.loads(pickle.dumps(record))  # noqa: S301 - our own
    assert again == record and again.last == 9


def test_functions_of_dataclasses_take_them() -> None:
    record = Derived(1, last=9)
    assert dataclasses.is_dataclass(record)
    assert dataclasses.asdict(record) == {"first": 1, "last": 9, "second": 2, "seen": [1]}
    assert dataclasses.replace(record, second=5).second == 5
    assert {item.name: item.type for item in dataclasses.fields(Derived)}["second"] == "int"
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.first = 3  # type: ignore[misc]


def test_the_two_are_not_mixed() -> None:
    @dataclasses.dataclass
    class Other:
        name: str

    with pytest.raises(TypeError, match="made by dataclasses"):

        @records.dataclass
        class _Mixed(Other):
            number: int


def test_dataclasses_is_not_loaded() -> None:
    code = (
        "import sys\n"
        "from sigul_stack.records import dataclass, field, fields, replace\n"
        "@dataclass(frozen=True, slots=True)\n"
        "class A:\n"
        "    a: 'int'\n"
        "    b: 'list' = field(default_factory=list)\n"
        "print(replace(A(1), a=2), [item.name for item in fields(A)])\n"
        "print({'dataclasses', 'inspect'} & set(sys.modules))\n"
    )
    path = f"import sys; sys.path = {sys.path!r}\n"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", path + code],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout == "A(a=2, b=[]) ['a', 'b']\nset()\n"
