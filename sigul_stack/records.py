"""Classes of data for what every start of a program loads: `dataclasses`, without its compiler.

`dataclass`, `field`, `fields` and `replace` mean what they mean in `dataclasses`, and a type
checker takes them for those. That module writes the source of six methods for each class and
compiles it: 0.4 ms a class, a fifth of a client's start. The methods here are closures over the
fields' names; making an object takes 0.2 µs more. What a program loads only once it is at work has
no need of this.

Invariant: `dataclasses` is imported here for who asks for what it alone has. Its functions
(`dataclasses.replace`, `asdict`, `fields` ...) take these classes too; its decorator must not be
used on a class whose base is made here, nor this one on a class whose base is made there. What no
class of ours needs is left out: an order, and fields that are set at making alone, or not then.
"""

from __future__ import annotations

from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import MISSING, dataclass, field, fields, replace
else:
    #: The default of a field that has none.
    MISSING = type("Missing", (), {"__slots__": (), "__repr__": lambda _self: "MISSING"})()
    _FIELDS = "__record_fields__"
    _put = object.__setattr__

    class Field:
        """One field of a class: what `field` was told, its name and its annotation's text."""

        __slots__ = (
            "compare",
            "default",
            "default_factory",
            "kw_only",
            "metadata",
            "name",
            "repr",
            "type",
        )

        def __init__(self, default, default_factory, repr, compare, kw_only, metadata):
            self.name = self.type = ""
            self.default = default
            self.default_factory = default_factory
            self.repr = repr
            self.compare = compare
            self.kw_only = kw_only
            self.metadata = metadata

    def field(
        *,
        default=MISSING,
        default_factory=MISSING,
        repr=True,
        compare=True,
        kw_only=None,
        metadata=None,
    ):
        """As `dataclasses.field`."""
        shown = MappingProxyType({} if metadata is None else metadata)
        return Field(default, default_factory, repr, compare, kw_only, shown)

    def fields(of):
        """The fields of a class or its object, in their order."""
        return tuple(getattr(of, _FIELDS).values())

    def replace(record, /, **changes):
        """A record like this one with some fields changed."""
        for name in getattr(record, _FIELDS):
            if name not in changes:
                changes[name] = getattr(record, name)
        return type(record)(**changes)

    def dataclass(cls=None, /, *, frozen=False, slots=False, eq=True, repr=True, kw_only=False):
        """As `dataclasses.dataclass`."""

        def make(cls):
            return _made(cls, frozen, slots, eq, repr, kw_only)

        return make if cls is None else make(cls)

    def _made(cls, frozen, slots, eq, repr, kw_only):
        every, own = _fields_of(cls, kw_only)
        given = dict(cls.__dict__)
        methods = {_FIELDS: every, "__dataclass_fields__": _AsDataclass()}
        positional = [item for item in every.values() if not item.kw_only]
        ordered = (*positional, *(item for item in every.values() if item.kw_only))
        methods["__match_args__"] = tuple(item.name for item in positional)
        methods["__init__"] = _init(ordered, len(positional), hasattr(cls, "__post_init__"))
        if repr:
            methods["__repr__"] = _repr([item.name for item in every.values() if item.repr])
        if eq:
            compared = _values([item.name for item in every.values() if item.compare])
            methods["__eq__"] = _eq(compared)
            methods["__hash__"] = (lambda self: hash(compared(self))) if frozen else None
            # Python itself has put a None there for a class with an __eq__ of its own.
            if given.get("__hash__", 0) is None:
                del given["__hash__"]
        if frozen:
            methods["__setattr__"], methods["__delattr__"] = _refuse_to_set, _refuse_to_delete
            if slots:
                methods["__getstate__"], methods["__setstate__"] = _state, _set_state
        methods = {name: method for name, method in methods.items() if name not in given}
        if not slots:
            for name, method in methods.items():
                setattr(cls, name, method)
            for item in own:
                if item.default is not MISSING:
                    setattr(cls, item.name, item.default)
                elif item.name in given:
                    delattr(cls, item.name)
            return cls
        # Slots are of a class from its making on.
        there = {name for base in cls.__mro__[1:-1] for name in base.__dict__.get("__slots__", ())}
        for item in own:
            given.pop(item.name, None)
        for name in ("__dict__", "__weakref__"):
            given.pop(name, None)
        given["__slots__"] = tuple(item.name for item in own if item.name not in there)
        made = type(cls)(cls.__name__, cls.__bases__, {**given, **methods})
        made.__qualname__ = cls.__qualname__
        return made

    def _fields_of(cls, kw_only):
        """All fields by name, those of its bases first, and a list of its own."""
        every, own = {}, []
        for base in reversed(cls.__mro__[1:]):
            theirs = base.__dict__.get(_FIELDS)
            if theirs is None and "__dataclass_fields__" in base.__dict__:
                raise TypeError(f"{base.__qualname__} is made by dataclasses, {cls} is not")
            every.update(theirs or {})
        for name, annotation in cls.__annotations__.items():
            if str(annotation).startswith(("ClassVar", "typing.ClassVar")):
                continue
            default = cls.__dict__.get(name, MISSING)
            item = default if isinstance(default, Field) else field(default=default)
            if type(item.default).__hash__ is None:
                raise ValueError(f"{cls.__qualname__}.{name} has a default that can be changed")
            item.name, item.type = name, annotation
            if item.kw_only is None:
                item.kw_only = kw_only
            every[name] = item
            own.append(item)
        return every, own

    def _init(ordered, positional, then):
        def __init__(self, /, *values, **named):
            if len(values) > positional:
                raise TypeError(
                    f"{type(self).__qualname__} takes {positional} values, not {len(values)}"
                )
            at = 0
            for item in ordered:
                name = item.name
                if at < len(values):
                    _put(self, name, values[at])
                    at += 1
                elif name in named:
                    _put(self, name, named.pop(name))
                elif item.default is not MISSING:
                    _put(self, name, item.default)
                elif item.default_factory is not MISSING:
                    _put(self, name, item.default_factory())
                else:
                    raise TypeError(f"{type(self).__qualname__} has no value for {name!r}")
            if named:
                raise TypeError(
                    f"{type(self).__qualname__} has no field {next(iter(named))!r}, or twice"
                )
            if then:
                self.__post_init__()

        return __init__

    def _repr(names):
        def __repr__(self):
            shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
            return f"{type(self).__qualname__}({shown})"

        return __repr__

    def _values(names):
        """A function from an object to the tuple of its fields."""
        if len(names) > 1:
            return attrgetter(*names)
        return lambda self: tuple(getattr(self, name) for name in names)

    def _eq(values):
        def __eq__(self, other):
            if type(other) is not type(self):
                return NotImplemented
            return values(self) == values(other)

        return __eq__

    def _refuse_to_set(self, name, _value):
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def _refuse_to_delete(self, name):
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def _state(self):
        return [getattr(self, name) for name in getattr(self, _FIELDS)]

    def _set_state(self, state):
        for name, value in zip(getattr(self, _FIELDS), state, strict=True):
            _put(self, name, value)

    class _AsDataclass:
        """The fields as `dataclasses` has them, for its functions; made when one asks."""

        def __get__(self, _record, cls):
            import dataclasses

            made = [
                (
                    item.name,
                    item.type,
                    dataclasses.field(
                        **{
                            name: value
                            for name in ("default", "default_factory")
                            if (value := getattr(item, name)) is not MISSING
                        },
                        repr=item.repr,
                        compare=item.compare,
                        kw_only=True,
                        metadata=item.metadata,
                    ),
                )
                for item in fields(cls)
            ]
            found = dataclasses.make_dataclass(cls.__name__, made).__dataclass_fields__
            # Once a class: it costs a millisecond or more, and `dataclasses.replace` asks twice.
            if "__dataclass_fields__" in cls.__dict__:
                cls.__dataclass_fields__ = found
            return found


__all__ = ["MISSING", "dataclass", "field", "fields", "replace"]
