"""What the scans of a round give to its refinement, on disk until the round's labels are written."""

from __future__ import annotations

import shutil

import torch
from torch import Tensor

from lib.core.devices import with_room
from lib.generalists import describing
from lib.generalists.mind import Mind
from lib.propagation import encoding_grid, features_on
from lib.recipes.engine.context import Context
from lib.recipes.engine.tensor_files import load_tensors, save_tensors

from .refinement import Evidence, RefinementOptions, gather


class RoundEvidence:
    """Evidence and unrefined predictions of all scans, in the folder ``evidence`` of a round that is not finished.

    Args:
        run: the run.
        index: of the round; its folder must have been begun.
        options: how to refine.
    """

    def __init__(self, run: Context, index: int, options: RefinementOptions) -> None:
        self._run = run
        self._options = options
        self._folder = run.folder.open_round(index) / "evidence"

    def keep_prediction(self, name: str, probabilities: Tensor, uncertainty: Tensor) -> None:
        """Keep a scan's prediction ``[1 + N, D, H, W]`` with its uncertainty ``[D, H, W]``."""
        self._run.study.write_target(self._folder, name, probabilities, 1.0 - uncertainty)

    def prediction(self, name: str) -> Tensor:
        """A scan's prediction ``[1 + N, D, H, W]``."""
        return self._run.study.read_target(self._folder, name).probabilities.float()

    def drop_prediction(self, name: str) -> None:
        """Make room: the prediction has been refined."""
        self._run.study.drop_target(self._folder, name)

    def collect(self, name: str, probabilities: Tensor, uncertainty: Tensor, generator: torch.Generator) -> None:
        """Gather a scan's evidence and keep it.

        Args:
            name: of the scan.
            probabilities: ``[1 + N, D, H, W]``; a human label as one-hot.
            uncertainty: ``[D, H, W]`` in 0..1; 0 for a human label.
            generator: chooses among the confident voxels; a CPU's.
        """
        prepared = self._run.study.prepared(name)
        begin = generator.get_state()

        def compute(device: str) -> Evidence:
            generator.set_state(begin)
            image = prepared.grey.to(device)
            features = self._features(name, image)
            return gather(image, features, probabilities.to(device), uncertainty.to(device), self._options, generator)

        evidence = with_room(self._run.options.device, compute, "evidence for the refinement")
        content = {k: v.half() if v.is_floating_point() else v for k, v in vars(evidence.to("cpu")).items()}
        save_tensors(self._folder / f"{self._run.study.file_name(name)}.pt", content)

    def load(self, name: str, *, wanted: bool) -> Evidence:
        """A scan's evidence; without ``wanted`` the part about its own unsure voxels is left empty."""
        content = load_tensors(self._folder / f"{self._run.study.file_name(name)}.pt")
        if not wanted:
            content["unsure"], content["wanted"] = content["unsure"][:0], content["wanted"][:0]
        return Evidence(**{k: v.float() if v.is_floating_point() else v.clone() for k, v in content.items()})

    def remove(self) -> None:
        """Remove the folder; the first process does."""
        if self._run.ranks.first:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _features(self, name: str, image: Tensor) -> Tensor:
        """The generalist's features ``[C, d, h, w]`` over the extent of a scan's ``image`` ``[1, D, H, W]``."""
        run, frame = self._run, self._run.study.prepared(name).frame
        generalist = describing(run.generalist, flat=run.study.spec.flat)
        if generalist.name == Mind.name:  # the same for any scale and offset of the intensities
            return generalist.encode(image, frame.spacing)
        scan = run.study.read(name)
        grid = encoding_grid(scan, frame, generalist)
        features = generalist.encode(grid.image(scan.clipped), grid.spacing)
        if grid.box == frame.box:
            return features
        # No finer than they are: there are hundreds of channels.
        coarse = grid.with_shape(features.shape[1:]).spacing
        spacing = [max(pair) for pair in zip(coarse, frame.spacing, strict=True)]
        return features_on(frame.with_spacing(spacing), features, grid)
