"""Copies of what the core knows, and values that stand for it: equal if and only if the peer will behave alike.

Everything counts unless it is named here: so a field that the core gains later is part of the value, and never forgotten.
"""

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import fields, is_dataclass
from functools import cache
from types import FunctionType, NoneType
from typing import Any, Final, TypeVar

from zablog.core.events import Link
from zablog.core.peer import Peer

IGNORED: Final = frozenset(
    {
        "configuration", "timing", "limits", "jitter",  # the same for every peer, always
        "round", "resend_at", "resend_ticks",  # of an election, which an oracle has taken the place of
        "generation", "reason",  # for the world outside; the gate has been told
        "token",  # counts from the start of a life: whoever needs it takes it relative to what is durable
    }
)  # fmt: skip
T = TypeVar("T")


@cache
def parts(kind: type) -> tuple[str, ...] | None:
    """The names of what an object of this class holds, if it can change; None for a value that cannot."""
    if kind is Peer:
        return ("state", "out")
    if is_dataclass(kind) and not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]  # typeshed does not know it
        return tuple(field.name for field in fields(kind))
    if kind.__hash__ is not object.__hash__ or kind in (NoneType, FunctionType):
        return None
    return tuple(kind.__slots__)  # type: ignore[attr-defined]  # an AttributeError where something new is to be copied


def copied(value: T) -> T:
    """Another one, as deep as it can change. What cannot change is shared."""
    kind: Any = type(value)  # Any: built below as it was built once
    if kind is dict:
        return kind((key, copied(each)) for key, each in value.items())  # type: ignore[attr-defined, no-any-return]  # a dict has items
    if kind is list or kind is deque:
        return kind(map(copied, value))  # type: ignore[call-overload, no-any-return]  # and a list can be gone through
    names = parts(kind)
    if names is None:
        hash(value)  # raises where something that can change would be shared
        return value
    new = kind.__new__(kind)
    for name in names:
        setattr(new, name, copied(getattr(value, name)))
    return new  # type: ignore[no-any-return]


def frozen(value: Any, current: Callable[[Link], bool]) -> Hashable:  # Any: whatever a state holds
    """The value of it. A link is its peer, and whether it is the `current` one; dicts are sorted."""
    kind = type(value)
    if kind is Link:
        return value.peer, current(value)
    if kind is dict:
        return tuple((key, frozen(each, current)) for key, each in sorted(value.items()))
    if kind is list or kind is deque:
        return tuple(frozen(each, current) for each in value)
    names = parts(kind)
    if names is None:
        return value  # type: ignore[no-any-return]  # the caller hashes it
    return (kind.__name__, *(frozen(getattr(value, name), current) for name in names if name not in IGNORED))
