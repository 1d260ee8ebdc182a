"""Strict CBOR (RFC 8949): what may be said in it is less than what the library can read.

Allowed: null, booleans, integers of 64 bits, text, byte strings, arrays, and maps whose keys are text. Refused: every tag (tag 35
compiles an attacker's regular expression, 28 and 29 build cycles), indefinite lengths, duplicate keys, floats and other simple
values, nesting deeper than 8, and anything behind the value. Schema and ranges are the business of who asked.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Final, NoReturn

import cbor2

from zablog.wire.errors import MessageError

Value = None | bool | int | str | bytes | Sequence["Value"] | Mapping[str, "Value"]

DEPTH_MAX: Final = 8
BYTES_MAX: Final = 1 << 20
"""What `loads` takes unless told otherwise. Bulk bytes do not travel in CBOR."""


def dumps(value: Value) -> bytes:
    """`value` as CBOR. A map keeps its order, so equal values built alike give equal bytes."""
    return cbor2.dumps(value)


def loads(encoded: bytes, bytes_max: int = BYTES_MAX) -> object:
    """The one value that `encoded` consists of, made of None, bool, int, str, bytes, list and dict. Raises MessageError."""
    if len(encoded) > bytes_max:
        raise MessageError(f"CBOR of {len(encoded):,} bytes, and at most {bytes_max:,} are taken here")
    source = BytesIO(encoded)
    try:
        value: object = cbor2.CBORDecoder(
            source,
            tag_hook=_refuse_tag,
            semantic_decoders=_EVERY_TAG,
            max_depth=DEPTH_MAX,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        ).decode()
    except (cbor2.CBORError, ValueError, OverflowError, TypeError, MemoryError, RecursionError) as error:
        raise MessageError(f"not strict CBOR: {error}") from None
    if source.tell() != len(encoded):
        raise MessageError(f"{len(encoded) - source.tell()} stray bytes behind the CBOR value")
    _check_types(value)
    return value


def _check_types(value: object) -> None:
    """The decoder yields byte-string keys, floats, `undefined` and other simple values; none of them is part of our language."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if type(each) is list:
            waiting.extend(each)
        elif type(each) is dict:
            for key in each:
                if type(key) is not str:
                    raise MessageError(f"a map key in CBOR must be text, not {type(key).__name__}")
            waiting.extend(each.values())
        elif each is not None and type(each) not in (int, str, bytes, bool):
            raise MessageError(f"{type(each).__name__} in CBOR is not accepted")


def _refuse_tag(*_: object) -> NoReturn:
    raise cbor2.CBORDecodeError("tags are not accepted")


class _EveryTag(dict[int, "cbor2.SemanticDecoderCallback"]):
    """Overrides the library's decoder of each tag it knows, whatever tags the next version will know."""

    def __getitem__(self, tag: int) -> "cbor2.SemanticDecoderCallback":
        return _refuse_tag


_EVERY_TAG: Final = _EveryTag()
