"""Who may change something next: each producer's commands are carried out in their order, each once.

A producer numbers its commands 1, 2, 3, …; only the next number is taken. A number that was taken before gets the answer it got
then, which is kept until the producer says (by `lowest_unanswered`) that it has it. Nothing expires by time: the two tables are
bounded by count, and the producer whose last command lies furthest back in the log goes first, on every node alike.

The tables hold immutable values, so a capture of them is a shallow copy.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from broker.errors import Code
from broker.state.commands import Turn
from broker.state.limits import Limits
from broker.state.outcomes import Answer, Outcome, Refused
from zablog.core.zxid import Zxid

ANSWERS_MAX: Final = 1 << 18
"""Answers kept for all producers together."""


class Producer(NamedTuple):
    """What is known of a producer."""

    epoch: int
    gaps: bool
    """May it skip sequences?"""
    sequence: int
    """The last one taken; 0 at first."""
    lowest: int
    """Answers below this are forgotten."""
    window: int
    """How far its sequence may run ahead of its lowest unanswered one: its commands in flight, and the answers kept for it."""
    used: Zxid
    """Its last command: its place in the order of eviction."""


@dataclass(slots=True)
class Producers:
    """The table of producers, in the order of their last commands, and the answers they may still ask for."""

    answers_max: int = ANSWERS_MAX
    rows: OrderedDict[Zxid, Producer] = field(default_factory=OrderedDict)
    answers: dict[tuple[Zxid, int], Answer] = field(default_factory=dict)

    def allocate(self, zxid: Zxid, gaps: bool, limits: Limits) -> None:
        """The limits of now are the producer's window for good. Who is here stays: only as many go as come."""
        assert zxid not in self.rows, "a zxid is the id of at most one producer: allocations are never merged into one proposal"
        most = max(limits.producers, len(self.rows))
        self.rows[zxid] = Producer(0, gaps, 0, 1, limits.producer_window, zxid)
        self._evict(most)

    def judge(self, turn: Turn) -> Outcome | None:
        """None: it is this turn's turn. Else what became of it, now or earlier, and nothing must change."""
        producer = self.rows.get(turn.producer)
        if producer is None:
            return _refused(Code.UNKNOWN_PRODUCER, f"producer {turn.producer} is not known (any longer)", maybe_written=True)
        if turn.epoch != producer.epoch:
            text = f"producer {turn.producer} has epoch {producer.epoch}, and this command comes from its epoch {turn.epoch}"
            return _refused(Code.STALE_PRODUCER, text, maybe_written=True)
        if turn.sequence <= producer.sequence:
            return self._stored(turn, producer)
        if turn.sequence != producer.sequence + 1 and not producer.gaps:
            text = f"producer {turn.producer}: sequence {turn.sequence} cannot come after {producer.sequence}"
            return _refused(Code.OUT_OF_SEQUENCE, text)
        if not turn.sequence - producer.window < turn.lowest_unanswered <= turn.sequence:
            text = (
                f"producer {turn.producer}: lowest unanswered {turn.lowest_unanswered} must be within the {producer.window} sequences "
                f"that end with {turn.sequence}"
            )
            return _refused(Code.OUT_OF_SEQUENCE, text)
        return None

    def take(self, zxid: Zxid, turn: Turn, answer: Answer) -> None:
        """The turn was judged to be next, and this is its answer."""
        who, _, sequence, lowest = turn
        epoch, gaps, last, forgotten, window, _ = self.rows[who]
        assert sequence > last, "a producer's sequences only grow"
        if lowest > forgotten:
            for each in range(forgotten, min(lowest, last + 1)):
                self.answers.pop((who, each), None)
            forgotten = lowest
        self.answers[who, sequence] = answer
        self.rows[who] = Producer(epoch, gaps, sequence, forgotten, window, zxid)
        self.rows.move_to_end(who)
        if len(self.answers) > self.answers_max:
            self._evict(len(self.rows))

    def _stored(self, turn: Turn, producer: Producer) -> Outcome:
        answer = self.answers.get((turn.producer, turn.sequence))
        if answer is not None:
            return Outcome(answer, duplicate=True)
        text = f"producer {turn.producer}: the answer to sequence {turn.sequence} is not kept (the last one taken is {producer.sequence})"
        return _refused(Code.OUT_OF_SEQUENCE, text, maybe_written=True)

    def _evict(self, producers_max: int) -> None:
        """Forget producers, the longest unused first, until both tables are within their bounds; the last one used stays."""
        while len(self.rows) > 1 and (len(self.rows) > producers_max or len(self.answers) > self.answers_max):
            who, producer = self.rows.popitem(last=False)
            for sequence in range(max(producer.lowest, producer.sequence - producer.window), producer.sequence + 1):
                self.answers.pop((who, sequence), None)


def _refused(code: Code, text: str, maybe_written: bool = False) -> Outcome:
    """A refusal that uses up no sequence and is not stored."""
    return Outcome(Refused(code, text, maybe_written))
