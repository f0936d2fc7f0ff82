"""Batch infer: one task over many scans, a bad scan is passed over."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.batch_infer import BatchInferTask

from lib.core.errors import UserError
from server.errors import text_of
from server.options import check_name, shown, whole_number
from server.store.folder_store import FINAL, ORIGINAL, plain_name

from .infer_request import InferRequest, Task

logger = logging.getLogger("semisam.batch")

IMAGE_SETS = ("all", "labeled", "unlabeled")


def check_batch(request: Mapping[str, Any], tasks: Mapping[str, Task], datastore: Datastore) -> None:
    """Raise UserError when a batch request cannot be carried out.

    Args:
        request: as it has come from a client.
        tasks: all infer tasks by name.
        datastore: where the scans are.
    """
    asked = InferRequest.parse({**request, "save_label": True}, tasks)
    tasks[asked.model].ready()
    if plain_name(request.get("label_tag") or ORIGINAL, "tag") == FINAL:
        raise UserError(
            "Labels with the tag 'final' are saved by people only; a batch infer stores 'original'.", status=409
        )
    images = request.get("images", "all")
    if isinstance(images, str):
        check_name(str(getattr(images, "value", images)), IMAGE_SETS, "image set")
    else:
        if not isinstance(images, list):
            raise UserError(f"images: {shown(images)} is not allowed. Give {', '.join(IMAGE_SETS)}, or a list of ids.")
        known = set(datastore.list_images())
        unknown = [shown(i) for i in images if not isinstance(i, str) or i not in known]
        if unknown:
            raise UserError(f"There is no image {', '.join(unknown[:5])} in this study.", status=404)
    whole_number(request, "max_batch_size", 0, 0, 1_000_000)


class BatchInfer(BatchInferTask):
    """Runs a task scan by scan and stores each label at once, so that a stopped batch has lost nothing.

    One scan after the other: the tasks use all cores themselves.
    """

    def __call__(
        self, request: Mapping[str, Any], datastore: Datastore, infer: Callable[..., dict[str, Any]]
    ) -> dict[str, Any]:
        """Run the batch; returns for each scan its label and params, or what was wrong with it."""
        names = sorted(self.get_images(request, datastore))
        most = whole_number(request, "max_batch_size", 0, 0, 1_000_000)
        names = names[:most] if most else names
        tag = str(getattr(request.get("label_tag"), "value", request.get("label_tag")) or ORIGINAL)
        logger.info("Batch infer '%s' over %d scans, stored as '%s'", request.get("model"), len(names), tag)

        results: dict[str, Any] = {}
        failed: dict[str, str] = {}
        begun = time.monotonic()
        for number, name in enumerate(names, start=1):
            try:
                result = infer({**request, "image": name, "save_label": True, "label_tag": tag}, datastore)
                Path(result.pop("file")).unlink(missing_ok=True)
                results[name] = result
            except Exception as error:
                text = text_of(error)
                known = text in failed.values()
                failed[name] = text
                results[name] = {"error": text}
                logger.warning("Passed over %s: %s", name, text)
                outlined = bool(datastore.get_label_by_image_id(name, FINAL))
                if _hits_all(error, outlined=outlined, known=known):
                    logger.warning("The batch ends here: the other scans would fail alike")
                    break
            left = (time.monotonic() - begun) / number * (len(names) - number)
            logger.info("%d of %d scans: %s. About %s left", number, len(names), name, _minutes(left))
        if failed:
            listed = "; ".join(f"{name}: {text}" for name, text in failed.items())
            logger.warning("%d of %d scans were passed over: %s", len(failed), len(names), listed)
        if names and len(failed) == len(results):
            raise UserError(f"No scan could be labelled. {next(iter(failed.values()))}")
        logger.info("Batch infer done: %d labels in %s", len(results) - len(failed), _minutes(time.monotonic() - begun))
        return results


def _hits_all(error: Exception, *, outlined: bool, known: bool) -> bool:
    """Whether the other scans would fail alike: no space, no label or model to work with, or none that can be used.

    What is wrong with one scan (422) is said with its name. So a refusal in the words of an earlier one (``known``) is
    not about the scan: weights that do not fit, say, or final labels of which none can be used.

    An outlined scan may be the only one, so that there is nothing to propagate to itself (409); the others have it.
    """
    status = getattr(error, "status_code", 0)
    return status == 507 or (status == 409 and not outlined) or (known and 400 <= status < 500)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
