"""Several processes that share the work of one run.

Ignite's launcher on PyTorch's own engine: ``torchrun``, ``srun`` or ``ignite.distributed.Parallel`` start the
processes, gloo (CPU) or NCCL (one GPU each) connects them. What they share is the run's folder: results are files that
each writes whole. They tell each other only small facts, and parts of a training step.

Every process walks through the same calls of ``Ranks`` in the same order; an error of one reaches all at the next call.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar, cast

import ignite.distributed as idist
import torch
import torch.distributed
from torch import Tensor

from lib.core.devices import memory_error, out_of_memory
from lib.core.errors import UserError

log = logging.getLogger("semisam.distributed")

T = TypeVar("T")

_PATIENCE = timedelta(hours=24)
"""How long one waits for the others: shares of a large study may take that much longer than others. A process that has
died is noticed at once, by its closed connection or by the launcher."""
_TORCHRUN, _SRUN = "RANK", "SLURM_STEP_NUM_TASKS"
"""Variables of the environment that say who has started this process; a script of sbatch has Slurm's other ones."""


class LostRankError(UserError):
    """Another process of the run has ended.

    Args:
        what: what is known of it, a sentence without its full stop.
    """

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what}, so this one stops. Finished rounds and scans are kept: start again, with as many processes "
            "as you like, to go on.",
            status=500,
        )


