"""The codecs of record batches: gzip, snappy, lz4 and zstd, as Kafka's attribute numbers them. Pure.

Reading is bounded: a few bytes can claim to be gigabytes, so the output has a limit and what does not fit is Corrupt. Nor is there more
room for it than the format could fill from so many bytes: to clear 64 MiB costs more than a bad batch may.
"""

import struct
from enum import IntEnum
from typing import Final

import cramjam

from broker.errors import Corrupt

ROOM_BYTES_MIN: Final = 64 << 10


class Codec(IntEnum):
    """Bits 0 to 2 of a batch's attributes."""

    NONE = 0
    GZIP = 1
    SNAPPY = 2
    LZ4 = 3
    ZSTD = 4


EXPANSION: Final = {Codec.GZIP: 1032, Codec.SNAPPY: 22, Codec.LZ4: 255, Codec.ZSTD: 32 << 10}
"""A byte becomes at most so many: deflate copies 258 for two bits, snappy 64 for three bytes, lz4 255 for a byte of a length, and zstd
fills a block of 128 KiB from four bytes."""


def compress(codec: Codec, content: bytes) -> bytes:
    match codec:
        case Codec.GZIP:
            return bytes(cramjam.gzip.compress(content))
        case Codec.SNAPPY:
            return _snappy_blocks(content)
        case Codec.LZ4:
            return bytes(cramjam.lz4.compress(content))
        case Codec.ZSTD:
            return bytes(cramjam.zstd.compress(content))
        case Codec.NONE:
            return content


def decompress(codec: Codec, compressed: bytes, bytes_max: int) -> bytes:
    """The content, at most `bytes_max`. Raises Corrupt."""
    try:
        match codec:
            case Codec.SNAPPY:
                return _read_snappy(compressed, bytes_max)
            case Codec.NONE:
                return compressed
            case Codec.GZIP:
                into = cramjam.gzip.decompress_into
            case Codec.LZ4:
                into = cramjam.lz4.decompress_into
            case Codec.ZSTD:
                into = cramjam.zstd.decompress_into
        # The library does not say whether the bytes are bad or the room too small, so both are tried again with four times the room.
        most = min(bytes_max, EXPANSION[codec] * len(compressed) + ROOM_BYTES_MIN)
        room = min(most, 4 * len(compressed) + ROOM_BYTES_MIN)
        while True:
            out = bytearray(room)
            try:
                return bytes(memoryview(out)[: into(compressed, out)])
            except cramjam.DecompressionError:
                if room == most:
                    raise
            del out  # before there is the next one
            room = min(most, 4 * room)
    except (cramjam.DecompressionError, ValueError, OverflowError) as error:
        raise Corrupt(f"a batch does not decompress with {codec.name.lower()} to at most {bytes_max:,} bytes: {error}") from None


_XERIAL: Final = b"\x82SNAPPY\x00"
"""Snappy in Kafka is the stream form of snappy-java: this magic, two versions, then blocks with their length; or one bare block."""
_VERSIONS: Final = struct.pack(">ii", 1, 1)
_LENGTH: Final = struct.Struct(">I")
_BLOCK_BYTES: Final = 32 << 10


def _snappy_blocks(content: bytes) -> bytes:
    out = [_XERIAL, _VERSIONS]
    for at in range(0, len(content), _BLOCK_BYTES):
        block = bytes(cramjam.snappy.compress_raw(content[at : at + _BLOCK_BYTES]))
        out += (_LENGTH.pack(len(block)), block)
    return b"".join(out)


def _read_snappy(compressed: bytes, bytes_max: int) -> bytes:
    if not compressed.startswith(_XERIAL):
        return _read_block(compressed, bytes_max)
    at = len(_XERIAL) + len(_VERSIONS)
    out: list[bytes] = []
    room = bytes_max
    while at < len(compressed):
        if len(compressed) - at < _LENGTH.size:
            raise ValueError("it ends within the length of a block")
        (size,) = _LENGTH.unpack_from(compressed, at)
        at += _LENGTH.size
        if size > len(compressed) - at:
            raise ValueError(f"a block of {size:,} bytes, and {len(compressed) - at:,} are left")
        out.append(_read_block(compressed[at : at + size], room))
        room -= len(out[-1])
        at += size
    return b"".join(out)


def _read_block(block: bytes, bytes_max: int) -> bytes:
    size = cramjam.snappy.decompress_raw_len(block)
    if size > min(bytes_max, EXPANSION[Codec.SNAPPY] * len(block)):
        raise ValueError(f"a block claims {size:,} bytes")
    out = bytearray(size)
    if cramjam.snappy.decompress_raw_into(block, out) != size:
        raise ValueError("a block is shorter than it claims")
    return bytes(out)
