"""``prompt``: one structure, after clicks in the viewer (3D Slicer's SmartEdit, OHIF's point prompts)."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferType

from lib.core.cache import stamp_of
from lib.core.geometry import Volume
from lib.formats.volumes import read_volume
from lib.generalists import unwrap
from lib.generalists.base import Promptable
from lib.prompting import GraphCut, Joined, OpenScan, OpenScans
from server.requests.infer_request import AskedScan
from server.store.study import Study

from .base import Answer, SegmentationTask
from .prompt_options import KEYS, PromptOptions

_NOTHING = (
    "Nothing was found at the clicks. Place another one well inside the structure, or remove those outside that lie "
    "close to it."
)


class Prompt(SegmentationTask[PromptOptions]):
    """Segments what is clicked on; by the first generalist that takes prompts, else by a graph cut, without weights.

    A generalist that looks at slices answers together with the graph cut.

    The answer is a mask of one structure, value 1, whatever the structure: viewers put it into the segment that they
    asked for. It is no label of the study, so it cannot be stored as one.
    """

    makes_labels = False

    def __init__(self, study: Study) -> None:
        super().__init__(
            study,
            "Prompt: click inside the structure, and outside of it where the answer is wrong",
            kind=InferType.DEEPGROW,
        )
        self._open = OpenScans()
        self._weights = ""

    def more_keys(self) -> Sequence[str]:
        """What clients send, and structures' names: clicks may come by name, as for the type ``deepedit``."""
        return (*KEYS, *self.study.schema.names)

    def parse(self, raw: Mapping[str, Any]) -> PromptOptions:
        """Read clicks and box; whether they lie in the scan is seen when it is read."""
        return PromptOptions.parse(raw, self.study.schema.names)

    def read(self, path: Path) -> Volume:
        """The scan, which stays open for the next clicks."""
        return self._opened(path).scan

    def answer(self, scan: Volume, asked: AskedScan, options: PromptOptions) -> Answer:
        """The structure under the clicks."""
        start = time.perf_counter()
        clicks = options.clicks(scan.shape)
        only = options.slice_of(scan.shape)
        opened = self._opened(Path(asked.path))
        who: Hashable = (options.client_id, options.structure)
        if options.reset:
            opened.forget(who)
        found = opened.segment(clicks, who).astype(np.uint8)
        if only is not None:
            found[:, :, :only] = 0
            found[:, :, only + 1 :] = 0
        return Answer(
            found,
            {
                "source": opened.model.name,
                "label": options.structure,
                "label_names": {options.structure: 1},
                "clicks": clicks.count,
                "seconds": round(time.perf_counter() - start, 3),
                "volume_ml": {options.structure: round(float(found.sum()) * scan.voxel_ml, 3)},
            },
            () if found.any() else (_NOTHING,),
        )

    def release(self) -> None:
        """Close all scans: the memory of their encodings is free for something else."""
        self._open.clear()

    def _opened(self, path: Path) -> OpenScan:
        generalist = unwrap(self.study.prompted)
        model: Promptable = generalist if isinstance(generalist, Promptable) else GraphCut()
        if getattr(model, "slicewise", False):
            model = Joined(model)

        def make() -> OpenScan:
            return OpenScan(read_volume(path), model)

        weights = str(getattr(self.study.prompted, "weights_hash", ""))
        if weights != self._weights:
            self.release()  # other weights than before: no scan is open with these
            self._weights = weights
        return self._open.get((model.name, weights, *stamp_of(path)), make)
