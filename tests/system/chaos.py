"""Chaos: a live cluster of three real servers, clients at work, and faults of every kind one after the other, drawn from a seed.

    bin/chaos [--minutes 10] [--seed S] [--json] [--faults KIND,...] [--lying-sync] [--keep DIR]

Faults come from a deck that is shuffled again and again, so that each kind has its share. After each, a record that was sent behind it
must be acknowledged. In the end everything is healed, every replica is read, and the history goes to the checkers. Exit code 0 only with
no anomaly and with each kind injected as often as the minutes ask for. What needs root (file systems of the servers' own, whose power can
be cut; failing disks) is counted as skipped without it. With `--lying-sync` every sync is answered and not done: there must be loss.
"""

import argparse
import json
import os
import secrets
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

import trio

from broker.client import connect
from broker.errors import BrokerError
from tests.system.power import DRAIN_SECONDS, values_on
from tests.system.proxy import Way, one_way, split
from tests.system.rig import Cluster, leader_of, open_cluster
from tests.system.traffic import CLIENT_SECONDS, TOPICS, Traffic, judge, value_of

SERVICE_SECONDS = 30.0
"""A cluster that does not acknowledge a record so long after a fault has lost its service."""
PROBE_SECONDS = 0.1
ACKNOWLEDGED_FIRST = 200
"""Records, before the first fault: a loss must have something to lose."""
DECK = {
    "kill the leader": 6,
    "kill a follower": 2,
    "kill all": 1,
    "pause the leader": 2,
    "one-way drop": 1,
    "split": 1,
    "power cut": 1,
    "failing disk": 1,
}
"""How many of each kind one deck has."""
DECKS_PER_MINUTE = 0.5
"""So many at least: in ten minutes 30 leaders killed, 10 paused, 10 partitions, 5 power cuts."""


def lacking(kind: str) -> str | None:
    """Why this kind cannot be injected here."""
    tools = {"power cut": ("mkfs.ext4", "mount", "umount"), "failing disk": ("strace",)}.get(kind, ())
    if tools and os.geteuid() != 0:
        return "needs root"
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        return f"needs {', '.join(missing)}"
    return "needs loop devices" if kind == "power cut" and not os.path.exists("/dev/loop-control") else None


@dataclass
class Report:
    minutes: float
    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    skipped: dict[str, str] = field(default_factory=dict)
    wanted: dict[str, int] = field(default_factory=dict)
    service_seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """From a fault (where nobody could serve: from its end) to the acknowledgement of a record sent behind it."""
    anomalies: dict[str, list[str]] = field(default_factory=dict)
    figures: dict[str, int] = field(default_factory=dict)
    levels: dict[str, bool] = field(default_factory=dict)

    @property
    def too_few(self) -> dict[str, str]:
        return {kind: f"{self.faults[kind]} of {least}" for kind, least in self.wanted.items() if self.faults[kind] < least}

    @property
    def clean(self) -> bool:
        return not self.anomalies and not self.too_few

    def document(self) -> dict[str, object]:
        return {
            "minutes": self.minutes,
            "seed": self.seed,
            "faults": dict(self.faults),
            "skipped": self.skipped,
            "too_few": self.too_few,
            **self.figures,
            "levels": {level: "read" if offered else "not offered" for level, offered in self.levels.items()},
            "service_seconds": {
                kind: {"median": round(statistics.median(seconds), 2), "max": round(max(seconds), 2)}
                for kind, seconds in self.service_seconds.items()
            },
            "anomalies": self.anomalies,
        }

    def words(self) -> str:
        lines = [f"{'fault':<20}{'injected':>9}{'asked for':>11}{'service again after (median, worst)':>38}"]
        for kind in DECK:
            if kind in self.skipped:
                lines.append(f"{kind:<20}{'skipped':>9}   {self.skipped[kind]}")
            elif kind in self.wanted:
                seconds = self.service_seconds.get(kind)
                again = f"{statistics.median(seconds):.2f} s {max(seconds):.2f} s" if seconds else "-"
                lines.append(f"{kind:<20}{self.faults[kind]:>9}{self.wanted[kind]:>11}{again:>38}")
        lines += ["", ", ".join(f"{name.replace('_', ' ')} {number:,}" for name, number in self.figures.items())]
        lines += [
            f"reads of level {level}: not offered by this cluster, not checked" for level, offered in self.levels.items() if not offered
        ]
        lines += [f"ANOMALY {name}: {word}" for name, words in self.anomalies.items() for word in words]
        lines += [f"TOO FEW {kind}: {word}; give it more minutes" for kind, word in self.too_few.items()]
        return "\n".join([*lines, "", f"{sum(map(len, self.anomalies.values()))} anomalies"])


