"""The blocking twin, used from threads beside the nodes' own loop."""

import threading

import pytest
import trio

import broker
from broker.errors import TopicNotFound
from tests.broker.ensemble import Ensemble


async def test_blocking_code_produces_and_consumes(ensemble: Ensemble) -> None:
    def work() -> list[bytes | None]:
        with broker.sync.connect(ensemble.addresses) as zl:
            zl.create_topic("orders")
            with zl.producer() as out:
                assert out.send("orders", b"a").offset == 0
                pending = out.submit("orders", b"b")
                assert pending.wait().offset == 1
                out.send_many("orders", [b"c", b"d"])
            with zl.consumer("orders", start="earliest", stop="end") as inbox:
                return [record.value for record in inbox]

    assert await trio.to_thread.run_sync(work) == [b"a", b"b", b"c", b"d"]
    assert not [thread for thread in threading.enumerate() if thread.name == "broker-sync"]


async def test_errors_cross_over_as_themselves(ensemble: Ensemble) -> None:
    def missing() -> None:
        with broker.sync.connect(ensemble.addresses) as zl, zl.producer() as out:
            out.send("odrers", b"a")

    def body() -> None:
        with broker.sync.connect(ensemble.addresses) as zl, zl.producer():
            raise ZeroDivisionError

    with pytest.raises(TopicNotFound):
        await trio.to_thread.run_sync(missing)
    with pytest.raises(ZeroDivisionError):
        await trio.to_thread.run_sync(body)


async def test_threads_share_one_producer(ensemble: Ensemble) -> None:
    def work() -> int:
        with broker.sync.connect(ensemble.addresses) as zl:
            zl.create_topic("orders")
            with zl.producer() as out:
                threads = [threading.Thread(target=lambda: [out.send("orders", b"x") for _ in range(20)]) for _ in range(5)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            return zl.describe_topic("orders").partitions[0].end

    assert await trio.to_thread.run_sync(work) == 100
