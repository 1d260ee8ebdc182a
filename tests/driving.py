"""A peer on a bench: events go in by hand, effects come out as lists to compare."""

from collections.abc import Sequence
from dataclasses import replace

from zablog.core.effects import Append, Effect, Install, SaveEpochs, Send, Truncate
from zablog.core.events import Durable, Event, Link, LinkDown, LinkUp, Proposals, Received, Tick
from zablog.core.messages import (
    AckEpoch,
    AckNewLeader,
    CEpoch,
    Diff,
    Message,
    NewEpoch,
    NewLeader,
    Notification,
    Standing,
    UpToDate,
    Vote,
)
from zablog.core.peer import Peer
from zablog.core.quorum import Configuration
from zablog.core.state import Limits, Timing
from zablog.core.trail import Entries, Mark, Trail, extend_digest
from zablog.core.zxid import ZERO, Epoch, PeerId, Zxid


def entries_after(trail: Trail, epoch: int, *payloads: bytes) -> Entries:
    """The run of `payloads` in `epoch` that continues `trail`."""
    prev = trail.last
    first = prev.after(1) if prev.epoch == epoch else Zxid(epoch, 1)
    return Entries(first, prev, payloads, extend_digest(trail.digest, prev, first, payloads))


def history(*runs: tuple[int, int]) -> Trail:
    """A trail of runs (epoch, count); the payload of each entry is its zxid in words."""
    trail = Trail()
    for epoch, count in runs:
        for _ in range(count):
            trail.append(entries_after(trail, epoch, f"{epoch}.{trail.last.counter + 1 if trail.last.epoch == epoch else 1}".encode()))
    return trail


class Bench:
    """Peer `id` of `voters`, its disk under our thumb: nothing is durable before `sync()`."""

    def __init__(
        self,
        id: int = 1,
        voters: Sequence[int] = (1, 2, 3),
        accepted: int = 1,
        current: int = 1,
        trail: Trail | None = None,
        suspect: Zxid | None = None,
        watermark: Zxid = ZERO,
        timing: Timing | None = None,
        limits: Limits | None = None,
        snapshot: Mark | None = None,
    ) -> None:
        self.timing = timing or Timing()
        self.peer = Peer(
            PeerId(id),
            Configuration(0, tuple(PeerId(voter) for voter in voters)),
            Epoch(accepted),
            Epoch(current),
            suspect,
            trail or Trail(),
            watermark,
            self.timing,
            lambda bound: 0,
            limits,
            snapshot,
        )
        self.generation = 0
        self.links: dict[int, Link] = {}

    @property
    def state(self):
        return self.peer.state

    def step(self, event: Event) -> list[Effect]:
        effects = list(self.peer.step(event))
        self.peer.state.check()
        return effects

    def up(self, *peers: int) -> list[Effect]:
        effects: list[Effect] = []
        for peer in peers:
            self.generation += 1
            self.links[peer] = Link(PeerId(peer), self.generation)
            effects += self.step(LinkUp(self.links[peer]))
        return effects

    def down(self, peer: int) -> list[Effect]:
        return self.step(LinkDown(self.links[peer]))

    def hear(self, peer: int, *messages: Message) -> list[Effect]:
        return self.step(Received(self.links[peer], messages))

    def tick(self, times: int = 1) -> list[Effect]:
        return [effect for _ in range(times) for effect in self.step(Tick())]

    def sync(self) -> list[Effect]:
        """The disk completes everything it was given."""
        return self.step(Durable(self.peer.out.token))

    def propose(self, *payloads: bytes) -> list[Effect]:
        return self.step(Proposals(payloads))

    # -- whole scenes -------------------------------------------------------------------------------------------------------

    def looking_vote(self, peer: int, *, current: int = 1, last: Zxid = ZERO, leader: int | None = None) -> Notification:
        """`peer` looks in our round, hears everyone, and votes for `leader` (itself unless said)."""
        own = Vote(Epoch(current), last, PeerId(peer))
        vote = own if leader is None else self.state.self_vote._replace(leader=PeerId(leader))
        return Notification(Standing.LOOKING, self.state.round, vote, own, Epoch(max(1, current)), tuple(self.state.configuration.voters))

    def elected(self) -> list[Effect]:
        """All others vote for this peer, which becomes a prospective leader."""
        others = [voter for voter in self.state.configuration.voters if voter != self.state.id]
        self.tick()
        self.up(*others)
        effects: list[Effect] = []
        for peer in others:
            vote = self.looking_vote(peer, current=0, leader=self.state.id)
            whole = self.state.suspect is None
            effects += self.hear(peer, replace(vote, accepted=Epoch(1), whole=whole))
        return effects

    def promised(self, *followers: int) -> list[Effect]:
        """A prospective leader with CEPOCHs of `followers` whose own promise is durable."""
        self.elected()
        for peer in followers:
            self.hear(peer, CEpoch(Epoch(1), Epoch(1)))
        return self.sync()

    def acknowledged(self, *followers: int) -> list[Effect]:
        """A leader with ACKEPOCHs of `followers`, each with a history that is a prefix of ours (empty)."""
        self.promised(*followers)
        effects: list[Effect] = []
        for peer in followers:
            effects += self.hear(peer, AckEpoch(self.epoch, True, Epoch(0), ZERO, ZERO, None))
        return effects

    def established(self, *followers: int) -> list[Effect]:
        """An established leader whose followers have empty histories, as it has itself."""
        self.acknowledged(*followers)
        self.sync()
        effects: list[Effect] = []
        for peer in followers:
            effects += self.hear(peer, AckNewLeader(self.epoch, self.peer.last))
        return effects

    def following(self, leader: int) -> list[Effect]:
        """This peer follows `leader`, and has sent its CEPOCH."""
        self.tick()
        self.up(*[voter for voter in self.state.configuration.voters if voter != self.state.id])
        effects: list[Effect] = []
        far = Zxid(self.state.current, 1 << 40)
        for peer in self.state.configuration.voters:
            if peer != self.state.id:
                own = Vote(self.state.current, far if peer == leader else ZERO, peer)
                vote = Vote(self.state.current, far, PeerId(leader))
                effects += self.hear(
                    peer,
                    Notification(Standing.LOOKING, self.state.round, vote, own, Epoch(1), tuple(self.state.configuration.voters)),
                )
        return effects

    def up_to_date(self, leader: int, epoch: int) -> list[Effect]:
        """This peer is an up-to-date follower of `leader`, whose history is ours."""
        self.following(leader)
        self.hear(leader, NewEpoch(Epoch(epoch)))
        self.sync()
        last = self.peer.last
        self.hear(leader, Diff(Epoch(epoch), last, self.state.trail.digest), NewLeader(Epoch(epoch), last))
        self.sync()
        return self.hear(leader, UpToDate(Epoch(epoch), last))

    @property
    def epoch(self) -> Epoch:
        epoch = self.state.role.epoch
        assert epoch is not None
        return epoch


def sent(effects: Sequence[Effect], kind: type[Message] | None = None) -> list[tuple[int, Message, bool]]:
    """(peer, message, gated) of each Send."""
    return [
        (effect.link.peer, effect.message, effect.after > 0)
        for effect in effects
        if isinstance(effect, Send) and (kind is None or isinstance(effect.message, kind))
    ]


def durable(effects: Sequence[Effect]) -> list[Effect]:
    """The effects that must reach the disk."""
    return [effect for effect in effects if isinstance(effect, Append | Truncate | Install | SaveEpochs)]