class NoService(Exception):
    """The cluster does not come back."""


class Chaos:
    """The cluster, the clients, and the faults."""

    def __init__(self, cluster: Cluster, report: Report) -> None:
        self.cluster = cluster
        self.servers = cluster.servers
        self.report = report
        self.dice = Random(report.seed)
        self.traffic = Traffic(cluster.addresses, report.seed)
        self.restarting: set[int] = set()
        self.began = time.monotonic()
        self.faults: dict[str, Callable[[], Awaitable[str]]] = {
            "kill the leader": self.kill_the_leader,
            "kill a follower": self.kill_a_follower,
            "kill all": self.kill_all,
            "pause the leader": self.pause_the_leader,
            "one-way drop": self.one_way_drop,
            "split": self.split,
            "power cut": self.power_cut,
            "failing disk": self.failing_disk,
        }
        """Each returns in words whom it struck, having called `struck` at the moment from which service is waited for."""

    # -- the run ------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        async with trio.open_nursery() as self.nursery:
            async with connect(self.cluster.addresses, timeout=CLIENT_SECONDS) as zl:
                for topic, partitions in TOPICS.items():
                    await zl.create_topic(topic, partitions)
            try:
                await self.torment()
            except* NoService as errors:
                await trio.to_thread.run_sync(self.look_at_what_is_left, list(words_of(errors)))
            self.nursery.cancel_scope.cancel()

    async def torment(self) -> None:
        """Faults until the time is over; then peace, and the judgement."""
        async with trio.open_nursery() as clients, connect(self.cluster.addresses, timeout=CLIENT_SECONDS) as zl, zl.producer() as out:
            self.zl, self.out, self.probes = zl, out, 0
            clients.start_soon(self.traffic.produce)
            clients.start_soon(self.traffic.read)
            await self.probe()
            while sum(sent.offsets is not None for sent in self.traffic.history.sent) < ACKNOWLEDGED_FIRST:
                await trio.sleep(PROBE_SECONDS)
            self.began = time.monotonic()
            deck: list[str] = []
            while time.monotonic() - self.began < 60 * self.report.minutes:
                if not deck:
                    deck = [kind for kind in self.report.wanted for _ in range(DECK[kind])]
                    self.dice.shuffle(deck)
                await self.strike(deck.pop())
                await trio.sleep(self.dice.uniform(0.2, 1.5))
            await self.all_run()
            await self.probe()
            self.report.figures["epochs"] = (await self.zl.node_status(await self.leader())).epoch
            self.traffic.stop_producing()
            behind = await self.traffic.finish()
            clients.cancel_scope.cancel()
        self.report.anomalies = await trio.to_thread.run_sync(judge, self.traffic.history)
        if behind:
            self.report.anomalies["unfinished"] = behind
        if damage := self.cluster.damage():
            self.report.anomalies["damage"] = damage
        self.count()

    async def strike(self, kind: str) -> None:
        """One fault, and the way back to service."""
        self.none_has_ended()
        self.since = trio.Event()
        seconds: list[float] = []

        async def watch() -> None:
            await self.since.wait()
            seconds.append(await self.probe())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            whom = await self.faults[kind]()
            self.struck()
            self.report.faults[kind] += 1
        self.report.service_seconds[kind].append(seconds[0])
        self.say(f"{kind} ({whom}): service after {seconds[0]:.2f} s")

    def struck(self) -> None:
        self.since.set()

    async def probe(self) -> float:
        """Seconds until a record sent now is acknowledged. Raises NoService."""
        self.probes += 1
        try:
            with trio.fail_after(SERVICE_SECONDS):
                return await self.traffic.probe(self.out, self.zl, self.probes)
        except (trio.TooSlowError, BrokerError) as error:
            raise NoService(f"no record is acknowledged within {SERVICE_SECONDS:g} s: {error!r}") from error

    async def leader(self) -> int:
        """The node that leads. Raises NoService."""
        with trio.move_on_after(SERVICE_SECONDS):
            return await leader_of(self.zl)
        raise NoService(f"nobody leads within {SERVICE_SECONDS:g} s")

    async def follower(self) -> int:
        """A node that runs and does not lead."""
        while True:
            leader = await self.leader()
            if found := [number for number in self.servers if number != leader and number not in self.restarting]:
                return self.dice.choice(found)
            await trio.sleep(PROBE_SECONDS)

    def none_has_ended(self) -> None:
        """A server that ended by itself is an anomaly. Raises NoService."""
        for number, server in self.servers.items():
            if server.process is not None and server.process.poll() is not None:
                raise NoService(f"node {number} ended by itself, with exit code {server.process.returncode}")

    async def all_run(self) -> None:
        while self.restarting:
            await trio.sleep(PROBE_SECONDS)

    def say(self, words: str) -> None:
        print(f"{time.monotonic() - self.began:7.1f} s  {words}", file=sys.stderr, flush=True)

    # -- faults -------------------------------------------------------------------------------------------------------------

    async def kill(self, number: int, seconds_dead: float) -> None:
        """kill -9; it starts again after a while, when the next fault may have struck already."""
        assert number not in self.restarting, "the law that only what runs is killed: a fault that strikes nobody is none"
        self.restarting.add(number)
        await trio.to_thread.run_sync(self.servers[number].end)

        async def restart() -> None:
            await trio.sleep(seconds_dead)
            self.servers[number].start()
            self.restarting.discard(number)

        self.nursery.start_soon(restart)

    async def kill_the_leader(self) -> str:
        leader = await self.leader()
        await self.kill(leader, self.dice.uniform(0, 3))
        return f"node {leader}"

    async def kill_a_follower(self) -> str:
        follower = await self.follower()
        await self.kill(follower, self.dice.uniform(0, 3))
        return f"node {follower}"

    async def kill_all(self) -> str:
        await self.all_run()
        for number in self.dice.sample(sorted(self.servers), 3):
            await self.kill(number, self.dice.uniform(0, 1))
        return "all three"

    async def pause_the_leader(self) -> str:
        await self.all_run()
        leader, seconds = await self.leader(), self.dice.uniform(1, 4)
        self.servers[leader].pause(True)
        self.struck()
        await trio.sleep(seconds)
        self.servers[leader].pause(False)
        return f"node {leader} for {seconds:.1f} s"

    async def one_way_drop(self) -> str:
        leader, follower = await self.leader(), await self.follower()
        sender, receiver = (leader, follower) if self.dice.random() < 0.5 else (follower, leader)
        return f"from node {sender} to node {receiver}, " + await self.partition(one_way(sender, receiver))

    async def split(self) -> str:
        leader = await self.leader()
        alone = leader if self.dice.random() < 0.7 else await self.follower()
        return f"node {alone}{' (leader)' if alone == leader else ''} alone, " + await self.partition(split(alone, self.servers))

    async def partition(self, ways: list[Way]) -> str:
        seconds, broken = self.dice.uniform(1, 5), self.dice.random() < 0.5
        self.cluster.proxies.cut(ways)
        self.struck()
        await trio.sleep(seconds)
        self.cluster.proxies.heal(broken)
        return f"{seconds:.1f} s, then {'connections break' if broken else 'what waited arrives'}"

    async def power_cut(self) -> str:
        """Of the whole cluster. What was acknowledged on the way is taken in first."""
        await self.all_run()
        for server in self.servers.values():
            server.pause(True)
        await trio.sleep(DRAIN_SECONDS)
        for server in self.servers.values():
            await trio.to_thread.run_sync(server.cut, self.dice.choice((1, 2)))
        for server in self.servers.values():
            await trio.to_thread.run_sync(server.attach)
            server.start()
        return "all three"

    async def failing_disk(self) -> str:
        """The next sync of one node fails; it stops in words, and is started again."""
        await self.all_run()
        leader = await self.leader()
        number = leader if self.dice.random() < 0.5 else await self.follower()
        process = self.servers[number].process
        assert process is not None, "all run"
        refused = ["-e", "inject=io_submit:error=EINVAL"]  # so that the next sync is one that the node waits for
        inject = ["-e", "trace=fdatasync,io_submit", "-e", "inject=fdatasync:error=EIO:when=1", *refused]
        tracing = ["strace", "-f", "-qq", "-o", os.devnull, *inject, "-p", str(process.pid)]
        async with trio.open_nursery() as nursery:
            tracer = await nursery.start(partial(trio.run_process, tracing, check=False))
            with trio.move_on_after(SERVICE_SECONDS):
                while process.poll() is None:
                    await trio.sleep(PROBE_SECONDS / 10)
            if process.returncode is None:
                tracer.kill()
        self.struck()
        if not process.returncode:
            raise NoService(f"node {number} did not stop with an error although its disk failed")
        await self.kill(number, self.dice.uniform(0, 2))
        return f"node {number}{' (leader)' if number == leader else ''}"

    # -- the end ------------------------------------------------------------------------------------------------------------

    def count(self) -> None:
        sent = self.traffic.history.sent
        self.report.figures |= {
            "sent": len(sent),
            "acknowledged": sum(each.offsets is not None for each in sent),
            "refused": sum(each.failed for each in sent),
            "unknown": sum(each.offsets is None and not each.failed for each in sent),
            "producers_killed": self.traffic.killed,
            "polls": len(self.traffic.history.reads),
            "records_polled": sum(len(read.values) for read in self.traffic.history.reads),
            "looked_for": len(self.traffic.history.looks),
        }
        self.report.levels = self.traffic.offered

    def look_at_what_is_left(self, errors: list[str]) -> None:
        """Nobody serves: what was acknowledged and is on no disk any more is lost, and the nodes have said so by not serving."""
        self.report.anomalies["no_service"] = errors
        left: set[int] = set()
        for server in self.servers.values():
            server.end()
            self.report.anomalies["no_service"].append(f"node {server.number}: {self.cluster.last_words(server.number)}")
            left |= {value_of(value) for value in values_on(server.mount / "data")}
        acknowledged = {value for sent in self.traffic.history.sent if sent.offsets is not None for value in sent.values}
        if lost := acknowledged - left:
            self.report.anomalies["lost_write"] = [f"{len(lost):,} of {len(acknowledged):,} acknowledged records are on no disk"]
        self.count()


