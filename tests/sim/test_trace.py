"""A trace reads like the paper: one line an event, and nothing about it changes the run."""

from zablog.sim import Options, run

QUIET = Options(nodes=3, events=400, seconds=60.0, proposals_per_second=20)


def traced(seed: int, options: Options) -> tuple[list[str], str, int]:
    lines: list[str] = []
    report = run(seed, options, tell=lines.append)
    assert report.failures == []
    return lines, report.hash, report.events


def test_a_trace_has_a_line_for_each_event() -> None:
    lines, _, events = traced(1, Options(nodes=3, events=2_000, seconds=60.0, faults={"crash": 1.0, "ambush": 1.0, "partition": 0.5}))

    assert len(lines) >= events


def test_a_trace_tells_the_phases_in_their_order() -> None:
    lines, _, _ = traced(1, QUIET)

    story = ["VOTE(", "CEPOCH(", "NEWEPOCH(", "ACK-E(", "DIFF(", "NEWLEADER(", "ACK-LD(", "COMMIT-LD(", "PROPOSE(", "ACK(", "COMMIT("]
    places = [next(at for at, line in enumerate(lines) if f"  {word}" in line) for word in story]
    assert places == sorted(places)


def test_who_listens_to_a_run_does_not_change_it() -> None:
    _, hash, events = traced(3, QUIET)

    silent = run(3, QUIET)

    assert (silent.hash, silent.events) == (hash, events)
