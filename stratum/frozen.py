"""Immutable records, made when their module is loaded at no cost that a short command would feel.

``frozen`` is ``dataclasses.dataclass(frozen=True, slots=True)`` for the modules that ``mount``, ``unmount``,
``status``, ``commit`` and the hook load: importing ``dataclasses`` brings the compiler's front end with it, and each
of its classes is compiled from text, which together took longer than a mount does. What it leaves out is inheritance,
ordering and the options of ``field``. Type checkers see a data class.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: Any) -> Callable[[Any], Any]:
        return lambda function: function


T = TypeVar("T")


class _Factory:
    """The default of a field that each record gets anew."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make


def field(*, default_factory: Callable[[], T]) -> T:
    """The default of a field whose value is made for each record, such as an empty list."""
    return _Factory(default_factory)  # type: ignore[return-value]  # it stands for the T that it will make


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:
    """Make ``cls`` a record of the fields it annotates: they are set once, by position or by name, and compared.

    Fields without a default come first. ``__post_init__`` is called with the fields set.
    """
    names = tuple(cls.__annotations__)
    body = {key: value for key, value in cls.__dict__.items() if key not in ("__dict__", "__weakref__")}
    defaults = {name: body.pop(name) for name in names if name in body}
    values = attrgetter(*names) if len(names) > 1 else lambda record: (getattr(record, names[0]),)
    required = len(names) - len(defaults)
    post_init = body.get("__post_init__")

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        if len(args) > len(names):
            raise TypeError(f"{cls.__name__} takes {len(names)} fields, not {len(args)}")
        for set_field, value in zip(ordered, args, strict=False):
            set_field(self, value)
        for name in kwargs and names[: len(args)]:
            if name in kwargs:
                raise TypeError(f"{cls.__name__} was given {name} twice")
        for name in names[len(args) :]:
            if name in kwargs:
                value = kwargs.pop(name)
            elif name in defaults:
                value = defaults[name]
                if type(value) is _Factory:
                    value = value.make()
            else:
                raise TypeError(f"{cls.__name__} needs {name}, one of its first {required} fields")
            setters[name](self, value)
        if kwargs:
            raise TypeError(f"{cls.__name__} has no field {', '.join(kwargs)}")
        if post_init is not None:
            post_init(self)

    def equal(self: Any, other: object) -> bool:
        return values(self) == values(other) if type(other) is type(self) else NotImplemented

    def shown(self: Any) -> str:
        return f"{cls.__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    methods = {
        "__init__": init,
        "__eq__": equal,
        "__hash__": lambda self: hash(values(self)),
        "__repr__": shown,
        "__reduce__": lambda self: (type(self), values(self)),
        "__setattr__": _refuse,
        "__delattr__": _refuse,
    }
    members = {**methods, **body, "__slots__": names, "__match_args__": names}
    made = type(cls.__name__, cls.__bases__, members)
    made.__qualname__ = cls.__qualname__
    setters = {name: getattr(made, name).__set__ for name in names}
    ordered = tuple(setters.values())
    return made


def _refuse(self: object, name: str, *_: object) -> None:
    raise AttributeError(f"{type(self).__name__}.{name} cannot be changed: make another with replace")


def replace(record: T, **changes: Any) -> T:
    """A record like ``record`` but for ``changes``; ``TypeError`` for what is none of its fields."""
    return type(record)(**{**as_dict(record), **changes})


def as_dict(record: object) -> dict[str, Any]:
    """The fields of ``record``, in their order; what they hold is not copied."""
    return {name: getattr(record, name) for name in type(record).__slots__}  # type: ignore[attr-defined]  # set by frozen()
