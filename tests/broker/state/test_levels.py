"""The feature level rises by a command and never falls; what a build does not know stops it before anything is changed."""

import pytest

from broker.state import LevelRaised, Outcome, State, UnknownCommand, encode
from broker.state.commands import RaiseLevel
from broker.state.levels import LEVELS, UnknownLevel, check
from zablog import Versions
from zablog.core.zxid import Zxid


def test_the_level_rises_and_never_falls():
    state = State()

    outcomes = [state.apply(Zxid(1, at), encode(RaiseLevel(1, level))) for at, level in enumerate((2, 1, 2, 5), 1)]

    assert outcomes == [Outcome(LevelRaised())] * 4
    assert state.level == 5


@pytest.mark.parametrize("payload", [b"\x7f\x01", b"\x10\x02 another version of a command that is known", b"\x00\x00"])
def test_a_command_of_a_later_version_is_not_skipped(payload):
    state = State()
    before = state.digest()

    with pytest.raises(UnknownCommand, match=f"kind {payload[0]}, version {payload[1]}, which this version of zablog does not know"):
        state.apply(Zxid(1, 1), payload)

    assert state.digest() == before


def test_a_build_says_what_is_to_be_installed():
    check(1, LEVELS)
    check(3, Versions(2, 3))
    with pytest.raises(UnknownLevel, match=r"level 4, and this version of zablog knows 2 to 3: install the version .* the other nodes run"):
        check(4, Versions(2, 3))
    with pytest.raises(UnknownLevel, match="level 1, and this version of zablog knows 2 to 3: install a version that knows level 1 first"):
        check(1, Versions(2, 3))
