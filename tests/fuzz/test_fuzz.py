"""Damaged bytes are decoded or refused by name, within bounded memory; `python -m tests.fuzz` goes on for as long as one likes."""

import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from random import Random

import pytest

from broker.protocol import decode_request, decode_response
from broker.protocol.codec import _BODY, REQUEST_BYTES_MAX
from tests.fuzz.targets import TARGETS, Target, damaged, framed
from zablog.wire.codec import decode
from zablog.wire.errors import MessageError, WireError
from zablog.wire.frames import Frame
from zablog.wire.handshake import decode_handshake
from zablog.wire.transfer import decode_word

FAST = 300
SLOW = 5000
FEW = {"batches": 1000, "cluster file": 300, "configuration": 300}
"""How many of those that take long: they decompress, or write files."""


def fuzz(target: Target, seed: int, count: int) -> int:
    """How many of so many damaged examples were decoded all the same."""
    random, decoded = Random(f"{target.name} {seed}"), 0
    for number in range(count):
        raw = damaged([*target.examples, *target.hostile], random)
        try:
            target.decode(raw)
            decoded += 1
        except target.refuses:
            pass
        except BaseException as error:
            error.add_note(f"target {target.name!r}, seed {seed}, example {number}: {raw[:200]!r}")
            raise
    return decoded


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_whole_examples_are_understood(target: Target) -> None:
    for example in target.examples:
        target.decode(example)
    for example in target.hostile:
        with pytest.raises(target.refuses):
            target.decode(example)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_damage_is_refused_by_name_or_understood(target: Target) -> None:
    assert 0 < fuzz(target, 1, FAST) <= FAST, "some examples are left as they are"


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_much_damage_is_refused_by_name_or_understood(target: Target) -> None:
    fuzz(target, 2, FEW.get(target.name, SLOW))


def test_the_fuzzer_finds_a_decoder_that_believes_a_length() -> None:
    believer = Target("believer", [b"\x00\x03abc"], lambda raw: raw[2 + int.from_bytes(raw[:2], "big") - 1], (ValueError,))

    with pytest.raises(IndexError):
        fuzz(believer, 1, FAST)


HOSTILE = {"empty lists": b"\x80", "empty maps": b"\xa0", "zeros": b"\0", "letters": b"\x61a", "empty bytes": b"\x40"}


@pytest.mark.parametrize("item", HOSTILE.values(), ids=HOSTILE)
def test_a_request_made_of_the_smallest_things_takes_bounded_memory(item: bytes) -> None:
    """A list of empty lists is the worst: 80 bytes of objects a byte. So a request in CBOR is short, and 3 MB are the end of it."""
    decode = next(target.decode for target in TARGETS if target.name == "requests")
    count = (REQUEST_BYTES_MAX - 10) // len(item)
    body = b"\x81\x9a" + count.to_bytes(4, "big") + item * count
    raw = b"\x48" + _BODY.size.to_bytes(2, "big") + bytes(_BODY.size) + body
    framed(raw)
    tracemalloc.start()
    try:
        with suppress(MessageError):
            decode(raw)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 3_000_000


def test_a_longer_request_is_refused_before_it_is_read() -> None:
    decode = next(target.decode for target in TARGETS if target.name == "requests")
    raw = b"\x48" + _BODY.size.to_bytes(2, "big") + bytes(_BODY.size) + bytes(REQUEST_BYTES_MAX + 1)

    with pytest.raises(MessageError, match="at most 32,768"):
        decode(raw)


CLAIMS = {
    "bytes": b"\x5a\x7f\xff\xff\xff",
    "text": b"\x7b\x00\x00\x00\x7f\xff\xff\xff\xff",
    "items": b"\x9a\x80\x00\x00\x00",
    "more items": b"\x9b\x7f\xff\xff\xff\xff\xff\xff\xff",
    "pairs": b"\xba\x80\x00\x00\x00",
    "depth": b"\x81" * 4000,
    "deep pairs": b"\xa1\x60" * 2000,
    "a tag": b"\xd8\x23\x61(" * 500,
    "no end": b"\x9f" * 4000,
}
FRAMES: dict[str, Callable[[Frame], object]] = {
    "peers": decode,
    "transfer": decode_word,
    "handshake": decode_handshake,
    "requests": decode_request,
    "responses": decode_response,
}
CBOR_BYTES = 70_000
"""What the library needs to read anything at all: 64 KiB, for a moment."""


def cost(name: str, raw: bytes) -> int:
    """Bytes at most while it is refused."""
    frame = framed(raw)
    with suppress(WireError):
        FRAMES[name](frame)  # what is made once is made now
    tracemalloc.start()
    try:
        with suppress(WireError):
            FRAMES[name](frame)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_what_is_merely_claimed_takes_no_memory(claim: bytes) -> None:
    """Lengths and counts up to 2^63 behind which nothing comes, and nesting: in the header of every kind of frame, and in its payload."""
    for name in FRAMES:
        for kind in range(128):
            for body in (claim, b"\x81" + claim, b"\x82\x00" + claim):
                in_header = bytes([kind]) + len(body).to_bytes(2, "big") + body
                in_payload = bytes([kind]) + _BODY.size.to_bytes(2, "big") + bytes(_BODY.size) + body
                for raw in (in_header, in_payload):
                    assert cost(name, raw) < 4 * len(raw) + CBOR_BYTES, f"{name}, kind {kind}"


def test_counts_in_headers_take_no_memory() -> None:
    """Every field of a header at its highest, in every kind of frame."""
    for target in (each for each in TARGETS if each.name in FRAMES):
        for example in target.examples:
            size = int.from_bytes(example[1:3], "big")
            for at in range(3, 3 + size):
                raw = example[:at] + b"\xff" * min(4, 3 + size - at) + example[at + 4 :]
                assert cost(target.name, raw) < 4 * len(raw) + CBOR_BYTES
