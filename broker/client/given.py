"""What a program gives a producer, looked at before it is taken: what is found later would be nobody's in particular."""

from collections.abc import Mapping, Sequence

from broker.errors import BadRequest, RecordTooLarge
from broker.records import Headers, content_bytes
from broker.state.limits import Limits, reached

HeadersGiven = Mapping[str, bytes | None] | Sequence[tuple[str, bytes | None]] | None


def headers_of(given: HeadersGiven) -> Headers:
    """Raises BadRequest for what is no name or no value: what is found later would be nobody's in particular."""
    if not given:
        return ()
    headers = tuple(given.items() if isinstance(given, Mapping) else given)
    for name, value in headers:
        if not isinstance(name, str):
            raise BadRequest(f"a header's name must be text, not {type(name).__name__}")
        check_bytes("a header's value", value)
    return headers


def check(topic: str, value: bytes | None, key: bytes | None, headers: Headers, timestamp: int | None, limits: Limits) -> None:
    if type(value) is not bytes:
        check_bytes("a value", value)
    if key is not None and type(key) is not bytes:
        check_bytes("a key", key)
    size = content_bytes(value, key, headers) if headers or key else len(value or b"")
    if size > limits.record_bytes:
        check_size(topic, size, limits)
    if timestamp is not None and not (isinstance(timestamp, int) and 0 <= timestamp < 2**53):
        raise BadRequest(f"timestamp={timestamp!r}: must be milliseconds since 1970, 0 to 2**53 - 1")


def check_bytes(what: str, value: object) -> None:
    if value is not None and not isinstance(value, bytes):
        raise BadRequest(f"{what} must be bytes or None, not {type(value).__name__}", hint="text.encode(), bytes(buffer)")


def check_size(topic: str, size: int, limits: Limits) -> None:
    """Raises RecordTooLarge."""
    if size > limits.record_bytes:
        raise RecordTooLarge(reached("record_bytes", limits, f"a record of {size:,} bytes for topic {topic!r}") + "; it was not sent")
