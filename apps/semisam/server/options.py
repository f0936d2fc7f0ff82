"""Which keys a request may have: what is misspelt is refused, what clients send of themselves is let through."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping

from pydantic_core import from_json

from lib.core.errors import UserError

_EVERYWHERE = {"client_id", "user", "name", "model", "device", "gpus", "multi_gpu", "local_rank", "logging", "timeout"}

INFER = _EVERYWHERE | {
    # MONAI Label
    "image", "file", "label", "label_tag", "labels", "save_label", "session", "session_id", "description", "output",
    "result_extension", "result_dtype", "result_compress", "result_write_to_file", "skip_writer", "dicom_seg",
    "label_info", "images", "max_workers", "max_batch_size", "_id", "_image_id", "model_filename", "roi_size",
    "sw_batch_size", "cache_transforms", "cache_transforms_in_memory", "cache_transforms_ttl",
    # 3D Slicer and OHIF
    "restore_label_idx", "label_prompt", "points", "point_labels", "foreground", "background", "roi", "slice",
    "reset_state", "largest_cc", "nnInter",
}  # fmt: skip
"""Keys of an infer or batch infer request that MONAI Label and the viewers send."""

TRAIN = _EVERYWHERE | {
    "pretrained", "early_stop_patience", "val_split", "train_batch_size", "val_batch_size", "dataset", "dataloader",
    "tracking", "tracking_uri", "tracking_experiment_name", "enqueue", "run_sync",
}  # fmt: skip
"""Keys of a training request that MONAI Label and the viewers send; those of its own trainers have no effect here."""

SAMPLE = _EVERYWHERE | {"strategy", "label_tag", "labels"}
"""Keys of a request for the next scan."""

SCORING = _EVERYWHERE | {"method"}
"""Keys of a scoring request."""

_LEVELS = 12
_SHOWN = 80
_LISTED = 5


def shown(value: object) -> str:
    """A client's value as an answer shows it: not all of it when it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def check_keys(request: Mapping[str, object], options: Iterable[str], standard: Iterable[str], what: str) -> None:
    """Raise UserError when a request has keys that are neither options of ours nor standard ones."""
    options = list(options)
    unknown = [key for key in request if key not in options and key not in standard]
    if not unknown:
        return
    near = difflib.get_close_matches(unknown[0][:_SHOWN].lower(), options, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    known = f"Its options are {', '.join(options)}." if options else "It has no options."
    listed = ", ".join(shown(key) for key in unknown[:_LISTED])
    raise UserError(f"{what} has no option {listed}.{hint} {known}")


def check_plain(content: Mapping[str, object], what: str) -> None:
    """Look at what a client has sent as JSON before it is stored or sent again.

    Raises:
        UserError: for what JSON does not know or others cannot read: NaN, infinity, half a surrogate pair, lists in
            lists without end.
    """
    try:
        text = json.dumps(dict(content), allow_nan=False, default=str)
        # The reader goes 200 levels deep, and the content may lie some levels down in a file.
        from_json(f"{'[' * _LEVELS}{text}{']' * _LEVELS}", allow_inf_nan=False)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{what} cannot be kept as JSON. Send plain numbers, texts and lists: no NaN or infinity, no half "
            "characters, no lists in lists without end."
        ) from error


def check_name(name: object, known: Iterable[str], what: str) -> str:
    """The name, if it is known.

    Raises:
        UserError: (404) when it is not.
    """
    known = list(known)
    if name in known:
        return str(name)
    text = str(name or "")
    near = difflib.get_close_matches(text[:_SHOWN].lower(), known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UserError(f"There is no {what} {shown(text)}.{hint} Known: {', '.join(known) or 'none'}.", status=404)


def whole_number(request: Mapping[str, object], key: str, default: int, least: int, most: int) -> int:
    """A whole number of a request, which may come as text.

    Raises:
        UserError: (400) when it is none or out of range.
    """
    value = request.get(key, default)
    try:
        number = float(str(value)) if not isinstance(value, bool) else float("nan")
    except ValueError:
        number = float("nan")
    if not number.is_integer() or not least <= number <= most:
        raise UserError(f"{key}: {shown(value)} is not allowed. Give a whole number from {least} to {most}.")
    return int(number)


def is_true(value: object) -> bool:
    """Whether a request's value means yes; texts as clients send them."""
    return value.strip().lower() in ("true", "1", "yes", "on") if isinstance(value, str) else bool(value)
