"""Leader time never decreases, whatever the wall clock does."""

from broker.server.clock import LeaderClock


class Hands:
    wall = 1000.0
    monotonic = 0.0

    def forward(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


def clock(hands: Hands) -> LeaderClock:
    return LeaderClock(lambda: hands.wall, lambda: hands.monotonic)


def test_it_shows_the_wall_clock() -> None:
    hands = Hands()
    leader = clock(hands)

    assert leader.now(0) == 1_000_000
    hands.forward(2.5)
    assert leader.now(0) == 1_002_500


def test_it_begins_at_the_last_time_in_the_log_and_lets_the_wall_clock_catch_up() -> None:
    hands = Hands()
    leader = clock(hands)

    assert leader.now(1_010_000) == 1_010_000
    hands.forward(4)
    assert leader.now(0) == 1_012_000
    hands.forward(100)
    assert leader.now(0) == 1_104_000


def test_a_wall_clock_that_is_set_back_does_not_set_it_back() -> None:
    hands = Hands()
    leader = clock(hands)
    before = leader.now(0)

    hands.wall -= 500
    hands.monotonic += 1

    assert leader.now(0) == before + 500
