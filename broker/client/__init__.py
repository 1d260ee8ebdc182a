"""The client, on trio: every task lives inside the block of `connect`, and any call can be cancelled at any point.

- `client`: `connect`, topics, producers, consumers, status.
- `producer` over `batching`, `session` and `pending`: records in, receipts out, once and in order through changes of leader.
- `consumer` over `positions`: records out.
- `cluster` over `connection`: who leads, requests and answers.
"""

from broker.client.client import Client, ClusterStatus, connect
from broker.client.consumer import Consumer
from broker.client.pending import Pending, Receipt
from broker.client.producer import Producer

__all__ = ["Client", "ClusterStatus", "Consumer", "Pending", "Producer", "Receipt", "connect"]
