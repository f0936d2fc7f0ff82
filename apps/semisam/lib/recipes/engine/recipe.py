"""What a recipe is: a function that runs rounds, and what it offers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lib.generalists import takes_prompts
from lib.specialists.networks import NETWORKS
from lib.specialists.networks.sam.build import SAM_KINDS
from lib.specialists.regularisers import REGULARISERS

from .context import Context
from .options import RecipeOptions
from .report import FinishedRound

Run = Callable[[Context, "FinishedRound | None"], FinishedRound]
"""Runs all rounds after the given one (None: from the start) and returns the last one."""

ALL_NETWORKS = tuple(name for name in NETWORKS if name not in SAM_KINDS)
"""Networks that any recipe can train; a SAM is trained together with its U-Net only."""
ALL_REGULARISERS = tuple(REGULARISERS)

Asks = Literal["nobody", "one", "all"]
"""Which of several generalists a recipe prompts, or starts from."""


def default_first(default: str, names: Iterable[str]) -> tuple[str, ...]:
    """The same names with ``default`` in front."""
    return (default, *(name for name in names if name != default))


@dataclass(frozen=True)
class Recipe:
    """A recipe and what it offers.

    Args:
        run: the algorithm.
        networks: kinds of specialist it can train, its default first.
        regularisers: semi-supervised losses it can use, its default first.
        trainings: trainings in a round.
        ensembles: whether it does each of them for all of the preset's ``networks``.
        refines: whether it refines its predictions after each round.
        asks: which generalists it prompts, beside the first one's features: see ``asked_of``.
        propagates: whether it begins by carrying labels over, which takes a scan that is outlined wholly.
        check: raises UserError when it cannot do what was chosen.
        versions: of further packages that the results depend on, by name.
        questions: about how many times a foundation model is asked about a whole scan in a training of so many steps on
            so many scans without a label.
        network_with: the default network with these generalists, of which the recipe may start from one; None leaves
            the first of ``networks``.
    """

    run: Run
    networks: tuple[str, ...] = ALL_NETWORKS
    regularisers: tuple[str, ...] = ALL_REGULARISERS
    trainings: int = 1
    ensembles: bool = False
    refines: bool = False
    asks: Asks = "nobody"
    propagates: bool = True
    check: Callable[[RecipeOptions], None] = lambda options: None
    versions: Callable[[RecipeOptions], Mapping[str, str]] = lambda options: {}
    questions: Callable[[int, int], int] = lambda steps, scans: 0
    network_with: Callable[[Sequence[str]], str | None] = lambda generalists: None


def asked_of(asks: Asks, names: Sequence[str]) -> tuple[str, ...]:
    """Which of the server's generalists a recipe prompts.

    Args:
        asks: what the recipe says; ``one`` is the first that takes prompts, or the first one when none does.
        names: of the generalists, in order.
    """
    if asks == "one":
        return (next((name for name in names if takes_prompts(name)), names[0]),)
    return tuple(names) if asks == "all" else ()
