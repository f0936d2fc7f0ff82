"""Independent pieces of work side by side, one thread each: more is done than by one after the other with many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from multiprocessing import get_context
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def side_by_side(work: Callable[[Job], Result], jobs: Iterable[Job], workers: int) -> Iterator[tuple[Job, Result]]:
    """Do all jobs, at most ``workers`` at a time; in the order in which they end.

    Args:
        work: a function of a module; it and its jobs are pickled.
        jobs: taken one by one as workers become free, so that their source can end early.
        workers: processes; with 1 the work is done in this one.
    """
    left = iter(jobs)
    if workers == 1:
        for job in left:
            yield job, work(job)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        under_way: dict[Future[Result], Job] = {pool.submit(work, job): job for job in islice(left, workers)}
        while under_way:
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                job = under_way.pop(future)
                yield job, future.result()
                under_way |= {pool.submit(work, job): job for job in islice(left, 1)}
