"""Objects that remember their constructor's arguments, so that a run built in Python gets a ``config.yaml`` too."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any

_ATTRIBUTE = "_constructor_arguments"


class Configurable:
    """Base of every class that a configuration names by ``class_path``.

    Subclasses need no code for it: their ``__init__`` is wrapped when the class is created.

    Example:
        >>> class Adder(Configurable):
        ...     def __init__(self, term: int, *, scale: float = 1.0) -> None: ...
        >>> constructor_arguments(Adder(3))
        {'term': 3}
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = _recording(cls.__init__)  # type: ignore[method-assign]


def _recording(init: Callable[..., None]) -> Callable[..., None]:
    signature = inspect.signature(init)

    @wraps(init)
    def recorded(self: Any, *args: Any, **kwargs: Any) -> None:
        if _ATTRIBUTE not in self.__dict__:  # the outermost constructor's call, not those of its bases
            bound = signature.bind(self, *args, **kwargs)
            given = dict(list(bound.arguments.items())[1:])
            for parameter in signature.parameters.values():
                if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                    given |= given.pop(parameter.name, {})
            self.__dict__[_ATTRIBUTE] = given
        init(self, *args, **kwargs)

    return recorded


def constructor_arguments(instance: object) -> Mapping[str, Any] | None:
    """Return the arguments that an object was constructed with, by name; None where they are not known.

    Arguments left at their defaults are missing, except for dataclasses, which list every field.
    """
    if is_dataclass(instance):
        return {field.name: getattr(instance, field.name) for field in fields(instance) if field.init}
    recorded: Mapping[str, Any] | None = getattr(instance, "__dict__", {}).get(_ATTRIBUTE)
    if recorded is None and isinstance(instance, Configurable):
        return {}  # no constructor of its own
    return recorded
