"""Damaged bytes are decoded or refused by name, within bounded memory; `python -m tests.fuzz` goes on for as long as one likes."""

import tracemalloc
from contextlib import suppress
from random import Random

import pytest

from broker.protocol.codec import _BODY, REQUEST_BYTES_MAX
from tests.fuzz.targets import TARGETS, Target, damaged, framed
from zablog.wire.errors import MessageError

FAST = 300
SLOW = 5000


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
    fuzz(target, 2, SLOW if target.name != "configuration" else FAST)


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
