"""Linearizable reads without a clock (Raft's ReadIndex): how far must a read see that is to see everything acknowledged before it?

The leader notes its watermark, sends a ping, and waits until a quorum has echoed that very ping or a later one. A follower echoes only
while no higher epoch is promised on its disk. Whoever establishes a higher epoch needs a quorum's promises, and any two quorums share a
voter: so when the ping left, no higher epoch was established, and everything ever committed was below our watermark. Time plays no part.
"""

from zablog.core.effects import Effects, ReadReady
from zablog.core.messages import Ping
from zablog.core.state import Leading, Phase, State

NONCES_A_TICK = 1 << 20
"""A nonce is the tick at which its ping left, times this, and a number: liveness asks for the first, reads for both."""


def ping(state: State, leading: Leading, out: Effects) -> int:
    """Ping everybody who was invited; returns the nonce, which is above all before it."""
    assert leading.epoch is not None, "whoever was invited was invited to an epoch"
    leading.nonce = max(leading.nonce + 1, state.now * NONCES_A_TICK)
    message = Ping(leading.epoch, leading.nonce)
    for learner in leading.learners.values():
        if learner.invited:
            out.send(learner.link, message)
    return leading.nonce


def on_read_asked(state: State, leading: Leading, out: Effects) -> None:
    """Begin a round."""
    assert leading.phase is Phase.BROADCAST, "the law that only an established leader is asked: its watermark covers its initial history"
    assert leading.reading is None, "the law that one round of reads is under way at a time"
    leading.reading = (ping(state, leading, out), state.watermark)
    confirm(state, leading, out)


def confirm(state: State, leading: Leading, out: Effects) -> None:
    """End the round once a quorum, ourselves included, has echoed what was sent in it."""
    if leading.reading is not None:
        nonce, watermark = leading.reading
        echoed = {peer for peer, learner in leading.learners.items() if learner.nonce >= nonce}
        if state.configuration.is_quorum(echoed | {state.id}):
            leading.reading = None
            out.emit(ReadReady(watermark))
