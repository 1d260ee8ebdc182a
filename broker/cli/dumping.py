"""The entries of a log as lines for a person, or as objects for a program."""

from collections.abc import Iterator

from broker.errors import Corrupt
from broker.inspection import base_offset_of, segment_files, stored_batches
from broker.log.stored import PREFIX_BYTES
from broker.records import header_of, read_batch
from broker.state import Command, MalformedCommand, MoveBounds, RaiseLevel, commands, decode
from zablog.core.trail import Payload, extend_digest
from zablog.core.zxid import ZERO, Zxid
from zablog.storage.batch import BATCH_BYTES
from zablog.storage.disk import Disk
from zablog.storage.inspection import Inspection

VALUE_BYTES_MAX = 60
"""So much of a record's value is shown."""


def lines(log: Inspection, low: Zxid | None, high: Zxid | None, records: bool) -> Iterator[dict[str, object]]:
    """One object an entry. `batch` is the number of the batch that holds it, `offset` where its payload begins in the file.

    Raises zablog's Corrupt.
    """
    after = Zxid(low.epoch, low.counter - 1) if low is not None and low.counter else low or ZERO
    for seen in log.batches(after):
        if high is not None and seen.header.first > high:
            return
        offset = seen.offset + BATCH_BYTES + 4 * seen.header.entries
        zxid, digest = seen.header.prev
        for step, payload in enumerate(seen.entries.payloads):
            before, zxid = zxid, seen.entries.first.after(step)
            digest = extend_digest(digest, before, zxid, [payload])
            if (low is None or zxid >= low) and (high is None or zxid <= high):
                line: dict[str, object] = {"zxid": str(zxid), "file": seen.file.name, "batch": seen.header.sequence, "offset": offset}
                yield line | {"bytes": len(payload), "digest": f"{digest:016x}"} | words(payload, records)
            offset += len(payload)


def segment_lines(
    disk: Disk, topic: Zxid, partition: int | None, low: Zxid | None, high: Zxid | None, records: bool
) -> Iterator[dict[str, object]]:
    """One object a batch of a topic's segments, partition after partition. Raises Corrupt, with the place."""
    names = [name for name in segment_files(disk) if name.startswith(f"{topic}-")]
    for name in sorted(names, key=lambda name: (partition_of(name), base_offset_of(name))):
        if partition is not None and partition_of(name) != partition:
            continue
        at = 0
        try:
            for at, batch in stored_batches(disk, name):
                if (low is None or batch.zxid >= low) and (high is None or batch.zxid <= high):
                    line: dict[str, object] = {
                        "zxid": str(batch.zxid),
                        "file": name,
                        "offset": at,
                        "bytes": PREFIX_BYTES + len(batch.batch),
                    }
                    line |= {"partition": partition_of(name), "first": batch.base_offset, "records": records_in(batch.batch)}
                    yield line | {"time": batch.time} | ({"values": values_of(batch.batch)} if records else {})
                at += PREFIX_BYTES + len(batch.batch)
        except Corrupt as error:
            raise Corrupt(f"{name}, offset {at:,}: {error.message}", hint="zablog log verify DIR says whether that is damage") from error


def partition_of(name: str) -> int:
    return int(name.rsplit("-", 2)[1])


def words(payload: Payload, records: bool) -> dict[str, object]:
    """What a command says."""
    try:
        command: Command = decode(payload)
    except MalformedCommand as error:
        return {"command": "malformed", "what": str(error)}
    name = type(command).__name__
    match command:
        case commands.Produce(turn, time, parts):
            what = ", ".join(f"{records_in(part.batch)} to {part.topic}/{part.partition}" for part in parts)
            said: dict[str, object] = {
                "command": name,
                "producer": str(turn.producer),
                "sequence": turn.sequence,
                "time": time,
                "what": what,
            }
            if records:
                said["records"] = [value for part in parts for value in values_of(part.batch)]
            return said
        case commands.AllocateProducer() | MoveBounds() | RaiseLevel():
            return {"command": name, "time": command.time, "what": repr(command)}
        case _:
            said = {"command": name, "producer": str(command.turn.producer), "sequence": command.turn.sequence, "time": command.time}
            return said | {"what": getattr(command, "name", None) or str(getattr(command, "topic", getattr(command, "values", "")))}


def records_in(batch: Payload) -> str:
    try:
        return f"{header_of(batch).records} records"
    except Corrupt as error:
        return f"a batch that cannot be read ({error.message})"


def values_of(batch: Payload) -> list[str]:
    try:
        found = read_batch(batch, "", 0, 0, Zxid(0, 0))
    except Corrupt as error:
        return [error.message]
    return [repr(record.value[:VALUE_BYTES_MAX]) if record.value is not None else "null" for record in found]
