"""What the options of a training mean, in a sentence each."""

from __future__ import annotations

from collections.abc import Mapping

OPTIONS: Mapping[str, str] = {
    "recipe": "The method. semisam_o1 needs one outlined scan and refines its pseudo-labels round by round; the others "
    "follow their papers and may need a foundation model.",
    "preset": "How much time to spend: quick for a first look, standard for results to work with, full for the best.",
    "rounds": "Rounds of training and relabelling; 0 takes the preset's number.",
    "max_epochs": "Epochs of each training; 0 takes the preset's number.",
    "seed": "The same seed gives the same pseudo-labels on one machine.",
    "device": "Where to compute.",
    "multi_gpu": "Share the work among all GPUs.",
    "network": "The kind of network; auto takes the one that suits the recipe.",
    "regulariser": "What is learned from other scans besides their pseudo-labels; auto suits the recipe.",
    "prompts": "How semisam_plus asks the foundation models: by mask, by points, or both.",
    "fusion": "How many of three views must agree in fm_abs.",
}
"""By option; those that a viewer offers and that are not here have no text."""

CARRY: Mapping[str, str] = {
    "propagate": "Carry the outlines over to all other scans. Needs one outlined scan, no training.",
    "segment": "Label all other scans by the trained network.",
}
"""What a batch may do, by the name of the infer task."""

SCORE = "Judge the scans: how sure the app is, and how good each pseudo-label is likely to be."
COMPARE = "Compare the scans with each other: which one stands for most of them."
