"""The replicated state: committed commands in, outcomes out, the same on every node. Pure.

- `commands`: what is proposed, and its bytes.
- `outcomes`: what became of a command.
- `state`: the tables, and `apply`.
- `producers`: who may append what next, so that nothing is carried out twice.
- `limits`: how much of everything there may be.
- `levels`: which builds can apply the log.
"""

from broker.state.commands import (
    Bound,
    Command,
    MalformedCommand,
    MoveBounds,
    Part,
    RaiseLevel,
    Retention,
    Turn,
    UnknownCommand,
    decode,
    encode,
)
from broker.state.levels import LEVELS
from broker.state.limits import Limits
from broker.state.outcomes import (
    Answer,
    Append,
    Appended,
    BoundsMoved,
    LevelRaised,
    LimitsSet,
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
    "LEVELS",
    "Answer",
    "Append",
    "Appended",
    "Bound",
    "BoundsMoved",
    "Command",
    "LevelRaised",
    "Limits",
    "LimitsSet",
    "MalformedCommand",
    "MoveBounds",
    "Moved",
    "Outcome",
    "Part",
    "ProducerAllocated",
    "RaiseLevel",
    "Refused",
    "Retention",
    "State",
    "Topic",
    "TopicAltered",
    "TopicCreated",
    "TopicDeleted",
    "Turn",
    "UnknownCommand",
    "decode",
    "encode",
    "name_problem",
]
