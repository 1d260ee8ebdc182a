"""Requests that change something: checked, timed, proposed, and answered when they have been applied.

Whoever reads a connection gathers the writes of one burst here and proposes them together. What the checks find wrong is not a
refusal but a broken client (or broken bytes): a refusal would have to use up the request's sequence, which only apply can do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from broker.errors import Code, Corrupt
from broker.protocol import (
    AllocateProducer,
    AlterTopic,
    CreateTopic,
    DeleteTopic,
    Failed,
    Level,
    LimitsSet,
    Produce,
    Produced,
    ProducerAllocated,
    Response,
    SetLimits,
    TopicAltered,
    TopicCreated,
    TopicDeleted,
)
from broker.records import verify
from broker.server.application import BrokerApplication
from broker.server.clock import LeaderClock
from broker.state import Answer, Appended, Command, Refused, commands, encode, outcomes
from zablog import Full, Node, NodeStopped, NotLeading

Write = AllocateProducer | CreateTopic | AlterTopic | DeleteTopic | SetLimits | Produce
Reply = Callable[[Response], None]


class BadWrite(Exception):
    """What no client of ours sends: the connection is of no more use. The words are for its error frame."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A command to be, and who waits for it."""

    command: bytes
    reply: Reply

    def waiter(self, answer: Answer | None) -> None:
        self.reply(response_to(answer))


class Writes:
    """One for the node; `propose` keeps the order of the proposals of one caller."""

    def __init__(self, node: Node, application: BrokerApplication, clock: LeaderClock) -> None:
        self._node = node
        self._application = application
        self._clock = clock

    def prepare(self, request: Write, reply: Reply) -> Proposal | None:
        """The proposal that a request comes to; None if it was refused at once (which uses up no sequence). Raises BadWrite."""
        time = self._clock.now(self._application.state.time)
        match request:
            case Produce(turn, level, parts):
                if level is not Level.QUORUM:
                    reply(Failed(Code.NOT_ALLOWED, f"level {level.name.lower()} is not offered yet: only quorum is"))
                    return None
                for part in parts:
                    try:
                        verify(part.batch)
                    except Corrupt as error:
                        raise BadWrite(error.message) from error
                command: Command = commands.Produce(turn, time, parts)
            case CreateTopic(turn, name, partitions, retention):
                command = commands.CreateTopic(turn, time, name, partitions, retention)
            case AlterTopic(turn, topic, retention):
                command = commands.AlterTopic(turn, time, topic, retention)
            case DeleteTopic(turn, topic):
                command = commands.DeleteTopic(turn, time, topic)
            case SetLimits(turn, values):
                command = commands.SetLimits(turn, time, values)
            case AllocateProducer(gaps):
                command = commands.AllocateProducer(time, gaps)
        payload = encode(command)
        if len(payload) > commands.COMMAND_BYTES_MAX:
            raise BadWrite(f"a command of {len(payload):,} bytes: at most {commands.COMMAND_BYTES_MAX:,} are taken")
        return Proposal(payload, reply)

    async def propose(self, proposals: Sequence[Proposal]) -> None:
        """Put them into the log in this order, waiting for room. If this node does not lead, everybody who is left is told so."""
        size = len(proposals)
        while proposals:
            some = proposals[:size]
            try:
                first = self._node.propose_nowait([proposal.command for proposal in some])
            except Full:
                if size == 1:
                    await self._node.changed()
                size = max(1, size // 2)
            except NotLeading as error:
                failed = Failed(Code.NOT_LEADING, str(error), leader=error.leader, leader_address=error.address)
                for proposal in proposals:
                    proposal.reply(failed)
                return
            except NodeStopped:  # whoever ended the node has said why
                for proposal in proposals:
                    proposal.waiter(None)
                return
            else:
                self._application.wait_for(first, [proposal.waiter for proposal in some])
                proposals = proposals[size:]
                size = len(proposals)


def response_to(answer: Answer | None) -> Response:
    """What became of a command, in the words of the protocol."""
    match answer:
        case Appended(zxid, offsets):
            return Produced(Level.QUORUM, zxid, offsets)
        case outcomes.TopicCreated(topic):
            return TopicCreated(topic)
        case outcomes.TopicAltered(topic):
            return TopicAltered(topic)
        case outcomes.LimitsSet():
            return LimitsSet()
        case outcomes.BoundsMoved() | outcomes.LevelRaised():
            raise AssertionError("the law that nobody waits for what the leader itself proposed")
        case outcomes.TopicDeleted(topic):
            return TopicDeleted(topic)
        case outcomes.ProducerAllocated(producer):
            return ProducerAllocated(producer)
        case Refused(code, text, maybe_written):
            return Failed(code, text, maybe_written=maybe_written)
        case None:
            text = "this node lost its leadership before it learned what became of the request"
            return Failed(Code.OUTCOME_UNKNOWN, text, maybe_written=True)