def words_of(error: BaseException) -> Iterator[str]:
    """Each single error of a group."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from words_of(each)
    else:
        yield str(error)


def torment(folder: Path, minutes: float, seed: int, kinds: list[str] | None = None, lying: bool = False) -> Report:
    """So many minutes of these faults; what became of it. `folder` is where everything lies."""
    report = Report(minutes, seed)
    for kind in kinds or DECK:
        if reason := lacking(kind):
            report.skipped[kind] = reason
        else:
            report.wanted[kind] = max(1, int(minutes * DECKS_PER_MINUTE * DECK[kind]))

    async def run() -> None:
        async with open_cluster(folder, powered="power cut" in report.wanted, lying=lying) as cluster:
            await Chaos(cluster, report).run()

    trio.run(run)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="bin/chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="what the faults are drawn from; a new one if not said")
    parser.add_argument("--faults", metavar="KIND,...", help=f"only these: {', '.join(DECK)}")
    parser.add_argument("--lying-sync", action="store_true", help="answer every sync and do none: there must be loss")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave what the servers said there")
    parser.add_argument("--json", action="store_true")
    words = parser.parse_args()
    kinds = words.faults.split(",") if words.faults else None
    if strange := sorted(set(kinds or ()) - DECK.keys()):
        parser.error(f"--faults {strange[0]}: there are {', '.join(DECK)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the servers and their file systems must not outlive us
    seed = secrets.randbelow(1 << 32) if words.seed is None else words.seed
    print(f"seed {seed}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        report = torment(Path(folder), words.minutes, seed, kinds, words.lying_sync)
        if words.keep:
            words.keep.mkdir(parents=True, exist_ok=True)
            for log in Path(folder).glob("server*.log"):
                shutil.copy(log, words.keep)
    print(json.dumps(report.document()) if words.json else report.words())
    return 0 if report.clean else 1


if __name__ == "__main__":
    sys.exit(main())
