"""Repair of the prepared scans: damaged files are made again when a killed run goes on."""

from __future__ import annotations

import logging

from lib.core.frames import frame_of
from lib.propagation import Template

from .context import Context
from .round_zero import propagate_one, read_template

log = logging.getLogger("semisam.train")


def repair_prepared(run: Context) -> None:
    """Put scans on the specialist's grid again whose file has been damaged since; they come out as they were.

    The labels of finished rounds stay as they are.

    Raises:
        UserError: when a scan cannot be read any more.
    """
    outlined = list(run.study.human())

    def look(name: str) -> bool:
        return run.study.is_prepared(name) and (name not in outlined or run.study.is_human_kept(name))

    # Each process for its share: what one has made anew, another need not have seen damaged.
    whole = run.ranks.each([*outlined, *run.study.unlabelled()], look)
    damaged = [name for name, fine in whole.items() if not fine]
    if not damaged:
        return
    log.warning("prepared scans are damaged or missing, and made anew: %s", ", ".join(damaged))

    def again(name: str) -> None:
        if name in outlined:
            read_template(run, name)
        elif run.study.spec.part is None:
            scan = run.study.read(name)
            run.study.prepare(name, scan, frame_of(scan))
        else:  # where in the scan its part lies, says the propagation
            propagate_one(run, name, templates)

    templates: dict[str, Template] = {}
    for names in ([n for n in damaged if n in outlined], [n for n in damaged if n not in outlined]):
        run.ranks.each(names, again)
    run.ranks.once(lambda: run.folder.drop_part(0))
