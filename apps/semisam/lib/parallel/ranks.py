"""The processes that share the work of one run.

``torchrun`` or ``srun`` starts them; Ignite (``ignite.distributed``) connects them by gloo on CPUs and by NCCL on GPUs,
one GPU for each process. Scans are shared out by rank, and results are files that each process writes whole into the
run's folder. A training is shared by PyTorch's DistributedDataParallel: see ``lib.training.loop``.

All processes make the same calls of ``Ranks`` in the same order. An error of one reaches the others at the next call.
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
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lib.core.devices import memory_error, out_of_memory
from lib.core.errors import UserError

log = logging.getLogger("semisam.distributed")

T = TypeVar("T")

_PATIENCE = timedelta(hours=24)
"""Time limit of all communication: one process may need hours longer for its scans than another. A process that has
died is noticed at once, by its closed connection or by the launcher."""
_TORCHRUN, _SRUN = "RANK", "SLURM_STEP_NUM_TASKS"
"""Environment variables that tell which launcher started this process. The script of an sbatch job has Slurm's other
variables, but not this one."""
_SEEDS_APART = 0x9E3779B1
"""Distance of the seeds of two processes. PyTorch's generator takes the lowest 32 bits of a seed."""
_LOST = ("gloo", "nccl", "connection closed by peer", "connection reset by peer")
"""Parts of the messages of errors that mean a lost connection, in lower case."""


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
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    _facts: Any = None

    @classmethod
    def current(cls) -> Ranks:
        """The processes that ``start`` has joined, or this one alone. To be called once, by all."""
        world = idist.get_world_size()
        if world == 1:
            return cls()
        # Facts go over gloo also beside GPUs: waiting for them must not keep a GPU busy.
        facts = idist.new_group(list(range(world)), backend="gloo", timeout=_PATIENCE)
        return cls(idist.get_rank(), world, idist.get_local_rank(), facts)

    @property
    def first(self) -> bool:
        """Whether this process ends rounds, reports and publishes."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Those of the items that are this process's work."""
        return items[self.rank :: self.world]

    def device(self, device: str) -> str:
        """This process's device when the first one's is ``device``: each process has a GPU of its own."""
        return f"cuda:{self.local}" if device.startswith("cuda") and self.world > 1 else device

    def gather(self, fact: T) -> list[T]:
        """The facts of all processes, by rank. Waits for all.

        Args:
            fact: something small that can be pickled.

        Raises:
            LostRankError: when one of them has died.
        """
        if self.world == 1:
            return [fact]
        with connection():
            # As an object, whatever it is: Ignite would put numbers and texts on the GPU.
            wrapped = cast("list[tuple[T]]", idist.all_gather((fact,), group=self._facts))
        return [each for (each,) in wrapped]

    def once(self, work: Callable[[], T]) -> T:
        """Let the first process do something; all get its result or its error.

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
            work: returns something small; large results belong into files.

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

    # --- a training that all processes share --------------------------------------------------------------------------

    def own_seed(self, seed: int) -> int:
        """The seed of this process's own random numbers; for the first process it is ``seed`` itself."""
        return seed + self.rank * _SEEDS_APART

    def generator(self, seed: int) -> torch.Generator:
        """A source of random numbers on the CPU, another one in each process; see ``own_seed``."""
        return torch.Generator().manual_seed(self.own_seed(seed))

    def synchronised(self, network: nn.Module, **options: Any) -> nn.Module:
        """The network with the first process's weights, and gradients that are the mean over all processes.

        Args:
            network: on this process's device.
            options: of ``DistributedDataParallel``.
        """
        if self.world == 1:
            return network
        place = next(network.parameters()).device
        with connection():  # what idist.auto_model does, without its line in the log for every training
            return DistributedDataParallel(network, [place] if place.type == "cuda" else None, **options)

    def total(self, counts: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        if self.world == 1:
            return counts
        with connection():
            return cast("Tensor", idist.all_reduce(counts))

    def same(self, tensors: Sequence[Tensor]) -> None:
        """Give all processes the first one's values of these tensors, in place."""
        if self.world == 1:
            return
        with connection():
            for tensor in tensors:
                # In one layout: weights may lie channels last.
                tensor.copy_(cast("Tensor", idist.broadcast(tensor.contiguous())))

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
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))
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
    """Raise a ``LostRankError`` in the main thread when the launcher ends this process because another has died."""
    if threading.current_thread() is not threading.main_thread():
        return

    def stop(number: int, _: object) -> NoReturn:
        raise LostRankError(f"{signal.Signals(number).name} was sent, most likely as another process has ended")

    signal.signal(signal.SIGTERM, stop)


@contextmanager
def connection() -> Iterator[None]:
    """In this context a lost connection to another process is a ``LostRankError``."""
    try:
        yield
    except RuntimeError as error:
        if not any(part in str(error).lower() for part in _LOST):
            raise
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
