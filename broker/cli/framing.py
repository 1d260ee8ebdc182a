"""Records in a stream of bytes: how they are told apart coming in, and how they are written going out. Pure.

`lines`: a record is the bytes between newlines; `\\r` and NUL stay, an unterminated last line counts. `nul`: the same with NUL.
`len`: four bytes of length, big-endian, before each. `jsonl`: an object a line, with `value` or `value_b64`, and perhaps `key` or
`key_b64` and `headers`. A record above the limit is refused before the rest of it is read.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, Protocol

from broker.cli.refusals import Usage
from broker.errors import RecordTooLarge
from broker.records import Record

RECORD_BYTES_MAX: Final = 2 << 20
INPUTS: Final = ("lines", "jsonl", "nul", "len")


class Splitter(Protocol):
    """Cuts a stream into records."""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The records that are complete now."""

    def finish(self) -> list[bytes]:
        """What the end of the stream completes."""


class Delimited:
    """Records with a delimiter behind each; the last one may lack it."""

    def __init__(self, delimiter: bytes) -> None:
        self._delimiter = delimiter
        self._pieces: list[bytes] = []
        self._held = 0
        self._seen = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        first, *others = chunk.split(self._delimiter)
        self._pieces.append(first)
        self._held += len(first)
        if not others:
            self._check(self._held)
            return []
        *whole, rest = others
        records = [b"".join(self._pieces), *whole]
        self._pieces, self._held = [rest], len(rest)
        # One look at all of them is cheap; one at each is only needed if that fails.
        if len(chunk) > RECORD_BYTES_MAX or len(records[0]) > RECORD_BYTES_MAX or len(rest) > RECORD_BYTES_MAX:
            for record in [*records, rest]:
                self._check(len(record))
                self._seen += 1
            self._seen -= 1
        else:
            self._seen += len(records)
        return records

    def finish(self) -> list[bytes]:
        record = b"".join(self._pieces)
        self._pieces, self._held = [], 0
        return [record] if record else []

    def _check(self, length: int) -> None:
        if length > RECORD_BYTES_MAX:
            raise too_large(self._seen + 1, length)


class Prefixed:
    """Records with their length before each."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._seen = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        self._held += chunk
        records, at = list[bytes](), 0
        while len(self._held) - at >= 4:
            length = int.from_bytes(self._held[at : at + 4], "big")
            if length > RECORD_BYTES_MAX:
                raise too_large(self._seen + 1, length)
            if len(self._held) - at - 4 < length:
                break
            records.append(bytes(self._held[at + 4 : at + 4 + length]))
            self._seen += 1
            at += 4 + length
        del self._held[:at]
        return records

    def finish(self) -> list[bytes]:
        if self._held:
            raise Usage(f"the input ends within record {self._seen + 1}", hint="--in len: four bytes of length, then so many bytes")
        return []


def splitter(framing: str) -> Splitter:
    """For one of INPUTS. Raises Usage."""
    match framing:
        case "lines" | "jsonl":
            return Delimited(b"\n")
        case "nul":
            return Delimited(b"\0")
        case "len":
            return Prefixed()
    raise Usage(f"--in {framing}: no such framing", hint=f"one of {', '.join(INPUTS)}")


def too_large(number: int, length: int) -> RecordTooLarge:
    return RecordTooLarge(
        f"record {number} of the input has {length} bytes or more; the limit is {RECORD_BYTES_MAX}",
        hint="is the framing right? --in lines|jsonl|nul|len; a larger value belongs elsewhere, with its address in the log",
    )


def split_key(record: bytes, separator: bytes, number: int) -> Record:
    """KEY, separator, VALUE. Raises Usage if the separator is not there."""
    key, found, value = record.partition(separator)
    if not found:
        raise Usage(f"record {number} of the input has no key separator {separator!r}", hint="each record must be KEY, separator, VALUE")
    return Record(value, key)


def from_json(line: bytes, number: int) -> Record:
    """One line of jsonl. Raises Usage that names the line."""
    try:
        record = json.loads(line)
        if not isinstance(record, dict):
            raise ValueError("not an object")
        value, key = _bytes(record, "value"), _bytes(record, "key")
        if value is None:
            raise ValueError("no value and no value_b64")
        headers = record.get("headers") or {}
        if not isinstance(headers, dict) or not all(isinstance(each, str) for each in headers.values()):
            raise ValueError("headers must be an object of strings")
        for name in headers:
            name.encode()  # JSON can say characters that UTF-8 cannot
        return Record(value, key, tuple((name, text.encode()) for name, text in headers.items()))
    except (ValueError, binascii.Error, RecursionError) as error:
        raise Usage(
            f"line {number} of the input: {error}",
            hint='--in jsonl: {"value": "text"} or {"value_b64": "..."}, with key and headers if any',
        ) from error


def _bytes(record: Mapping[str, object], name: str) -> bytes | None:
    text, coded = record.get(name), record.get(f"{name}_b64")
    if coded is not None:
        if not isinstance(coded, str) or text is not None:
            raise ValueError(f"{name}_b64 must be a string, and stands in the place of {name}")
        return base64.b64decode(coded, validate=True)
    if text is not None and not isinstance(text, str):
        raise ValueError(f"{name} must be a string")
    return None if text is None else text.encode()


Writer = Callable[[Record], bytes]


def writer(out: str) -> Writer:
    """How `--out` writes a record: raw, jsonl, hex, nul, len, or a format with kcat's tokens. Raises Usage."""
    match out:
        case "raw":
            return lambda record: (record.value or b"") + b"\n"
        case "nul":
            return lambda record: (record.value or b"") + b"\0"
        case "len":
            return lambda record: len(record.value or b"").to_bytes(4, "big") + (record.value or b"")
        case "hex":
            return lambda record: (record.value or b"").hex().encode() + b"\n"
        case "jsonl":
            return _to_json
    if "%" not in out:
        raise Usage(f"--out {out}: no such output", hint="raw, jsonl, hex, nul, len, or a format such as '%t %p %o %k %s\\n'")
    return _format(out)


