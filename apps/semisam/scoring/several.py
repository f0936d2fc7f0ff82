"""A pass over the study by as many processes as a request asks for."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lib.core.errors import UserError
from lib.parallel.ranks import Ranks
from lib.recipes.engine.options import choose_device
from server.jobs.launch import launch, processes
from server.store.study import Study

from .base import StudyScoring
from .one_pass import run_pass

logger = logging.getLogger("semisam.scoring")


def score_study(study: Study, methods: Sequence[StudyScoring], request: Mapping[str, Any]) -> dict[str, Any]:
    """``run_pass`` by this process, by those that a launcher has started, or by new ones (``multi_gpu``).

    Raises:
        UserError: as ``run_pass`` does; (500) when the new processes have ended before their time.
    """
    ranks = Ranks.current()
    count = processes(request, choose_device(str(request.get("device") or "auto")))
    if count == 1:
        return run_pass(study, methods, request, ranks)
    logger.info("Scoring with %d processes", count)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result.json"
        status = launch(count, "score", request, ["--output", str(output)])
        if status == 0:
            result: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
            return result
    raise UserError(
        f"The {count} processes have ended before their time (status {status}); the lines above say why, unless one "
        "was killed or ran out of memory. What is scored is kept: score again to go on.",
        status=500,
    )
