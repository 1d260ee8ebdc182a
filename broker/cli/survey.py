"""How a cluster is: every node asked for its status at once, and one picture made of the answers.

A node that does not answer stands in the picture without a role. The leader is who leads an established epoch by its own word;
if two say so, the one of the higher epoch is right and the other does not know yet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from broker.protocol import NodeStatus

ANSWER_SECONDS = 2.0
COLUMNS = ("id", "role", "address", "zxid", "lag", "pid")
"""What a person is shown of each node."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What was answered, by address; None where nobody did."""

    answers: Mapping[str, NodeStatus | None]

    @property
    def leader(self) -> NodeStatus | None:
        leading = [status for status in self.answers.values() if status and status.role == "leading" and status.phase == "broadcast"]
        return max(leading, key=lambda status: status.epoch, default=None)

    @property
    def settled(self) -> bool:
        """A leader serves, and every node that answers follows it."""
        leader = self.leader
        return leader is not None and all(
            status.leader == leader.id and status.phase == "broadcast" for status in self.answers.values() if status is not None
        )

    def document(self) -> dict[str, object]:
        """The object of `cluster status --json`."""
        leader, known = self.leader, next((status for status in self.answers.values() if status), None)
        rows = [self._row(address, status, leader) for address, status in self.answers.items()]
        rows.sort(key=lambda row: (row["id"] is None, row["id"]))
        return {
            "cluster": known.cluster if known else None,
            "leader": leader.id if leader else None,
            "epoch": leader.epoch if leader else None,
            "feature_level": max((status.level for status in self.answers.values() if status), default=None),
            "nodes": rows,
        }

    def _row(self, address: str, status: NodeStatus | None, leader: NodeStatus | None) -> dict[str, object]:
        if status is None:
            number = next((peer.id for other in self.answers.values() if other for peer in other.peers if peer.address == address), None)
            return {"id": number, "role": "unreachable", "address": address, "zxid": None, "lag": None, "pid": None, "feature_levels": None}
        lag: int | None = None
        if leader is not None and leader.last.epoch == status.applied.epoch:
            lag = max(0, leader.last.counter - status.applied.counter)
        role = (
            status.role if status.phase == "broadcast" else f"{status.role} ({status.phase})" if status.role != "looking" else status.role
        )
        return {
            "id": status.id,
            "role": role,
            "address": address,
            "zxid": str(status.last),
            "lag": lag,
            "pid": status.pid,
            "feature_levels": list(status.levels),
        }


async def survey(addresses: Sequence[str], seconds: float = ANSWER_SECONDS, cluster: str | None = None) -> Survey:
    """Ask every address, and every further one that the answers name; nodes of that cluster alone, if one is named."""
    import trio

    answers: dict[str, NodeStatus | None] = {}

    async def ask(address: str) -> None:
        answers[address] = await status_of(address, seconds, cluster)

    unasked = list(addresses)
    while unasked:
        async with trio.open_nursery() as nursery:
            for address in unasked:
                answers[address] = None
                nursery.start_soon(ask, address)
        unasked = sorted({peer.address for status in answers.values() if status for peer in status.peers} - answers.keys())
    return Survey(answers)


async def status_of(address: str, seconds: float = ANSWER_SECONDS, cluster: str | None = None) -> NodeStatus | None:
    """What one node says of itself; None if it does not, or is of another cluster than the one that is named."""
    import trio

    from broker.client.connection import open_connection
    from broker.errors import BrokerError
    from broker.protocol import Status

    try:
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                connection = await open_connection(nursery, address, cluster)
                answer = await connection.call(Status())
                connection.close("answered")
                nursery.cancel_scope.cancel()
                return answer if isinstance(answer, NodeStatus) else None
    except* (BrokerError, OSError):
        pass
    return None
