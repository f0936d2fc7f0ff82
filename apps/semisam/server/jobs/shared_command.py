"""The command lines ``main.py train`` and ``main.py score``: without a server, by one process or by several.

``torchrun`` or ``srun`` start several. The first one has the study: it looks at the request, and keeps what
comes of it as in a job that a viewer has started. The others hear from it what to do; they need the files of the
scans and the app's folder, and nothing of MONAI Label.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

from lib.core.errors import UserError
from lib.core.files import write_whole
from lib.core.program import program
from lib.parallel.ranks import Ranks, end_with_the_others, start, was_launched
from lib.recipes import CHOICES, PRESETS, RECIPES
from lib.recipes.engine.options import choose_device
from lib.selection.measures import MEASURES
from server.jobs.command_study import choose_study
from server.jobs.system_processes import lower_priority


class Job(Protocol):
    """What the first process tells the others: a training or a scoring."""

    def help(self, ranks: Ranks) -> object:
        """Do a process's share."""


def main(command: str, arguments: Sequence[str]) -> NoReturn:
    """Train or score, and end the process.

    Args:
        command: ``train`` or ``score``.
        arguments: the words after it.
    """
    chosen = (_score_parser() if command == "score" else _train_parser()).parse_args(arguments)
    try:
        request = _score_request(chosen) if command == "score" else _train_request(chosen)
        if not was_launched() or start(choose_device(str(request.get("device") or "auto"))):
            _lead(command, chosen, request)
        else:
            _help(Ranks.current())
        status = 0
    except UserError as error:
        print(f"{program()} {command}: {error}", file=sys.stderr)
        status = 1
    except SystemExit as error:  # server.jobs.startup has said what was wrong
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        logging.exception("This has failed")
        status = 1
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # at once: the way out of PyTorch's connections may wait for processes that are gone


def _parser(command: str, what: str) -> argparse.ArgumentParser:
    """What all commands have."""
    parser = argparse.ArgumentParser(
        prog=f"{program()} {command}",
        description=f"{what} a study. Start it by torchrun or srun to share the work among processes and machines.",
    )
    parser.add_argument("--studies", metavar="DIR", help="folder or DICOMweb address of the study, as for the server")
    parser.add_argument(
        "--conf", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), help="a setting, as for the server"
    )
    parser.add_argument("--request", default="{}", metavar="JSON", help="options as a request by REST has them")
    parser.add_argument("--device", help="cpu or cuda; several processes take a GPU each (default: what there is)")
    parser.add_argument("--output", metavar="FILE", type=Path, help="write the result there as JSON")
    return parser


def _score_parser() -> argparse.ArgumentParser:
    parser = _parser("score", "Score the scans of")
    parser.add_argument(
        "--methods", nargs="+", choices=list(MEASURES), metavar="NAME", help=f"of {', '.join(MEASURES)} (default: all)"
    )
    return parser


def _train_parser() -> argparse.ArgumentParser:
    parser = _parser("train", "Train on")
    parser.add_argument("--recipe", choices=RECIPES)
    parser.add_argument("--preset", choices=list(PRESETS))
    for name, text in (
        ("rounds", "rounds after the propagation"),
        ("max_epochs", "epochs of a training"),
        ("seed", ""),
    ):
        parser.add_argument(f"--{name}", type=int, metavar="N", help=text or None)
    for name, allowed in CHOICES.items():
        parser.add_argument(f"--{name}", choices=allowed)
    return parser


def _train_request(chosen: argparse.Namespace) -> dict[str, Any]:
    names = ("recipe", "preset", "rounds", "max_epochs", "seed", *CHOICES)
    given = {name: value for name in names if (value := getattr(chosen, name)) is not None}
    return {**_request(chosen), **given, "model": "semisam"}


def _score_request(chosen: argparse.Namespace) -> dict[str, Any]:
    """Methods of the command line go before those of ``--request``."""
    request = _request(chosen)
    if chosen.methods or "method" not in request:
        first, *others = chosen.methods or MEASURES
        request |= {"method": first, "then": others}
    return request


def _request(chosen: argparse.Namespace) -> dict[str, Any]:
    """What all requests have."""
    try:
        request = json.loads(chosen.request)
    except ValueError as error:
        raise UserError(f"--request is no JSON: {error}") from error
    if not isinstance(request, dict):
        raise UserError("--request must be a JSON object.")
    given = {"device": chosen.device} if chosen.device is not None else {}
    return {"device": "auto", **request, **given, "multi_gpu": False}


def _lead(command: str, chosen: argparse.Namespace, request: dict[str, Any]) -> None:
    """Work as the server's job does; it calls the other processes to help."""
    choose_study(chosen)
    logging.basicConfig(
        level=logging.INFO,
        format="[%(asctime)s] [%(process)s] [%(threadName)s] [%(levelname)s] (%(name)s:%(lineno)d) - %(message)s",
    )
    from monailabel.interfaces.utils.app import app_instance

    app = app_instance()
    result = app.scoring(request) if command == "score" else app.train(request)
    logging.info("Result: %s", json.dumps(result))
    if chosen.output:
        write_whole(chosen.output, lambda name: Path(name).write_text(json.dumps(result), encoding="utf-8"))


def _help(ranks: Ranks) -> None:
    """Do a share of the work, as the first process says."""
    logging.basicConfig(level=logging.WARNING, format=f"[process {ranks.rank}] %(levelname)s - %(message)s")
    lower_priority()  # as the first process does in server.jobs.startup: all wait for the slowest
    end_with_the_others()
    nothing: Job | None = None
    job = ranks.gather(nothing)[0]
    if job is None:
        raise RuntimeError("the first process has not said what to do")
    job.help(ranks)
