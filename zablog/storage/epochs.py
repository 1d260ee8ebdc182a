"""acceptedEpoch, currentEpoch and the suspect mark: what this node promised. In two copies; see `copies`."""

import struct
from typing import NamedTuple

from zablog.core.zxid import Epoch, Zxid
from zablog.storage.copies import Copies
from zablog.storage.disk import Disk

RECORD = struct.Struct(">II?IQ")  # accepted, current, is there a suspect range, its end


class Epochs(NamedTuple):
    """`suspect` is the last zxid of a range that a damaged batch may have held, until the ensemble has said what was in it."""

    accepted: Epoch
    current: Epoch
    suspect: Zxid | None


BIRTH = Epochs(Epoch(0), Epoch(0), None)


class EpochsFile:
    """The record `epochs`."""

    def __init__(self, disk: Disk) -> None:
        self.copies = Copies(disk, "epochs", lambda body: len(body) == RECORD.size)

    def give_birth(self) -> None:
        self.copies.give_birth(self.encode(BIRTH))

    def encode(self, epochs: Epochs) -> bytes:
        end = epochs.suspect or Zxid(0, 0)
        return RECORD.pack(epochs.accepted, epochs.current, epochs.suspect is not None, end.epoch, end.counter)

    def save(self, epochs: Epochs) -> None:
        self.copies.save(self.encode(epochs))

    def load(self) -> Epochs:
        accepted, current, suspected, epoch, counter = RECORD.unpack(self.copies.load())
        return Epochs(Epoch(accepted), Epoch(current), Zxid(epoch, counter) if suspected else None)