@dataclass(frozen=True, eq=False)
class Ranks:
    """This process among those that work on a run. As it is made here: the only one.

    Args:
        rank: number of this process, from 0. The first one ends rounds, reports and publishes.
        world: how many there are.
        local: number of this process on its machine.
        launched: started by a launcher. Then trainings go piece by piece (``lib.training.shared_step``), whatever
            ``world`` is, so that any number of processes gives the same weights.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    launched: bool = False
    _facts: Any = None

    @classmethod
    def current(cls) -> Ranks:
        """What ``start`` has joined; a process that was not launched is alone. To be called once, by all."""
        if not torch.distributed.is_initialized():
            return cls()
        world = idist.get_world_size()
        # Facts go over gloo also beside GPUs: waiting for them must not keep a GPU busy.
        facts = idist.new_group(list(range(world)), backend="gloo", timeout=_PATIENCE)
        return cls(idist.get_rank(), world, idist.get_local_rank(), True, facts)

    @property
    def first(self) -> bool:
        """Whether this process ends rounds, reports and publishes."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Those of the items that are this process's work."""
        return items[self.rank :: self.world]

    def device(self, device: str) -> str:
        """Where this process works when the first one works on ``device``: each on a GPU of its own."""
        return f"cuda:{self.local}" if device.startswith("cuda") and self.world > 1 else device

    def gather(self, fact: T) -> list[T]:
        """The facts of all processes, by rank. Waits for all.

        Args:
            fact: small; plain types, or what can be pickled.

        Raises:
            LostRankError: when one of them has died.
        """
        if self.world == 1:
            return [fact]
        with _lost():
            # As an object, whatever it is: Ignite would put numbers and texts on the GPU.
            wrapped = cast("list[tuple[T]]", idist.all_gather((fact,), group=self._facts))
        return [each for (each,) in wrapped]

    def once(self, work: Callable[[], T]) -> T:
        """Let the first process do something; all get its result, or an error.

        Raises:
            UserError: when it has failed there; elsewhere with the same text.
        """
        if self.world == 1:
            return work()
        result, failed = None, None
        if self.first:
            try:
                result = work()
            except Exception as error:
                failed = error
        results = self.gather((result, _told(failed)))
        self._raise([told for _, told in results], failed)
        return results[0][0]  # type: ignore[return-value]

    def each(self, names: Sequence[str], work: Callable[[str], T]) -> dict[str, T]:
        """Do something for every name, each process for its share, and wait for all.

        Args:
            names: the same for all.
            work: gives a small fact; what is large goes into files.

        Returns:
            All facts, in the order of ``names``.

        Raises:
            UserError: when it has failed anywhere: after all others have done their share, with the same text.
        """
        own: dict[str, T] = {}
        failed: Exception | None = None
        try:
            for name in self.share(names):
                own[name] = work(name)
        except Exception as error:
            if self.world == 1:
                raise
            failed = error
        results = self.gather((own, _told(failed)))
        self._raise([told for _, told in results], failed)
        found = {name: fact for facts, _ in results for name, fact in facts.items()}
        return {name: found[name] for name in names}

    def exchange(self, own: Sequence[Tensor], sizes: Sequence[int], like: Tensor) -> list[Tensor]:
        """All parts of something, of which each process has its share.

        Args:
            own: ``share`` of the parts ``[size, ...]``, on the device.
            sizes: of all parts along the first axis.
            like: any tensor of the parts' device and type, ``[?, ...]`` with their other axes.

        Returns:
            All parts, in order; one's own as they came.
        """
        if self.world == 1:
            return list(own)
        most, slots = max(sizes), -(-len(sizes) // self.world)
        sent = like.new_zeros(slots, most, *like.shape[1:])
        for slot, part in enumerate(own):
            sent[slot, : len(part)] = part
        on_gpu = torch.distributed.get_backend() == "nccl"
        home = sent.device
        sent = sent if on_gpu else sent.cpu()
        got = [torch.empty_like(sent) for _ in range(self.world)]
        with _lost():
            torch.distributed.all_gather(got, sent)
        return [got[n % self.world][n // self.world, :size].to(home) for n, size in enumerate(sizes)]

    def agree(self, tensors: Sequence[Tensor]) -> None:
        """Give all processes the first one's values of these tensors, in place."""
        if self.world == 1:
            return
        for tensor in tensors:
            (value,) = self.exchange([tensor[None]] if self.first else [], [1], tensor[None])
            tensor.copy_(value[0])

    def _raise(self, told: Sequence[tuple[str, int] | None], own: Exception | None) -> None:
        """Raise this process's own error, else the first of the others'."""
        if own is not None:
            raise own
        for rank, error in enumerate(told):
            if error is not None:
                where = "" if rank == 0 else f" (process {rank} of {self.world})"
                raise UserError(f"{error[0]}{where}", status=error[1])


def was_launched() -> bool:
    """Whether a launcher has started this process."""
    return _TORCHRUN in os.environ or _SRUN in os.environ


def start(device: str) -> bool:
    """Join the other processes that the launcher has started; to be called once, before ``Ranks.current``.

    Args:
        device: ``cpu`` or ``cuda[:n]``, as the run's.

    Returns:
        Whether this is the first process.

    Raises:
        UserError: when there are more processes on this machine than GPUs, or they do not find each other.
    """
    if _TORCHRUN in os.environ:  # inside a job of Slurm, Ignite would go by its variables
        os.environ.pop("SLURM_JOB_ID", None)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 0))
    gpus = 0
    if device.startswith("cuda"):
        gpus = torch.cuda.device_count()
    else:
        # Ignite gives each process the GPU of its number, whatever they are for, and there may be fewer.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if gpus and here > gpus:
        raise UserError(f"{here} processes were started on this machine, but it has {gpus} GPUs: start one for each.")
    try:
        idist.initialize("nccl" if gpus else "gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            "The processes of this run do not find each other. Start them with torchrun or srun; on several machines, "
            "all must reach the first one's address and port.",
            status=500,
        ) from error
    return idist.get_rank() == 0


def end_with_the_others() -> None:
    """When the launcher ends this process, as another has died, let its main thread end by a LostRankError."""
    if threading.current_thread() is not threading.main_thread():
        return

    def stop(number: int, _: object) -> NoReturn:
        raise LostRankError(f"{signal.Signals(number).name} was sent, most likely as another process has ended")

    signal.signal(signal.SIGTERM, stop)


@contextmanager
def _lost() -> Iterator[None]:
    """Say in plain words that a connection has ended."""
    try:
        yield
    except RuntimeError as error:
        log.warning("A connection to another process has ended: %s", str(error)[:300])
        raise LostRankError("Another process of this run has ended") from error


def _told(error: Exception | None) -> tuple[str, int] | None:
    """An error as text and status."""
    if error is None:
        return None
    if out_of_memory(error):
        error = memory_error(error)
    if isinstance(error, UserError):
        return str(error), error.status
    log.error("Unexpected error", exc_info=error)
    return "unexpected error, told in the log of its process", 500
