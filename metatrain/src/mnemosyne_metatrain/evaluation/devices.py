"""Spreads tasks over the devices of this machine: programs compile on all cores meanwhile."""

from __future__ import annotations

import os
import queue
import threading
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import jax

from mnemosyne_metatrain.evaluation.programs import Programs

T = TypeVar("T")
Lowered = tuple[Callable[[], Programs], float]


class OutOfTime(Exception):
    """The leg's time is over."""


def run_on_devices(
    items: Iterable[T],
    lower: Callable[[T, jax.Device], Lowered | None],
    work: Callable[[T, Programs], None],
) -> None:
    """Lowers items in order, compiles them side by side, and works on one a device at a time.

    Args:
        items: What to work on.
        lower: Traces an item for a device: returns what compiles it, and its cost; None skips it.
            The next item goes to the device with the least cost so far.
        work: Runs an item; called on a thread of its device. `OutOfTime` ends it quietly.

    Raises:
        RuntimeError: If an item failed; the others were worked on all the same.
    """
    devices = jax.local_devices()
    queues: list[queue.Queue[tuple[T, Future[Programs]] | None]] = [queue.Queue() for _ in devices]
    failed: list[T] = []

    def serve(jobs: queue.Queue[tuple[T, Future[Programs]] | None]) -> None:
        while (job := jobs.get()) is not None:
            item, programs = job
            try:
                work(item, programs.result())
            except OutOfTime:
                print(f"out of time: {item}", flush=True)
            except Exception:
                traceback.print_exc()
                failed.append(item)

    threads = [threading.Thread(target=serve, args=(jobs,), daemon=True) for jobs in queues]
    for thread in threads:
        thread.start()
    pool = ThreadPoolExecutor(os.cpu_count())
    loads = [0.0] * len(devices)
    for item in items:
        which = loads.index(min(loads))
        lowered = lower(item, devices[which])
        if lowered is not None:
            loads[which] += lowered[1]
            queues[which].put((item, pool.submit(lowered[0])))
    for jobs in queues:
        jobs.put(None)
    for thread in threads:
        thread.join()
    pool.shutdown(cancel_futures=True)
    if failed:
        raise RuntimeError(f"failed, with tracebacks above: {', '.join(map(str, failed))}")
