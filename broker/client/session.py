"""A line of mutating requests that each take effect once, whatever happens to connections and leaders.

Every request carries the producer's id, the next sequence and the lowest sequence that is not answered yet; apply accepts only
the next one and answers a repeated one with its stored answer. So the session's whole art is to keep what is unanswered, in
order, and to send all of it again, in order, to whoever leads next. An attempt is one spell on one connection: what an
earlier attempt still answers is thrown away, because its requests have been sent again.

A request whose caller went away is sent again like the others: a sequence that was left out would stop all that follow. One
that was never sent can be withdrawn as long as it is the last.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from broker.client.cluster import Cluster
from broker.client.connection import Connection
from broker.errors import BrokerError, ConnectionLost, NoQuorum, OutcomeUnknown
from broker.protocol import Request, Response

IN_FLIGHT_MAX: Final = 8
"""How many requests of one session may be unanswered; below the window that apply keeps answers for."""

Build = Callable[["Ticket"], Request]
Done = Callable[[Response | BrokerError], None]


@dataclass(slots=True)
class _Unanswered:
    sequence: int
    build: Build
    done: Done | None
    """None: its caller has been told, or went away."""
    sent: bool = False
