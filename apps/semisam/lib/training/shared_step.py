"""A training step in pieces that several processes compute, with the same result for any number of them.

Each process passes its pieces of the batch through the network. All exchange what came out, so that every loss is
worked out on the whole batch, as one process would, whatever couples its windows. The gradient of each piece goes back
through the network where it came from; the gradients of all pieces are exchanged and summed in the order of the batch.
A sum in another order would differ in its last bits, and a training makes much of that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from lib.parallel.ranks import Ranks
from lib.specialists.precision import MixedPrecision

MOST_PIECES = 4
"""Pieces of a batch at most; further processes have nothing to do in a step. Fixed: the pieces must not depend on the
number of processes."""

_LOSS = MOST_PIECES
"""Number of the random stream for everything that all processes compute alike."""


def pieces_of(batch: int) -> list[slice]:
    """A batch in at most ``MOST_PIECES`` pieces of about the same size."""
    count = min(batch, MOST_PIECES)
    edges = [batch * n // count for n in range(count + 1)]
    return [slice(low, high) for low, high in pairwise(edges)]


class Pieces:
    """Passes batches through a network and its gradient back, piece by piece.

    Args:
        ranks: who shares the work.
        seed: of the random numbers inside the network (dropout); each piece of each step has its own.
        precision: in which the network passes.
        network: the network. Running statistics, where it has some, become the mean of what each piece makes of them.
        heads: parameters of others that learn from the same loss, on what came out of the network.
    """

    def __init__(
        self,
        ranks: Ranks,
        seed: int,
        precision: MixedPrecision,
        network: nn.Module,
        heads: Sequence[nn.Parameter] = (),
    ) -> None:
        self._ranks = ranks
        self._seed = seed
        self._precision = precision
        self._network = [p for p in network.parameters() if p.requires_grad]
        self._statistics = [b for b in network.buffers() if b.is_floating_point()]
        self._counters = [b for b in network.buffers() if not b.is_floating_point()]
        self._heads = heads
        self._passed: _Passed | None = None

    def forward(self, batch: int, step: int, compute: Callable[[slice], Tensor]) -> Tensor:
        """Compute the share of a batch, and exchange it.

        Args:
            batch: windows in it.
            step: steps done; it sets the random numbers, also for all that follows in this step.
            compute: gives ``[b, K, ...]`` for a piece of ``b`` windows.

        Returns:
            What came out for the whole batch, ``[batch, K, ...]``, to work losses out on.
        """
        parts = pieces_of(batch)
        numbers = self._ranks.share(range(len(parts)))
        own, statistics = [], []
        before, counted = _flat(self._statistics), [b.clone() for b in self._counters]
        for number in numbers:
            self._set(step, number)
            self._write(before, counted)
            own.append(compute(parts[number]))
            statistics.append(_flat(self._statistics)[None])
        if own:
            like = own[0].detach()
        else:  # one window tells the shape of what the others send
            with torch.no_grad():
                like = compute(slice(0, 1))
        if self._statistics and torch.is_grad_enabled():
            found = self._ranks.exchange(statistics, [1] * len(parts), before[None])
            self._write(torch.cat(found).mean(dim=0), [b.clone() for b in self._counters])
        self._set(step, _LOSS)
        sizes = [part.stop - part.start for part in parts]
        # In one layout, whoever has computed what: sums in another order differ in their last bits.
        whole = torch.cat([p.contiguous() for p in self._ranks.exchange([p.detach() for p in own], sizes, like)])
        if torch.is_grad_enabled():
            whole.requires_grad_()
        self._passed = _Passed(whole, [parts[n] for n in numbers], own, len(parts))
        return whole

    def descend(self, loss: Tensor, optimiser: torch.optim.Optimizer, clip: float) -> None:
        """Go down the gradient of the loss of the whole batch once, its norm clipped at ``clip``."""
        if self._passed is None:
            raise RuntimeError("forward must be called first")
        passed, self._passed = self._passed, None
        self._precision.backward(loss)
        self._backward(passed)
        self._ranks.agree([p.grad for p in self._heads if p.grad is not None])
        self._precision.descend(optimiser, clip)

    def _backward(self, passed: _Passed) -> None:
        """Send the gradient of the loss on through the network, and sum it over the pieces, in their order."""
        flat = []
        for part, out in zip(passed.parts, passed.own, strict=True):
            if passed.whole.grad is not None:
                out.backward(passed.whole.grad[part])
            flat.append(torch.cat([_gradient(p).flatten() for p in self._network])[None])
            for parameter in self._network:
                parameter.grad = None
        sizes = [p.numel() for p in self._network]
        total = torch.zeros(sum(sizes), device=passed.whole.device)
        for gradient in self._ranks.exchange(flat, [1] * passed.count, total[None]):
            total += gradient[0]
        for parameter, own in zip(self._network, total.split(sizes), strict=True):
            # In the parameter's own layout: a GPU's optimiser that does all in one computation asks for it.
            parameter.grad = torch.empty_like(parameter).copy_(own.view_as(parameter))

    def _write(self, statistics: Tensor, counters: Sequence[Tensor]) -> None:
        """Put running statistics in place, behind the back of the graphs: the way back does not need them."""
        values = statistics.split([b.numel() for b in self._statistics]) if self._statistics else ()
        for own, value in zip((*self._statistics, *self._counters), (*values, *counters), strict=True):
            own.data.copy_(value.view_as(own))

    def _set(self, step: int, number: int) -> None:
        torch.manual_seed((self._seed * 1_000_003 + step) * (MOST_PIECES + 1) + number)


@dataclass(frozen=True, eq=False)
class _Passed:
    """What came out of a network.

    Args:
        whole: of the whole batch ``[B, K, ...]``; collects the gradient of the loss.
        parts: the pieces that this process has computed.
        own: what came out of them, with their graphs.
        count: pieces of the batch.
    """

    whole: Tensor
    parts: Sequence[slice]
    own: Sequence[Tensor]
    count: int


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    """All values in one row, a copy."""
    return torch.cat([t.detach().flatten().float() for t in tensors]) if tensors else torch.zeros(0)


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