def _to_json(record: Record) -> bytes:
    document: dict[str, object] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "zxid": str(record.zxid),
        "time": _rfc3339(record.timestamp),
    }
    document |= _text("key", record.key) | {
        "headers": {name: None if value is None else value.decode("utf-8", "backslashreplace") for name, value in record.headers}
    }
    document |= _text("value", record.value)
    return json.dumps(document, ensure_ascii=False).encode() + b"\n"


def _rfc3339(milliseconds: int) -> str | int:
    """The number itself where no calendar has such a time: a timestamp is what its producer says."""
    try:
        moment = datetime.fromtimestamp(milliseconds // 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return milliseconds
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}Z"


def _text(name: str, value: bytes | None) -> dict[str, str | None]:
    """Under its own name if it is text, in base64 under another if it is not."""
    if value is None:
        return {name: None}
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_b64": base64.b64encode(value).decode()}


_TOKENS: Final[Mapping[str, Writer]] = {
    "%s": lambda record: record.value or b"",
    "%S": lambda record: str(-1 if record.value is None else len(record.value)).encode(),
    "%k": lambda record: record.key or b"",
    "%K": lambda record: str(-1 if record.key is None else len(record.key)).encode(),
    "%t": lambda record: record.topic.encode(),
    "%p": lambda record: str(record.partition).encode(),
    "%o": lambda record: str(record.offset).encode(),
    "%T": lambda record: str(record.timestamp).encode(),
    "%z": lambda record: str(record.zxid).encode(),
    "%h": lambda record: b",".join(name.encode() + b"=" + (value or b"") for name, value in record.headers),
    "%%": lambda record: b"%",
}
_ESCAPES: Final = {"\\n": b"\n", "\\t": b"\t", "\\r": b"\r", "\\0": b"\0", "\\\\": b"\\"}


def _format(text: str) -> Writer:
    parts: list[Writer | bytes] = []
    for piece in re.findall(r"%.?|\\.|[^%\\]+|\\", text, re.DOTALL):
        if piece.startswith("%"):
            if piece not in _TOKENS:
                raise Usage(f"--out: {piece!r} is no token", hint=f"one of {' '.join(_TOKENS)}")
            parts.append(_TOKENS[piece])
        else:
            parts.append(_ESCAPES.get(piece, piece.encode()))
    return lambda record: b"".join(part if isinstance(part, bytes) else part(record) for part in parts)
