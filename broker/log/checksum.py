"""CRC-32C of two pieces end to end, from those of the pieces.

Whoever writes a batch to a segment need not sum its bytes once more, which means to copy them first, since `google_crc32c` takes nothing
but `bytes`: the checksum of nearly all of them stands in the batch.

A checksum is a polynomial over GF(2). To put n bytes behind a piece multiplies its checksum by x^8n, a linear map of 32 bits; here are the
maps for the powers of two, as tables of what they make of each of four bytes, made when they are first needed.
"""

from functools import cache
from typing import Final

Map = tuple[list[int], list[int], list[int], list[int]]
"""What becomes of each byte of a checksum, the lowest byte first, by its value."""

_POLYNOMIAL: Final = 0x82F63B78
"""Castagnoli's, its lowest power in the highest bit."""


def joined(first: int, second: int, length: int) -> int:
    """The checksum of two pieces end to end, from theirs; the second one has `length` bytes."""
    for zero, one, two, three in _behind(length.bit_length()):
        if length & 1:
            first = zero[first & 255] ^ one[first >> 8 & 255] ^ two[first >> 16 & 255] ^ three[first >> 24]
        length >>= 1
    return first ^ second


@cache
def _behind(powers: int) -> tuple[Map, ...]:
    """What 1, 2, 4 and so many more powers of two bytes behind a piece make of its checksum."""
    if powers == 0:
        return ()
    if powers == 1:
        return (_tabled([_one_byte(1 << bit) for bit in range(32)]),)
    lower = _behind(powers - 1)
    return *lower, _tabled([_mapped(lower[-1], _mapped(lower[-1], 1 << bit)) for bit in range(32)])


def _mapped(tables: Map, crc: int) -> int:
    zero, one, two, three = tables
    return zero[crc & 255] ^ one[crc >> 8 & 255] ^ two[crc >> 16 & 255] ^ three[crc >> 24]


def _one_byte(crc: int) -> int:
    for _ in range(8):
        crc = crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0)
    return crc


def _tabled(images: list[int]) -> Map:
    """The linear map that has these images of the 32 single bits."""
    tables = []
    for byte in range(4):
        table = [0] * 256
        for value in range(1, 256):
            lowest = value & -value
            table[value] = table[value ^ lowest] ^ images[8 * byte + lowest.bit_length() - 1]
        tables.append(table)
    return tables[0], tables[1], tables[2], tables[3]
