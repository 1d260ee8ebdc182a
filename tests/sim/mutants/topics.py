"""Broken topics: what the replicated state makes of commands that come twice, too early, or in parts."""

import pytest

from broker.errors import Code
from broker.state.outcomes import Appended, Outcome, Refused
from broker.state.producers import Producers
from broker.state.state import State
from tests.sim.mutants.mutant import mutant, topic


@mutant("§7 idempotent retry", "duplicate", arena=topic)
def commands_carried_out_twice(patch: pytest.MonkeyPatch) -> None:
    """a command that a producer has sent twice is carried out twice"""
    judge, take = Producers.judge, Producers.take

    def judged(self: Producers, turn) -> Outcome | None:
        settled = judge(self, turn)
        return None if settled is not None and settled.duplicate else settled

    def taken(self: Producers, zxid, turn, answer) -> None:
        if turn.sequence > self.rows[turn.producer].sequence:
            take(self, zxid, turn, answer)

    patch.setattr(Producers, "judge", judged)
    patch.setattr(Producers, "take", taken)


@mutant("§7 idempotent retry", "inconsistent_offset", arena=topic)
def duplicates_get_another_answer(patch: pytest.MonkeyPatch) -> None:
    """a command that came twice is answered with where the log ends now"""
    original = Producers.judge

    def judge(self: Producers, turn) -> Outcome | None:
        settled = original(self, turn)
        if settled is not None and settled.duplicate and isinstance(settled.answer, Appended):
            return settled._replace(answer=settled.answer._replace(offsets=tuple(offset + 1 for offset in settled.answer.offsets)))
        return settled

    patch.setattr(Producers, "judge", judge)


@mutant("§7 idempotent retry", "lost_write", arena=topic)
def gaps_taken_from_everybody(patch: pytest.MonkeyPatch) -> None:
    """a command that overtook another is carried out, and the other then taken for a duplicate that succeeded"""
    original = Producers.judge

    def judge(self: Producers, turn) -> Outcome | None:
        producer = self.rows[turn.producer]
        settled = original(self, turn)
        if settled is None or turn.sequence > producer.sequence:
            return None
        return settled if settled.duplicate else Outcome(Appended(producer.used, (0,) * 3), duplicate=True)

    patch.setattr(Producers, "judge", judge)


@mutant("commands are evaluated at apply", "nonmonotonic_send", arena=topic)
def sequences_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    """commands of one producer are carried out in whatever order they come"""

    def judge(self: Producers, turn) -> Outcome | None:
        answer = self.answers.get((turn.producer, turn.sequence))
        return Outcome(answer, duplicate=True) if answer is not None else None

    def take(self: Producers, zxid, turn, answer) -> None:
        self.answers[turn.producer, turn.sequence] = answer

    patch.setattr(Producers, "judge", judge)
    patch.setattr(Producers, "take", take)


@mutant("offsets are given out at apply", "lost_write", arena=topic)
def offsets_given_out_twice(patch: pytest.MonkeyPatch) -> None:
    """of two parts for one partition in one command, both get the same offset"""
    original = State._produce

    def produce(self: State, zxid, command) -> Outcome:
        outcome = original(self, zxid, command)
        if not outcome.appends:
            return outcome
        first: dict = {}
        appends = [append._replace(base_offset=first.setdefault(append.partition, append.base_offset)) for append in outcome.appends]
        return outcome._replace(answer=Appended(zxid, tuple(append.base_offset for append in appends)), appends=appends)

    patch.setattr(State, "_produce", produce)


@mutant("offsets are given out at apply", "inconsistent_offset", arena=topic)
def offsets_acknowledged_before_they_are_given_out(patch: pytest.MonkeyPatch) -> None:
    """the answer names the end of the partition, not where the records went"""
    original = State._produce

    def produce(self: State, zxid, command) -> Outcome:
        outcome = original(self, zxid, command)
        if isinstance(outcome.answer, Appended):
            ends = tuple(self.ends[append.topic, append.partition] for append in outcome.appends)
            return outcome._replace(answer=Appended(zxid, ends))
        return outcome

    patch.setattr(State, "_produce", produce)


@mutant("all parts or none", "aborted_read", arena=topic)
def parts_written_before_all_are_checked(patch: pytest.MonkeyPatch) -> None:
    """a command with one bad part is refused, and the parts before it are there"""
    original = State._produce

    def produce(self: State, zxid, command) -> Outcome:
        outcome = original(self, zxid, command)
        if isinstance(outcome.answer, Refused):
            good = [part for part in command.parts if (part.topic, part.partition) in self.ends]
            written = original(self, zxid, command._replace(parts=good)) if good else outcome
            return outcome._replace(appends=written.appends)
        return outcome

    patch.setattr(State, "_produce", produce)


@mutant("all parts or none", "torn", arena=topic)
def bad_parts_left_out(patch: pytest.MonkeyPatch) -> None:
    """a command with one bad part is acknowledged without it"""
    original = State._produce

    def produce(self: State, zxid, command) -> Outcome:
        good = [part for part in command.parts if (part.topic, part.partition) in self.ends]
        return original(self, zxid, command._replace(parts=good)) if good else original(self, zxid, command)

    patch.setattr(State, "_produce", produce)


@mutant("apply is a function of the log", "replica_divergence", arena=topic)
def outcome_hangs_on_something_else(patch: pytest.MonkeyPatch) -> None:
    """now and then a replica refuses what the others carry out, because it is short of something"""
    original, applied = State._produce, [0]

    def produce(self: State, zxid, command) -> Outcome:
        applied[0] += 1
        return Outcome(Refused(Code.LIMIT_REACHED, "memory")) if applied[0] % 37 == 0 else original(self, zxid, command)

    patch.setattr(State, "_produce", produce)


@mutant("snapshots hold the whole state", "replica_divergence", arena=topic)
def producers_missing_from_the_snapshot(patch: pytest.MonkeyPatch) -> None:
    """a state that was captured and read back has forgotten what its producers have been answered"""
    patch.setattr(Producers, "__deepcopy__", lambda self, memo: Producers(rows=type(self.rows)(self.rows)), raising=False)
