"""What is left of a node after a crash now."""

from zablog.core.trail import Trail
from zablog.core.zxid import Epoch
from zablog.frozen import frozen


@frozen
class Image:
    """The promises and the log that are on its disk for certain."""

    accepted: Epoch
    current: Epoch
    trail: Trail
