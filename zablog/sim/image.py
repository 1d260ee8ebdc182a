"""What is left of a node after a crash now."""

from dataclasses import dataclass

from zablog.core.trail import Trail
from zablog.core.zxid import Epoch


@dataclass(frozen=True, slots=True)
class Image:
    """The promises and the log that are on its disk for certain."""

    accepted: Epoch
    current: Epoch
    trail: Trail
