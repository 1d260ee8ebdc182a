"""The replicated state: committed commands in, outcomes out, the same on every node. Pure.

- `commands`: what is proposed, and its bytes.
- `outcomes`: what became of a command.
- `state`: the tables, and `apply`.
- `producers`: who may append what next, so that nothing is carried out twice.
"""

from broker.state.commands import Bound, Command, MalformedCommand, MoveBounds, Part, Retention, Turn, decode, encode
from broker.state.outcomes import (
    Answer,
    Append,
    Appended,
    BoundsMoved,
    Moved,
    Outcome,
    ProducerAllocated,
    Refused,
    TopicAltered,
    TopicCreated,
    TopicDeleted,
)
from broker.state.state import State, Topic, name_problem

__all__ = [
    "Answer",
    "Append",
    "Appended",
    "Bound",
    "BoundsMoved",
    "Command",
    "MalformedCommand",
    "MoveBounds",
    "Moved",
    "Outcome",
    "Part",
    "ProducerAllocated",
    "Refused",
    "Retention",
    "State",
    "Topic",
    "TopicAltered",
    "TopicCreated",
    "TopicDeleted",
    "Turn",
    "decode",
    "encode",
    "name_problem",
]
