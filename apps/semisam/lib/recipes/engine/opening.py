"""Opening a run: its scans' files are looked at, and the folder of an unfinished run with the same input is found."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import monai
import torch

from lib.core.errors import UserError
from lib.generalists import Generalist, describing, weights_of
from lib.parallel.ranks import Ranks
from lib.propagation import Propagator
from lib.recipes.choices import budget_of
from lib.recipes.registry import RECIPES

from .report import Case, RunRequest
from .run_folder import fingerprint

log = logging.getLogger("semisam.train")

_FORMAT = 3
"""Raised when run folders of an older version cannot be continued."""


@dataclass(frozen=True)
class Files:
    """The scans' files, as they are when a run begins.

    Args:
        usable: the cases whose files are there.
        skipped: why others are left out, by name.
        prints: fingerprints of image and label of all cases, and what is annotated, by name.
    """

    usable: Sequence[Case]
    skipped: Mapping[str, str]
    prints: Mapping[str, Sequence[str]]


def check_files(cases: Sequence[Case], ranks: Ranks) -> Files:
    """Look at the files of all cases.

    Raises:
        UserError: (422) when no human label can be used.
    """
    by_name = {case.name: case for case in cases}

    def look(name: str) -> list[str] | str:
        case = by_name[name]
        try:
            return [fingerprint(case.image), fingerprint(case.label) if case.label else "", case.annotated]
        except UserError as error:
            log.warning("%s is left out: %s", name, error)
            return str(error)

    usable, skipped, prints = [], {}, {}
    for name, found in ranks.each(list(by_name), look).items():
        if isinstance(found, str):
            skipped[name] = found
            prints[name] = ["missing", "", ""]
        else:
            prints[name] = found
            usable.append(by_name[name])
    if not any(case.label is not None for case in usable):
        raise UserError(f"No 'final' label can be used: {'; '.join(skipped.values())}", status=422)
    return Files(usable, skipped, prints)


def identity_of(
    request: RunRequest, files: Files, generalist: Generalist, propagator: Propagator, asked: Sequence[Generalist] = ()
) -> Mapping[str, object]:
    """Everything that a run's results depend on, as plain types: a run with another identity is another run.

    Args:
        request: what is to be run.
        files: of the scans.
        generalist: gives features.
        propagator: carries labels over.
        asked: the generalists that the recipe prompts. They are named only where they are not that one alone: runs
            from before there could be several have the same identity as now.
    """
    options = request.options
    others = {} if list(asked) in ([], [generalist]) else {"asked": [list(each) for each in weights_of(asked).items()]}
    return {
        "format": _FORMAT,
        "versions": {
            "torch": torch.__version__,
            "monai": monai.__version__,
            **RECIPES[options.recipe].versions(options),
        },
        "options": asdict(options),
        "amount": asdict(budget_of(options)),  # what the preset stands for in this version
        "settings": asdict(request.settings),
        "labels": list(request.schema.names),
        "generalist": [generalist.name, str(getattr(generalist, "weights_hash", ""))],
        **({} if (instead := describing(generalist, flat=False)) is generalist else {"for_volumes": instead.name}),
        **others,
        "propagator": propagator.name,
        "cases": files.prints,
    }
