"""Reading the fields of a decoded message one by one, each with its type and range. Whatever does not fit is a MessageError."""

from zablog.core.zxid import COUNTER_MAX, EPOCH_MAX, Epoch, PeerId, Zxid
from zablog.wire import cbor
from zablog.wire.errors import MessageError

U64_MAX = 2**64 - 1


class Fields:
    """A CBOR array, read from front to back. `name` is the message's, for the errors."""

    __slots__ = ("_next", "_values", "name")

    def __init__(self, name: str, values: object, count: int) -> None:
        if type(values) is not list or len(values) != count:
            found = f"{len(values)}" if type(values) is list else type(values).__name__
            raise MessageError(f"{name}: an array of {count} fields was expected, not {found}")
        self.name = name
        self._values: list[object] = values
        self._next = 0

    @classmethod
    def decode(cls, name: str, encoded: bytes, count: int) -> "Fields":
        return cls(name, cbor.loads(encoded), count)

    def value(self) -> object:
        value = self._values[self._next]
        self._next += 1
        return value

    def refuse(self, what: str, law: str, value: object) -> MessageError:
        return MessageError(f"{self.name}: {what} must be {law}, not {_short(value)}")

    def number(self, what: str, lowest: int = 0, highest: int = U64_MAX) -> int:
        value = self.value()
        if type(value) is not int or not lowest <= value <= highest:
            raise self.refuse(what, f"a number from {lowest} to {highest}", value)
        return value

    def flag(self, what: str) -> bool:
        value = self.value()
        if type(value) is not bool:
            raise self.refuse(what, "true or false", value)
        return value

    def text(self, what: str, characters_max: int) -> str:
        value = self.value()
        if type(value) is not str or len(value) > characters_max:
            raise self.refuse(what, f"text of at most {characters_max} characters", value)
        return value

    def epoch(self, what: str) -> Epoch:
        return Epoch(self.number(what, 0, EPOCH_MAX))

    def peer(self, what: str) -> PeerId:
        return PeerId(self.number(what, 1, 255))

    def zxid(self, what: str) -> Zxid:
        pair = Fields(f"{self.name}.{what}", self.value(), 2)
        return Zxid(pair.number("epoch", 0, EPOCH_MAX), pair.number("counter", 0, COUNTER_MAX))

    def zxid_or_none(self, what: str) -> Zxid | None:
        return None if self._is_none() else self.zxid(what)

    def text_or_none(self, what: str, characters_max: int) -> str | None:
        return None if self._is_none() else self.text(what, characters_max)

    def peer_or_none(self, what: str) -> PeerId | None:
        return None if self._is_none() else self.peer(what)

    def peers(self, what: str) -> tuple[PeerId, ...]:
        value = self.value()
        if type(value) is not list or len(value) > 255:
            raise self.refuse(what, "a list of at most 255 peers", value)
        each = Fields(f"{self.name}.{what}", value, len(value))
        return tuple(each.peer("peer") for _ in value)

    def _is_none(self) -> bool:
        """Skips the field if it is null."""
        if self._values[self._next] is not None:
            return False
        self._next += 1
        return True


def _short(value: object) -> str:
    """An excerpt of somebody's value for an error message."""
    if isinstance(value, list | dict):
        return f"a {type(value).__name__} of {len(value)}"
    words = repr(value[:40]) if isinstance(value, str | bytes) else repr(value)
    return words[:80]
