"""Which partition a record goes to: equal keys to equal partitions, records without a key to one partition for a while.

The hash is Kafka's (murmur2 of the key, sign bit cleared, modulo the number of partitions), so that a Kafka client in front of
a later gateway and a native producer put the same key into the same partition. Pure: a key in, a number out.
"""

from functools import lru_cache
from typing import Final

_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_32: Final = 0xFFFFFFFF


@lru_cache(maxsize=8192)
def murmur2(key: bytes) -> int:
    """The 32-bit MurmurHash2 of `key` with Kafka's seed (org.apache.kafka.common.utils.Utils.murmur2), as an unsigned number."""
    length = len(key)
    whole = length & ~3
    h = (_SEED ^ length) & _32
    for at in range(0, whole, 4):
        k = int.from_bytes(key[at : at + 4], "little") * _M & _32
        k = (k ^ k >> 24) * _M & _32
        h = (h * _M & _32) ^ k
    if length > whole:
        h = (h ^ int.from_bytes(key[whole:], "little")) * _M & _32
    h = (h ^ h >> 13) * _M & _32
    return h ^ h >> 15


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of every record with this key, 0 to `partitions` - 1."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions
