"""What is fuzzed: every decoder, with whole examples of what it reads, and the one kind of error that it may raise.

Where a checksum stands before what is interesting, the target makes it right again, so that the damage comes through.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from google_crc32c import value as crc32c

from broker import snapshot
from broker.cli.framing import from_json
from broker.cli.local import LocalCluster
from broker.cli.refusals import Usage
from broker.errors import ConfigError, Corrupt
from broker.log.index import Index
from broker.log.stored import Place, check_batch, head_of, split
from broker.protocol import decode_request, decode_response, encode_request, encode_response
from broker.protocol.codec import _BODY
from broker.records import Codec, Record, encode_batch, read_batch
from broker.server.config import load
from broker.state import MalformedCommand, State, UnknownCommand, commands
from broker.state import encode as encode_command
from broker.state.levels import UnknownLevel
from tests.broker.protocol.test_codec import REQUESTS, RESPONSES
from tests.broker.test_snapshot import a_history, bytes_of
from tests.zablog.storage.directories import born
from zablog.core import messages as peers
from zablog.core.trail import Entries, Mark
from zablog.core.zxid import ZERO, Epoch, PeerId, Zxid
from zablog.sim.disk import SimDisk
from zablog.storage.batch import (
    BATCH_BYTES,
    FILE_BYTES,
    BatchHeader,
    FileHeader,
    NotAHeader,
    decode_batch_header,
    decode_body,
    decode_file_header,
    encode_body,
)
from zablog.storage.copies import FORMAT as COPY_FORMAT
from zablog.storage.copies import HEADER as COPY
from zablog.storage.copies import MAGIC as COPY_MAGIC
from zablog.storage.epochs import EpochsFile
from zablog.storage.errors import StorageError
from zablog.storage.manifest import Manifest
from zablog.storage.storage import Storage
from zablog.wire import WireError, transfer
from zablog.wire.codec import decode, encode
from zablog.wire.frames import FRAME_BYTES_MAX, Frame, FrameReader
from zablog.wire.handshake import CLIENT_VERSIONS, Hello, Purpose, Versions, decode_handshake, encode_handshake

Decode = Callable[[bytes], object]
BATCH_CHECKED = 21
ANY_LEVEL = Versions(1, 1 << 30)
EPOCH = Epoch(3)
PLACE = Zxid(3, 7)


@dataclass(frozen=True)
class Target:
    """One decoder."""

    name: str
    examples: Sequence[bytes]
    decode: Decode
    refuses: tuple[type[BaseException], ...]
    """What it may raise. Anything else is a defect."""
    hostile: Sequence[bytes] = ()
    """Damaged like the examples, and refused before that: what harms a reader that believes what it reads."""


def flat(frame: Frame) -> bytes:
    """A frame as bytes to be damaged: kind, length of the header, header, payload. The frame layer is a target of its own."""
    return bytes([frame.kind]) + len(frame.header).to_bytes(2, "big") + frame.header + bytes(frame.payload)


def framed(raw: bytes) -> Frame:
    """The frame that these bytes come to, with the checksum of a CBOR payload made right."""
    size = int.from_bytes(raw[1:3], "big")
    header, payload = raw[3 : 3 + size], raw[3 + size :]
    if len(header) == _BODY.size and payload:
        header = header[:8] + crc32c(payload).to_bytes(4, "big")
    return Frame(raw[0] & 127 if raw else 0, header, payload)


def frames_of(*encoded: Sequence[object]) -> list[bytes]:
    return [flat(frame) for pieces in encoded for frame in FrameReader(FRAME_BYTES_MAX).feed(b"".join(map(bytes, pieces)))]  # type: ignore[arg-type]


def again(decode: Decode, encode: Callable[[Any], Iterable[object]]) -> Decode:
    """What was understood is said, and understood, again."""

    def both(raw: bytes) -> object:
        value = decode(raw)
        said = b"".join(map(bytes, encode(value)))  # type: ignore[arg-type]  # bytes and views of them
        assert decode(said) == value, "what is said again is what was understood"
        return value

    return both


def framed_again(decode: Callable[[Frame], object], encode: Callable[[Any], Sequence[object]]) -> Decode:
    return again(lambda raw: decode(framed(raw)), lambda value: frames_of(encode(value)))


def the_same(decode: Callable[[bytes], Any], size: int, encode: Callable[[Any], bytes]) -> Decode:
    """There is one way to say it."""

    def both(raw: bytes) -> object:
        value = decode(raw)
        assert encode(value) == raw[:size], "there is one way to say it"
        return value

    return both


def batches() -> list[bytes]:
    records = [Record(b"value", b"key", (("name", b"x"), ("none", None)), 5), Record(None, None, (), 6), Record(b"y" * 300, timestamp=7)]
    return [encode_batch(records, codec) for codec in Codec]


def a_batch(raw: bytes) -> object:
    """Under a checksum that is right, or nothing but the checksum would be tried."""
    read = read_batch(raw[:17] + crc32c(raw[BATCH_CHECKED:]).to_bytes(4, "big") + raw[BATCH_CHECKED:])
    return [Record(record.value, record.key, record.headers, record.timestamp) for record in read]


def stored() -> bytes:
    return b"".join(head_of(Place(3 * at, Zxid(1, 1 + at), 0, 1000 + at, len(batch))) + batch[16:] for at, batch in enumerate(batches()))


def some_commands() -> list[bytes]:
    turn, batch = commands.Turn(Zxid(1, 1), 0, 1, 1), batches()[0]
    return [
        encode_command(command)
        for command in (
            commands.AllocateProducer(5),
            commands.CreateTopic(turn, 5, "orders", 2, commands.Retention(1, 2, 3)),
            commands.AlterTopic(turn, 5, Zxid(1, 2), commands.Retention(1, 2, 3)),
            commands.DeleteTopic(turn, 5, Zxid(1, 2)),
            commands.Produce(turn, 5, [commands.Part(Zxid(1, 2), 0, batch), commands.Part(Zxid(1, 2), 1, batch)]),
            commands.MoveBounds(5, (commands.Bound(Zxid(1, 2), 1, 0, 0),)),
            commands.SetLimits(turn, 5, (("topics", 9),)),
            commands.RaiseLevel(5, 2),
        )
    ]


def apply(raw: bytes) -> object:
    """What no bytes may make raise: a command that does would stop every node, again at each replay. Two replicas agree over it."""
    states = State(), State()
    for state in states:
        state.apply(Zxid(1, 1), encode_command(commands.AllocateProducer(1)))
        state.apply(Zxid(1, 2), encode_command(commands.CreateTopic(commands.Turn(Zxid(1, 1), 0, 1, 1), 2, "orders", 2)))
    outcomes = [state.apply(Zxid(1, 3), raw) for state in states]
    assert outcomes[0] == outcomes[1] and states[0].digest() == states[1].digest(), "replicas differ after the same command"
    again = (
        snapshot.decode(b"".join(snapshot.encode(snapshot.Snapshot(states[0].capture(), [], []))), ANY_LEVEL)
        if not outcomes[0].appends
        else None
    )
    assert again is None or again.state.digest() == states[0].digest(), "a state is not what it was behind its snapshot"
    return outcomes[0]


def metadata_of(kind: str) -> list[bytes]:
    disk = born()
    Storage.open(disk, 4096)
    return [disk.read(name, 0, 1 << 20) for name in disk.names() if name.startswith(kind)]


def metadata(kind: str, raw: bytes) -> SimDisk:
    """Both copies alike, under a checksum that is right: what one says the other cannot mend."""
    disk, body = born(), raw[COPY.size + 4 :]
    head = COPY.pack(COPY_MAGIC, COPY_FORMAT, 7, len(body))
    for name in (f"{kind}.a", f"{kind}.b"):
        disk.truncate(name, 0)
        disk.write(name, 0, [head + crc32c(head + body).to_bytes(4, "big") + body])
    return disk


BATCH = BatchHeader(1, 2, PLACE, 1, Mark(ZERO, 0), 1, ZERO, 0, 9, 8)
FILE = FileHeader(2, b"o" * 16, 4096, 9, Mark(PLACE, 77), 5)


def a_body(raw: bytes) -> object:
    """Of a batch whose header says as many entries as there may be in so few bytes, or a few."""
    header = BatchHeader(1, 2, PLACE, int.from_bytes(raw[:2], "big"), Mark(ZERO, 0), 1, ZERO, 0, len(raw) - 2, crc32c(raw[2:]))
    return decode_body(header, raw[2:], 1)


def bodies() -> list[bytes]:
    return [
        len(payloads).to_bytes(2, "big") + b"".join(map(bytes, encode_body(payloads, 0)[0]))
        for payloads in ([b"a"], [b"", b"x" * 99, b"yz"])
    ]


def index(raw: bytes) -> object:
    return Index(0, 0).take_chunks(raw, 1 << 20)


def index_chunk() -> bytes:
    made = Index(0, 1000)
    for row in range(50):
        made.append(3 * row, 3 * row + 3, Zxid(1, 1 + row), 1000 + row, 100)
    return made.chunk()


def line(raw: bytes) -> object:
    """A line of `produce --in jsonl`, on its way into a batch."""
    return encode_batch([from_json(raw, 1)])


def cluster(raw: bytes) -> object:
    with TemporaryDirectory() as folder:
        (Path(folder) / "cluster.json").write_bytes(raw)
        found = LocalCluster("local", Path(folder), "", {})
        found.load()
        return found


def config(raw: bytes) -> object:
    with TemporaryDirectory() as folder:
        (path := Path(folder) / "node.toml").write_bytes(raw)
        return load(path)


ENTRIES = Entries(Zxid(3, 8), PLACE, [b"a", b"b" * 100], 5)
VOTE = peers.Vote(EPOCH, PLACE, PeerId(1))
PEER_MESSAGES: Sequence[peers.Message] = [
    peers.Notification(peers.Standing.LOOKING, 4, VOTE, VOTE, EPOCH, (PeerId(1), PeerId(2))),
    peers.CEpoch(EPOCH, EPOCH),
    peers.AckEpoch(EPOCH, True, EPOCH, PLACE, PLACE, None),
    peers.Diff(EPOCH, PLACE, 9),
    peers.Ack(EPOCH, PLACE),
    peers.Ping(EPOCH, 9),
    peers.Propose(EPOCH, ENTRIES, PLACE),
]
WORDS: Sequence[transfer.Word] = [
    transfer.Ask(Mark(PLACE, 1)),
    transfer.Seek(PLACE),
    transfer.Found(Mark(PLACE, 1), 2, 3),
    transfer.Get("a", 1, 2),
    transfer.Piece(b"abc"),
    transfer.Gone("why"),
    transfer.Read(Mark(PLACE, 1), PLACE),
    transfer.Run(ENTRIES),
]
HANDSHAKES = [Hello(CLIENT_VERSIONS, Purpose.CLIENT, "c" * 32)]
LINES = [b'{"value": "text", "key": "k", "headers": {"a": "b"}}', b'{"value_b64": "YWJj", "key_b64": "YQ=="}']
DEEP = bytes(COPY.size + 4) + b'{"format": 2, "members": ' + b"[" * 50_000
INFINITE = bytes(COPY.size + 4) + b'{"format": Infinity}'
CLUSTER = (
    b'{"format": 1, "name": "local", "cluster": "c", "up": true, "made_by": "zablog",'
    b' "nodes": [{"id": 1, "address": "h:1", "pid": 5, "started": "7"}, {"id": 2, "address": "h:2"}]}'
)
TOML = b"""directory = "data"
listen = "127.0.0.1:1"
[pace]
tick = 0.01
[limits]
connections = 5
[disk]
keep_bytes = 0
[peers]
2 = "h:1"
"""
SMALL = [each for each in (*REQUESTS, *RESPONSES) if len(repr(each)) < 5000]

TARGETS: Sequence[Target] = (
    Target("frames", [b"".join(map(bytes, encode(m))) for m in PEER_MESSAGES], lambda raw: FrameReader(1 << 20).feed(raw), (WireError,)),
    Target("peers", frames_of(*map(encode, PEER_MESSAGES)), framed_again(decode, encode), (WireError,)),
    Target(
        "transfer", frames_of(*map(transfer.encode_word, WORDS)), framed_again(transfer.decode_word, transfer.encode_word), (WireError,)
    ),
    Target("handshake", frames_of(*map(encode_handshake, HANDSHAKES)), framed_again(decode_handshake, encode_handshake), (WireError,)),
    Target(
        "requests",
        frames_of(*(encode_request(1, each) for each in SMALL if each in REQUESTS)),  # type: ignore[arg-type]  # mixed lists
        framed_again(decode_request, lambda value: encode_request(*value)),
        (WireError,),
    ),
    Target(
        "responses",
        frames_of(*(encode_response(1, each) for each in SMALL if each in RESPONSES)),  # type: ignore[arg-type]  # mixed lists
        framed_again(decode_response, lambda value: encode_response(*value)),
        (WireError,),
    ),
    Target("batches", batches(), again(a_batch, lambda records: [encode_batch(records)]), (Corrupt,)),
    Target("segments", [stored()], lambda raw: [check_batch(each) for each in split(raw)], (Corrupt,)),
    Target("index", [index_chunk()], index, (Corrupt,)),
    Target(
        "commands", some_commands(), again(commands.decode, lambda command: [encode_command(command)]), (MalformedCommand, UnknownCommand)
    ),
    Target("apply", some_commands(), apply, (UnknownCommand,)),
    Target("snapshots", [bytes_of(a_history(2, 60))], snapshot.decode, (Corrupt, UnknownLevel)),
    Target("manifest", metadata_of("manifest"), lambda raw: Manifest(metadata("manifest", raw)).load(), (StorageError,), [DEEP, INFINITE]),
    Target("epochs", metadata_of("epochs"), lambda raw: EpochsFile(metadata("epochs", raw)).load(), (StorageError,)),
    Target("log files", [FILE.encode()], the_same(decode_file_header, FILE_BYTES, FileHeader.encode), (NotAHeader,)),
    Target(
        "log batches",
        [BatchHeader(1, 2, PLACE, 1, Mark(ZERO, 0), 1, ZERO, 0, 9, 8).encode(5)],
        the_same(lambda raw: decode_batch_header(raw, 5), BATCH_BYTES, lambda header: header.encode(5)),
        (NotAHeader,),
    ),
    Target("log entries", bodies(), a_body, (NotAHeader, StorageError)),
    Target("configuration", [TOML], config, (ConfigError,), [b"directory = " + b"[" * 5000]),
    Target("lines", LINES, line, (Usage,), [b'{"value": ' + b"[" * 50_000, b'{"value": "", "headers": {"\\ud800": ""}}']),
    Target("cluster file", [CLUSTER], cluster, (Usage,), [b'{"format": 1, "nodes": ' + b"[" * 50_000]),
)


def damaged(examples: Sequence[bytes], random: Random) -> bytes:
    """One of them, or a piece of two, with a few things done to it that readers of lengths and counts do not like."""
    raw = bytearray(random.choice(examples))
    for _ in range(random.choice((0, 1, 1, 2, 4, 8))):
        at, length = random.randrange(len(raw) + 1), random.choice((1, 2, 4, 8, 16))
        match random.randrange(7):
            case 0 if raw:
                raw[at % len(raw)] ^= 1 << random.randrange(8)
            case 1 if raw:
                raw[at % len(raw)] = random.choice((0, 1, 0x7F, 0x80, 0x9F, 0xBF, 0xC1, 0xFB, 0xFF))
            case 2:
                raw[at : at + length] = random.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * length
            case 3:
                del raw[at : at + random.choice((length, 1 << 20))]
            case 4:
                raw[at:at] = raw[at : at + length] * random.choice((1, 1000))
            case 5:
                other = random.choice(examples)
                raw[at:] = other[random.randrange(len(other) + 1) :]
            case 6:
                raw[at:at] = random.randbytes(length)
        del raw[1 << 17 :]
    return bytes(raw)
