"""What the client knows of topics: names to ids and numbers of partitions, asked of the leader once and remembered;
and of the cluster's limits, which come along.

A topic's id never changes its meaning, so an outdated row can only lead to a refusal; whoever gets one calls `forget` and asks again.
"""

from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from broker.client.cluster import Cluster, unexpected
from broker.errors import BadName, TopicNotFound
from broker.protocol import ClusterMetadata, Metadata, TopicEntry
from broker.protocol.codec import ROWS_MAX
from broker.state.limits import DEFAULTS, limits_of
from broker.state.state import name_problem
from zablog.core.zxid import ZERO, Zxid

Row = TypeVar("Row")


def check_name(name: str) -> None:
    """Raises BadName."""
    problem = name_problem(name) if isinstance(name, str) else f"a topic's name must be text, not {type(name).__name__}"
    if problem is not None:
        raise BadName(problem)


class Topics:
    __slots__ = ("_cluster", "_known", "known", "limits")

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._known: dict[str, TopicEntry] = {}
        self.known: Final = self._known.get
        """The topic if it has been asked for before."""
        self.limits = DEFAULTS
        """What the cluster takes, as its leader last said."""

    def forget(self, name: str) -> None:
        self._known.pop(name, None)

    async def find(self, name: str) -> TopicEntry:
        """The topic, asked of the leader if need be. Raises TopicNotFound."""
        return self._known.get(name) or await self.ask(name)

    async def ask(self, name: str, at_least: Zxid = ZERO) -> TopicEntry:
        """The topic as it is now, on a leader that has applied `at_least`, too. Raises TopicNotFound, BadName; and see `Cluster.cover`."""
        check_name(name)
        self.forget(name)
        for entry in await self.list((name,), at_least):
            if entry.name == name:
                return entry
        raise TopicNotFound(f"there is no topic {name!r}", hint=f"create it with `zablog topic create {name}`")

    async def list(self, names: tuple[str, ...] | None = None, at_least: Zxid = ZERO) -> tuple[TopicEntry, ...]:
        """These topics, or all of them, as far as they exist: at least as they were when this was called."""
        answer = await self._cluster.ask(Metadata(names), max(at_least, await self._cluster.current()))
        if not isinstance(answer, ClusterMetadata):
            raise unexpected("Metadata", answer)
        self.limits = limits_of(answer.limits)
        for entry in answer.topics:
            self._known[entry.name] = entry
        return answer.topics


def chunks(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """As many at once as one request asks about."""
    for begin in range(0, len(rows), ROWS_MAX):
        yield rows[begin : begin + ROWS_MAX]
