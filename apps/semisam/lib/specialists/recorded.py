"""A network's pass there and back, recorded once and replayed by a GPU.

A U-Net's step is hundreds of small computations. Starting them one by one takes the CPU longer than the GPU needs to do
them: on an H200, 11 ms against 5 for two windows of 130 000 voxels. See CUDA graphs,
https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs

Off unless the environment has ``SEMISAM_RECORD=1``: the tests of it (``test_cuda``) have not been run on a GPU yet.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from .networks import SpecialistNetwork
from .precision import MixedPrecision

log = logging.getLogger("semisam.train")

SWITCH = "SEMISAM_RECORD"
"""Name in the environment."""

Pass = Callable[[Tensor], "tuple[Tensor, Tensor]"]
"""From images ``[B, inputs, D, H, W]`` to logits ``[B, classes, D, H, W]`` float32 and features ``[B, K, D, H, W]``."""


class StudentPass(nn.Module):
    """A network in training, in mixed precision.

    Args:
        network: the network.
        precision: in which it passes.
        features: whether the features are wanted; else none are given (K is 0).
    """

    def __init__(self, network: SpecialistNetwork, precision: MixedPrecision, features: bool) -> None:
        super().__init__()
        self.network = network
        self._precision = precision
        self._features = features

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Pass``."""
        with self._precision(cache=False):
            features = self.network.features(images)
            logits = self.network.classify(features).float()
        return logits, features if self._features else logits[:, :0]


def recorded(student: StudentPass, images: Tensor) -> Pass:
    """The same pass, replayed where that is wanted and possible.

    What it gives is overwritten by the next pass: nobody may keep it for longer than a step.

    Args:
        student: the pass.
        images: any images of the shape, layout and device of all that will come.
    """
    wanted = os.environ.get(SWITCH) == "1"
    if not wanted or images.device.type != "cuda" or not student.network.recordable:
        return student
    # Streams are the current GPU's; work of another one would be left out of the recording, and nobody would tell.
    with torch.cuda.device(images.device):
        before = torch.cuda.current_stream()
        torch.cuda.graph.default_capture_stream = None  # made once, for the GPU of the first recording
        try:
            return cast("Pass", torch.cuda.make_graphed_callables(student, (images.clone(),)))
        except RuntimeError as error:
            torch.cuda.set_stream(before)  # a recording that breaks off leaves its own in place
            log.warning("The training's steps cannot be recorded, and take longer: %s", error)
            return student
