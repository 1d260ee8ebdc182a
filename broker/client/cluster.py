"""Where the nodes are, and which of them leads: found by asking all known addresses at once, as often as it takes.

A node is asked for metadata; the one that says it leads an established epoch is the leader, and the addresses that the others
mention are asked in the next round. Callers that look at the same time share one search. A search that finds nobody for as long
as the caller of `connect` allowed ends in NoQuorum, or in NoCluster if not a single node answered: nothing was sent then.
"""

import random
from collections.abc import Iterable
from functools import partial
from typing import Final

import trio

from broker.client.connection import Connection, open_connection
from broker.errors import (
    Attempt,
    BrokerError,
    Code,
    ConnectionLost,
    InternalError,
    NoCluster,
    NodeNotFound,
    NoQuorum,
    NotAllowed,
    TimedOut,
    error_of,
)
from broker.protocol import Applied, ClusterMetadata, Failed, Metadata, ReadIndex, ReadIndexed, Request, Response, WaitApplied
from zablog.core.zxid import ZERO, PeerId, Zxid

ROUND_SECONDS: Final = 2.0
"""How long one round of questions waits for nodes that do not answer, if none does."""
STRAGGLER_SECONDS: Final = 0.25
"""And once one has answered, without a leader to name: a node that hangs must not keep us from asking the others again. A search
that goes on waits half as long again each round, so that a leader who is far away is met in the end."""
PAUSE_SECONDS_MIN: Final = 0.01
PAUSE_SECONDS_MAX: Final = 0.4
"""The pause after a question that nobody could answer doubles from the one to the other."""
PAUSE_GROWTH: Final = 1.25
"""A search for the leader pauses less and less often, too, but never for more than a fourth of how long it has taken: a cluster that
starts or elects is met soon after it leads."""
ADDRESSES_MAX: Final = 64
READS_VERSION: Final = 2
"""The first version of the protocol with ReadIndex and WaitApplied."""
WAIT_MS: Final = 1_000
"""How long a node is asked to wait at once until it has applied something; then we look whether it comes closer."""
PASSING: Final = frozenset({Code.NOT_LEADING, Code.OUTCOME_UNKNOWN, Code.OVERLOADED})
"""Refusals after which the same request is sent again, to whoever leads then."""


