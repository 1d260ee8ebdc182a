"""The lines of a trace, in the paper's words: who says what to whom, one line an event."""

from zablog.core.messages import (
    Ack,
    AckEpoch,
    AckNewLeader,
    AckSnap,
    CEpoch,
    Commit,
    Diff,
    HistoryAnswer,
    HistoryQuery,
    Message,
    NewEpoch,
    NewLeader,
    Notification,
    Ping,
    Pong,
    Propose,
    Snap,
    Trunc,
    UpToDate,
)


def words(message: Message) -> str:
    """A message as the paper writes it; what the paper does not have stands under its own name."""
    match message:
        case Notification(standing, round, vote, _, accepted, heard, whole):
            tail = "" if whole else ", its tail is suspect"
            return (
                f"VOTE({vote.leader} with epoch {vote.current}, history through {vote.last}; round {round}), {standing.name.lower()}, "
                f"acceptedEpoch {accepted}, hears {list(heard)}{tail}"
            )
        case CEpoch(accepted, current):
            return f"CEPOCH({accepted}), currentEpoch {current}"
        case NewEpoch(epoch):
            return f"NEWEPOCH({epoch})"
        case AckEpoch(epoch, counted, current, last, _, suspect):
            more = ("" if counted else ", promised before") + ("" if suspect is None else f", suspect through {suspect}")
            return f"ACK-E({epoch}; currentEpoch {current}, history through {last}){more}"
        case HistoryQuery(epoch, last):
            return f"HISTORYQUERY({epoch}; our history ends at {last})"
        case HistoryAnswer(epoch, after):
            return f"HISTORYANSWER({epoch}; our histories meet at {after})"
        case Diff(epoch, after):
            return f"DIFF({epoch}; entries above {after} follow)"
        case Trunc(epoch, after):
            return f"TRUNC({epoch}; cut above {after})"
        case Snap(epoch, zxid):
            return f"SNAP({epoch}; take the snapshot at {zxid})"
        case AckSnap(epoch, zxid):
            return f"ACK-SNAP({epoch}; {zxid})"
        case NewLeader(epoch, last):
            return f"NEWLEADER({epoch}; history through {last})"
        case AckNewLeader(epoch, last):
            return f"ACK-LD({epoch}; history through {last})"
        case UpToDate(epoch, watermark):
            return f"COMMIT-LD({epoch}; committed through {watermark})"
        case Propose(epoch, entries, watermark):
            run = str(entries.first) if len(entries.payloads) == 1 else f"{entries.first} to {entries.last}"
            return f"PROPOSE({epoch}; {run}), committed through {watermark}"
        case Ack(epoch, zxid):
            return f"ACK({epoch}; {zxid})"
        case Commit(epoch, watermark):
            return f"COMMIT({epoch}; {watermark})"
        case Ping(epoch, nonce):
            return f"PING({epoch}; {nonce})"
        case Pong(epoch, nonce):
            return f"PONG({epoch}; {nonce})"
