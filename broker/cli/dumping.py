"""The entries of a log as lines for a person, or as objects for a program."""

from collections.abc import Iterator

from broker.errors import Corrupt
from broker.inspection import Directory
from broker.records import header_of, read_batch
from broker.state import Command, MalformedCommand, MoveBounds, commands, decode
from zablog.core.trail import Payload
from zablog.core.zxid import Zxid

VALUE_BYTES_MAX = 60
"""So much of a record's value is shown."""


def lines(found: Directory, low: Zxid | None, high: Zxid | None, records: bool) -> Iterator[dict[str, object]]:
    """One object an entry. Raises zablog's Corrupt."""
    for seen in found.log.batches():
        for step, payload in enumerate(seen.entries.payloads):
            zxid = seen.entries.first.after(step)
            if (low is None or zxid >= low) and (high is None or zxid <= high):
                line: dict[str, object] = {"zxid": str(zxid), "file": seen.file.name, "offset": seen.offset, "bytes": len(payload)}
                yield line | words(payload, records)


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
        case commands.AllocateProducer() | MoveBounds():
            return {"command": name, "time": command.time, "what": repr(command)}
        case _:
            said = {"command": name, "producer": str(command.turn.producer), "sequence": command.turn.sequence, "time": command.time}
            return said | {"what": getattr(command, "name", None) or str(getattr(command, "topic", ""))}


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
