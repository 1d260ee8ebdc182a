"""Copies of what the core knows, and values that stand for it: equal if and only if the peer will behave alike.

Everything counts unless it is named here: so a field that the core gains later is part of the value, and cannot be forgotten.
"""

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import fields, is_dataclass
from functools import cache
from types import FunctionType, NoneType
from typing import Any, Final

from zablog.core.events import Link
from zablog.core.peer import Peer

IGNORED: Final = frozenset(
    {
        "configuration", "timing", "limits", "jitter",  # the same for every peer, always
        "round", "resend_at", "resend_ticks",  # of an election, which an oracle has taken the place of
        "generation", "reason",  # for the world outside, which has been told
        "token", "pending",  # they count from the start of a life: the puppet takes them relative to what is durable
    }
)  # fmt: skip


@cache
def parts(kind: Any) -> tuple[str, ...] | None:  # Any: a class
    """The names of what an object of this class holds, if it can change; None for a value that cannot."""
    if kind is Peer:
        return ("state", "out")
    if is_dataclass(kind) and kind.__hash__ is None:
        return tuple(field.name for field in fields(kind))
    if kind.__hash__ is not object.__hash__ or kind in (NoneType, FunctionType):
        return None
    return tuple(kind.__slots__)  # an AttributeError where something new is to be copied


def copied(value: Any) -> Any:  # Any: whatever a state holds; the same class comes back
    """Another one, as deep as it can change. What cannot change is shared."""
    kind: Any = type(value)
    if kind is dict:
        return {key: copied(each) for key, each in value.items()}
    if kind is list or kind is deque:
        return kind(map(copied, value))
    names = parts(kind)
    if names is None:
        return value
    new = kind.__new__(kind)
    for name in names:
        setattr(new, name, copied(getattr(value, name)))
    return new


def frozen(value: Any, current: Callable[[Link], bool]) -> Hashable:  # Any: whatever a state holds
    """The value of it. A link is its peer, and whether it is the `current` one; dicts are sorted."""
    kind: Any = type(value)
    if kind is Link:
        return value.peer, current(value)
    if kind is dict:
        return tuple((key, frozen(each, current)) for key, each in sorted(value.items()))
    if kind is list or kind is deque:
        return tuple(frozen(each, current) for each in value)
    names = parts(kind)
    if names is None:
        return value  # type: ignore[no-any-return]  # it has a hash of its own
    return (kind.__name__, *(frozen(getattr(value, name), current) for name in names if name not in IGNORED))
