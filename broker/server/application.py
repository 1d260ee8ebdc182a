"""What a node does with committed commands: the replicated state, the partitions on disk, and answers for those who wait.

Who proposed a command here waits under its zxid. An answer leaves once the whole burst has been applied and written to the
segments, so whoever has a receipt can read the record. When this node's role changes, those who still wait are told that the
outcome is unknown here: the same request, sent again to the next leader, finds out.
"""

from collections.abc import Callable, Iterable

import trio

from broker.checkpoint import parts_of, read_snapshot, restored
from broker.errors import Corrupt
from broker.log import SEGMENT_BYTES_MAX, Log
from broker.log.behind import WriteBehind
from broker.log.warm import WARM_BYTES
from broker.server.checkpoint import BrokerCapture
from broker.server.retention import limits_of
from broker.state import LEVELS, Answer, LevelRaised, State, TopicCreated, UnknownCommand
from broker.state.levels import UnknownLevel, check
from zablog import Corrupt as Unusable
from zablog import Part, Status, Unsupported, Versions
from zablog.core.trail import Payload
from zablog.core.zxid import Zxid
from zablog.storage.disk import Disk

Waiter = Callable[[Answer | None], None]
"""Called once, with what became of the command, or None if this node will not learn it in time. Must not block or raise."""

Place = tuple[Zxid, int]
"""A partition: topic and number."""


class BrokerApplication:
    """`zablog.Application`. Everything happens on the event loop."""

    def __init__(
        self,
        open_disk: Callable[[], Disk],
        segment_bytes_max: int = SEGMENT_BYTES_MAX,
        warm_bytes: int = WARM_BYTES,
        levels: Versions = LEVELS,
    ) -> None:
        self.state = State()
        self.levels = levels
        """The feature levels that this build knows."""
        self._open_disk = open_disk
        self._segment_bytes_max = segment_bytes_max
        self._warm_bytes = warm_bytes
        self._disk: WriteBehind | None = None
        self._damaged: str | None = None
        self.capturing = False
        """A checkpoint is under way: what it captured is not captured anew."""
        self.syncing = trio.Lock()
        """Held by whoever makes segments durable or restores them: their files of rows have one writer."""
        self._log: Log | None = None
        self._waiting: dict[Zxid, Waiter] = {}
        self._settled: list[tuple[Waiter, Answer]] = []
        self._changed: set[Place] = set()
        """Partitions that the burst appended to, made or removed."""
        self._watching: dict[Place, set[trio.Event]] = {}
        self._generation = -1
        self.advanced: Callable[[], None] = lambda: None
        """Called when a burst has been applied, and when the role has changed. May propose; must not block or raise."""

    @property
    def files(self) -> Disk:
        """Where the segments lie. Opened at its first use: by then the node holds the lock on its directory."""
        if self._disk is None:
            self._disk = WriteBehind(self._open_disk())
        return self._disk

    def close(self) -> None:
        """The node is at its end, and nothing will be applied or read any more."""
        if self._disk is not None:
            self._disk.close()

    @property
    def failed(self) -> OSError | None:
        """Why segments cannot be written any more. The node must not go on: who reads is told what there is, and it is not there."""
        return None if self._disk is None else self._disk.failed

    @property
    def damaged(self) -> str | None:
        return self._damaged

    def report_damage(self, words: str) -> None:
        """Something was read and is not what was written."""
        self._damaged = words

    @property
    def restored(self) -> bool:
        """Is there a state? Not while a damaged one has yet to come from a peer."""
        return self._log is not None

    @property
    def log(self) -> Log:
        assert self._log is not None, "an application is restored before anything is applied"
        return self._log

    # -- for the node -------------------------------------------------------------------------------------------------------

    def apply(self, zxid: Zxid, payload: Payload) -> None:
        state, log = self.state, self.log
        try:
            outcome = state.apply(zxid, payload)
        except UnknownCommand as error:
            raise Unsupported(f"{error}, at {zxid}: install the version of zablog that the other nodes run") from error
        if isinstance(outcome.answer, LevelRaised):
            try:
                check(state.level, self.levels)
            except UnknownLevel as error:
                raise Unsupported(error.message) from error
        for topic, partition, base_offset, position, records, batch in outcome.appends:
            log.append(zxid, state.time, topic, partition, base_offset, position, records, batch, limits_of(state.topics[topic].retention))
            self._changed.add((topic, partition))
        for topic, partition, first in outcome.moved:
            log.move(topic, partition, first)
        if outcome.deleted is not None:
            log.delete_topic(outcome.deleted)
            self._changed.update(place for place in self._watching if place[0] == outcome.deleted)
        if isinstance(outcome.answer, TopicCreated):
            self._changed.update(place for place in self._watching if place[0] == zxid)
        waiter = self._waiting.pop(zxid, None)
        if waiter is not None:
            self._settled.append((waiter, outcome.answer))

    def applied(self, upto: Zxid) -> None:
        settled, self._settled = self._settled, []
        for waiter, answer in settled:  # first: what they wait for is in the log of a quorum, wherever our segments are
            waiter(answer)
        self.log.flush()
        if self._watching:
            for place in self._changed:
                for event in self._watching.get(place, ()):
                    event.set()
        self._changed.clear()
        self.advanced()

    def role_changed(self, status: Status) -> None:
        if status.generation != self._generation:
            self._generation = status.generation
            waiting, self._waiting = self._waiting, {}
            for waiter in waiting.values():
                waiter(None)
        self.advanced()

    # -- checkpoints --------------------------------------------------------------------------------------------------------

    def capture(self) -> BrokerCapture:
        self.capturing = True
        return BrokerCapture(self)

    def parts(self, raw: bytes) -> list[Part]:
        try:
            return parts_of(raw, self.levels)
        except UnknownLevel as error:
            raise Unsupported(error.message) from error
        except Corrupt as error:
            raise Unusable(error.message) from error

    async def restore(self, zxid: Zxid, raw: bytes | None) -> None:
        async with self.syncing:
            try:
                state, log = await trio.to_thread.run_sync(self._restored, zxid, raw)
            except UnknownLevel as error:
                raise Unsupported(error.message) from error
            except Corrupt as error:
                raise Unusable(error.message) from error
            self.state, self._log, self._damaged = state, log, None
            for events in self._watching.values():
                for event in events:
                    event.set()
            await trio.to_thread.run_sync(log.remove_others)

    def _restored(self, zxid: Zxid, raw: bytes | None) -> tuple[State, Log]:
        """Blocking: another state and log, beside those that are in use."""
        if raw is None:
            beginning = State()
            check(beginning.level, self.levels)
            return beginning, Log(self.files, self._segment_bytes_max, warm_bytes=self._warm_bytes)
        snapshot = read_snapshot(zxid, raw, self.levels)
        return snapshot.state, restored(self.files, snapshot, self._segment_bytes_max, self._warm_bytes)

    # -- for the handlers ---------------------------------------------------------------------------------------------------

    def wait_for(self, first: Zxid, waiters: Iterable[Waiter]) -> None:
        """These commands were proposed just now, the first of them under `first`."""
        for step, waiter in enumerate(waiters):
            self._waiting[first.after(step)] = waiter

    def watch(self, places: Iterable[Place], event: trio.Event) -> None:
        """Set `event` when something was appended to one of these partitions, or its topic made or deleted. See `unwatch`."""
        for place in places:
            self._watching.setdefault(place, set()).add(event)

    def unwatch(self, places: Iterable[Place], event: trio.Event) -> None:
        for place in places:
            events = self._watching.get(place)
            if events is not None:
                events.discard(event)
                if not events:
                    del self._watching[place]