class Cluster:
    """The addresses we know, a connection to each node we talk to, and the leader as far as we know."""

    def __init__(self, nursery: trio.Nursery, addresses: Iterable[str], timeout: float, dice: random.Random, id: str | None = None) -> None:
        self._nursery = nursery
        self._addresses = list(dict.fromkeys(addresses))
        self.timeout = timeout
        self._dice = dice
        self._connections: dict[str, Connection] = {}
        self._connecting: dict[str, trio.Lock] = {}
        self._leader: Connection | None = None
        self._searching = trio.Lock()
        self._attempts: dict[str, str] = {}
        self._answered = False
        self.seen = ZERO
        """See `saw`: a read of level session must not go behind it."""
        self._id = id
        """The cluster that is meant, or that answered first; nobody else is spoken to from then on."""

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(self._addresses)

    @property
    def known_leader(self) -> Connection | None:
        """The connection to the leader, if we know one and it is not lost."""
        return self._leader if self._leader is not None and not self._leader.lost.is_set() else None

    def not_leading(self, connection: Connection) -> None:
        """This node said that it does not lead: look again when a leader is needed."""
        if self._leader is connection:
            self._leader = None

    async def leader(self) -> Connection:
        """A connection to the leader. Raises NoQuorum or NoCluster after the time allowed."""
        if leader := self.known_leader:
            return leader
        async with self._searching:
            self._forget_attempts()
            with trio.move_on_after(self.timeout):
                pause, patience = PAUSE_SECONDS_MIN, STRAGGLER_SECONDS
                while not self.known_leader:
                    await self._ask_everyone(patience=patience)
                    patience = min(1.5 * patience, ROUND_SECONDS)
                    if not self.known_leader:
                        await trio.sleep(pause * self._dice.uniform(0.5, 1.0))
                        pause = min(PAUSE_GROWTH * pause, PAUSE_SECONDS_MAX)
            if leader := self.known_leader:
                return leader
        raise self._nobody()

    async def node(self, number: int) -> Connection:
        """A connection to this very node, leader or not. Raises NodeNotFound, NoCluster or, after the time allowed, ConnectionLost."""
        for connection in self._connections.values():
            if connection.node == number and not connection.lost.is_set():
                return connection
        members = {member.id: member.address for member in (await self.metadata()).nodes}
        if number not in members:
            raise NodeNotFound(f"the cluster has no node {number}; its nodes are {', '.join(map(str, sorted(members)))}")
        address = members[PeerId(number)]
        cause, pause = f"no connection within {self.timeout:g} s", PAUSE_SECONDS_MIN
        with trio.move_on_after(self.timeout):
            while True:
                try:
                    return await self.connect(address)
                except ConnectionLost as error:
                    cause = error.cause
                await trio.sleep(pause)
                pause = min(2 * pause, PAUSE_SECONDS_MAX)
        raise ConnectionLost(address, cause)

    async def ask(self, request: Request, at_least: Zxid = ZERO) -> Response:
        """The answer to something that may be asked twice, by the leader, once it has applied `at_least`.

        Raises what it is refused with, NoQuorum or NoCluster; and what `cover` raises.
        """
        pause = PAUSE_SECONDS_MIN
        with trio.move_on_after(self.timeout):
            while True:
                leader = await self.leader()
                try:
                    await self.cover(leader, at_least)
                    answer = await leader.call(request)
                except ConnectionLost as error:
                    self._attempts[leader.address] = error.cause
                    continue
                if not isinstance(answer, Failed):
                    return answer
                if answer.code not in PASSING:
                    raise error_of(answer.code, answer.text, hint=answer.hint or None, maybe_written=answer.maybe_written)
                self.passing(leader, answer)
                await trio.sleep(pause * self._dice.uniform(0.5, 1.0))
                pause = min(2 * pause, PAUSE_SECONDS_MAX)
        raise self._nobody()

    def saw(self, zxid: Zxid) -> None:
        """This client was told that what is there is committed, or has read it."""
        if zxid > self.seen:
            self.seen = zxid

    async def read_index(self) -> Zxid:
        """What a read on any node must have seen to see everything acknowledged before this call. Raises as `ask` does, and NotAllowed."""
        insist_on_levels(await self.leader())
        answer = await self.ask(ReadIndex())
        if not isinstance(answer, ReadIndexed):
            raise unexpected("ReadIndex", answer)
        return answer.upto

    async def current(self) -> Zxid:
        """For a lookup that must see whatever anybody was told before it: a leader that was deposed and does not know it yet would answer
        with what was. ZERO where the nodes' version cannot say. Raises as `ask` does."""
        leader = await self.leader()
        return await self.read_index() if leader.version >= READS_VERSION else ZERO

    async def cover(self, connection: Connection, zxid: Zxid) -> None:
        """Wait until this node has applied everything through `zxid`, as long as it comes closer.

        Raises WriteLost, TimedOut, NotAllowed, ConnectionLost.
        """
        applied, since = ZERO, trio.current_time()
        while zxid not in (ZERO, connection.covers):
            insist_on_levels(connection)
            answer = await connection.call(WaitApplied(zxid, min(WAIT_MS, int(1000 * self.timeout))))
            if isinstance(answer, Failed):
                raise error_of(answer.code, answer.text, hint=answer.hint or None)
            if not isinstance(answer, Applied):
                raise unexpected("WaitApplied", answer)
            if answer.zxid >= zxid:
                connection.covers = zxid
            elif answer.zxid > applied:
                applied, since = answer.zxid, trio.current_time()
            elif trio.current_time() >= since + self.timeout:
                words = f"node {connection.node} has applied {applied}, and does not come as far as {zxid}, which must be seen"
                raise TimedOut(words, hint="read another node; `zablog cluster status` shows how far each has come")

    async def confirm(self, leader: Connection) -> None:
        """Ask a node whether it still leads; if not, `known_leader` is forgotten."""
        try:
            answer = await leader.call(Metadata())
        except ConnectionLost:
            return
        if not isinstance(answer, ClusterMetadata) or answer.leader != leader.node:
            self.not_leading(leader)

    def passing(self, connection: Connection, failed: Failed) -> None:
        """A refusal that says more about the node's role than about the request: look for the leader again."""
        self._attempts[connection.address] = failed.text
        if failed.code == Code.NOT_LEADING:
            self._learn(failed.leader_address)
            self.not_leading(connection)

    async def metadata(self) -> ClusterMetadata:
        """What any one node says of the cluster, the leader if it can be reached at once."""
        self._forget_attempts()
        pause = PAUSE_SECONDS_MIN
        with trio.move_on_after(self.timeout):
            while True:
                answers: list[ClusterMetadata] = []
                await self._ask_everyone(answers)
                if answers:
                    return answers[-1]
                await trio.sleep(pause)
                pause = min(2 * pause, PAUSE_SECONDS_MAX)
        raise self._nobody()

    async def _ask_everyone(
        self, answers: list[ClusterMetadata] | None = None, *, patience: float = STRAGGLER_SECONDS, but: Connection | None = None
    ) -> None:
        """One round: ends with the leader, or when everybody (`but` one) has answered or had the time to."""
        for address in self._addresses:
            self._attempts.setdefault(address, "no answer")
        with trio.move_on_after(ROUND_SECONDS) as round_scope:
            async with trio.open_nursery() as nursery:
                for address in tuple(self._addresses):
                    if but is None or address != but.address:
                        nursery.start_soon(self._ask, address, answers, round_scope, patience)

    async def _in_doubt(self, silent: Connection) -> None:
        """A node says nothing. If it is our leader and another one leads by now, nothing more is waited for from this one."""
        if silent is self._leader:
            await self._ask_everyone(but=silent)
            if self._leader is not silent and self._leader is not None:
                silent.close(f"it says nothing, and node {self._leader.node} leads by now")

    async def _ask(self, address: str, answers: list[ClusterMetadata] | None, round_scope: trio.CancelScope, patience: float) -> None:
        try:
            connection = await self.connect(address)
            answer = await connection.call(Metadata())
        except ConnectionLost as error:
            self._attempts[address] = error.cause
            return
        if isinstance(answer, Failed):
            self._attempts[address] = answer.text
            return
        if not isinstance(answer, ClusterMetadata):
            self._attempts[address] = f"answered metadata with {type(answer).__name__}"
            return
        self._answered = True
        if answers is not None:
            answers.append(answer)
        for member in answer.nodes:
            self._learn(member.address)
        round_scope.deadline = min(round_scope.deadline, trio.current_time() + patience)
        if answer.leader == connection.node:
            self._leader = connection
            round_scope.cancel()
        elif answer.leader is None:
            self._attempts[address] = f"node {connection.node} knows no leader"
        else:
            self._attempts[address] = f"node {connection.node} follows node {answer.leader}"

    def _learn(self, address: str | None) -> None:
        if address and address not in self._addresses and len(self._addresses) < ADDRESSES_MAX:
            self._addresses.append(address)

    async def connect(self, address: str) -> Connection:
        async with self._connecting.setdefault(address, trio.Lock()):
            connection = self._connections.get(address)
            if connection is None or connection.lost.is_set():
                connection = await open_connection(self._nursery, address, self._id)
                connection.doubted = partial(self._in_doubt, connection)
                self._id = connection.cluster
                self._connections[address] = connection
            return connection

    def _forget_attempts(self) -> None:
        """A search begins. What one of its rounds has heard stands until another has heard: the last is cut short by the time."""
        self._attempts, self._answered = {}, False

    def _nobody(self) -> BrokerError:
        attempts = [Attempt(address, cause) for address, cause in self._attempts.items()]
        if self._answered:
            return NoQuorum(f"no leader with a quorum behind it within {self.timeout:g} s", attempts=attempts)
        return NoCluster(f"no node answered within {self.timeout:g} s", attempts=attempts)


def insist_on_levels(connection: Connection) -> None:
    """Raises NotAllowed if the node is of a build that knows no levels of reading."""
    if connection.version < READS_VERSION:
        words = f"node {connection.node} runs an earlier version, which knows local reads only"
        raise NotAllowed(words, hint='read="local" reads what it has applied')


def unexpected(question: str, answer: object) -> InternalError:
    """An answer of the wrong kind: the node is of another build, or broken."""
    return InternalError(f"{question} was answered with {type(answer).__name__}")
