"""Requests that change something: checked, timed, proposed, and answered when they have been applied.

Whoever reads a connection hands over the writes of one burst here. While a few proposals are under way, what little comes meanwhile is
gathered, from all connections, and proposed together: a proposal costs every node far more than one more entry in it. What the
checks find wrong is not a refusal but a broken client (or broken bytes): a refusal would have to use up the request's sequence, which
only apply can do.
"""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import trio

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
from zablog.core.zxid import Zxid

UNDER_WAY_FEW: Final = 4
"""With fewer proposals of ours not yet applied, whatever comes is proposed at once: a lone record never waits for others."""
WORTH_BYTES: Final = 64 << 10
"""And so is what holds so much: larger proposals would not be cheaper."""
PROPOSED_BYTES: Final = 1 << 20
"""One call to the node takes no more commands once it holds so much."""
GATHERED_BYTES_MAX: Final = 64 << 20
"""With so much waiting for room in the log, no connection that brings more is read any further."""

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
    """One for the node; `run` must run in a task of its own. The proposals of one caller keep their order."""

    def __init__(self, node: Node, application: BrokerApplication, clock: LeaderClock) -> None:
        self._node = node
        self._application = application
        self._clock = clock
        self._gathered: deque[Proposal] = deque()
        self._gathered_bytes = 0
        self._under_way: deque[Zxid] = deque()
        """The last zxid of each of our proposals that was not applied when we looked."""
        self._crowded = trio.Event()
        """The log had no room."""
        self._room = trio.lowlevel.ParkingLot()
        application.advanced = self._go_on

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
        """Put them into the log in this order, behind what others have handed over; waits while too much is waiting there."""
        if not proposals:
            return
        self._gathered.extend(proposals)
        self._gathered_bytes += sum([len(proposal.command) for proposal in proposals])
        self._go_on()
        while self._gathered_bytes > GATHERED_BYTES_MAX:
            await self._room.park()

    async def run(self) -> None:
        """For ever: where there was no room, look again whenever something has happened. A disk that has caught up is no applied entry."""
        with suppress(NodeStopped):
            while True:
                await self._crowded.wait()
                await self._node.changed()
                self._crowded = trio.Event()
                self._go_on()

    def _go_on(self) -> None:
        """Something came, was applied, or the role changed: propose what is worth it, as far as there is room."""
        applied = self._application.state.applied
        while self._under_way and (self._under_way[0] <= applied or not self._node.leads):
            self._under_way.popleft()
        try:
            while self._gathered and (len(self._under_way) < UNDER_WAY_FEW or self._gathered_bytes >= WORTH_BYTES):
                self._propose_some()
        except Full:
            self._crowded.set()
        except NotLeading as error:
            failed = Failed(Code.NOT_LEADING, str(error), leader=error.leader, leader_address=error.address)
            while self._gathered:
                self._taken(1)[0].reply(failed)
        except NodeStopped:  # whoever ended the node has said why
            for proposal in self._taken(len(self._gathered)):
                proposal.waiter(None)

    def _propose_some(self) -> None:
        """One call to the node. Raises Full if not even one proposal fits; NotLeading, NodeStopped."""
        count = size = 0
        for proposal in self._gathered:
            size += len(proposal.command)
            if count and size > PROPOSED_BYTES:
                break
            count += 1
        while True:
            some = self._taken(count)
            try:
                first = self._node.propose_nowait([proposal.command for proposal in some])
                break
            except BaseException as error:
                self._gathered.extendleft(reversed(some))
                self._gathered_bytes += sum([len(proposal.command) for proposal in some])
                if count == 1 or not isinstance(error, Full):
                    raise
                count //= 2
        self._under_way.append(first.after(count - 1))
        self._application.wait_for(first, [proposal.waiter for proposal in some])

    def _taken(self, count: int) -> list[Proposal]:
        """The first ones, which wait no longer."""
        taken = [self._gathered.popleft() for _ in range(count)]
        self._gathered_bytes -= sum([len(proposal.command) for proposal in taken])
        if self._room:
            self._room.unpark_all()
        return taken


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
