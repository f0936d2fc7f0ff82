"""SC-SAM: a U-Net for slices and a SAM tuned to the study teach each other.

Vu et al., "From specialist to generalist: unlocking SAM's learning potential on unlabeled medical images". On slices or
2D images, a U-Net segments (Eq. 1), points from its answer (Eq. 2) prompt a SAM (Eq. 3) with adapters in its frozen
encoder and learned box prompts. Both learn the human labels (Eq. 4). On all other slices the U-Net learns what SAM says
from the start, and SAM what the U-Net says with a weight that rises (Eq. 5, 6); the sum is Eq. 7.

| paper | here | why |
|---|---|---|
| Eq. 6: `exp(-(1 - t/T)²)` | with the factor 5 of the published code; T is a quarter of the steps | without it the weight begins at 0.37, which does not keep early noise from SAM |
| Adam 1e-4 for SAM, SGD for the U-Net | AdamW for both: 5e-4 and 4e-3 (a SAM from random weights: 1e-3), warm-up, polynomial decay, gradients clipped at 5 | trainings of some hundred steps |
| 12 labelled and 12 unlabelled slices a step | 8 and 8 | memory and time |
| slices drawn alike | seven of ten labelled slices are drawn for holding a structure, each structure as often | most slices of a scan are empty |
| weak changes for labelled, stronger ones for unlabelled slices | pseudo-labels are made on the weakly changed slice and learned on the same slice changed strongly; no flips | a network should not confirm itself on the same view; left and right must stay apart |
| mean of Dice and cross-entropy | the same, Dice over all slices of a step together | a slice with three pixels of a structure would count as much as a full one |
| points drawn at random, also at inference (code) | at random where SAM learns human labels, evenly spread where it makes pseudo-labels and at inference | the same scan gets the same answer |
| SAM at 1024 (code: 256) pixels | as large as the study's slices need, at most 256 (128 for a SAM from random weights) | time |
| one structure | points and a learned box for every class, background included, each decoded on its own; the softmax of their logits | studies have several structures |
| adapters with usual initial weights (code) | they add nothing at first | training begins at the pretrained SAM |
| pretrained SAM | without weights, a small SAM is trained as a whole, and its word for the U-Net rises as the other one does | there is nothing to freeze |
| one training | rounds are parts of one training, after each of which the study gets new labels | a killed training can go on |
| the code swaps rows and columns of points and does not scale them; adds an entropy term; its "HD95" is no distance | none of these | the paper does not have them |
| pseudo-labels count fully, the U-Net's after the ramp-up | with a pretrained SAM they count by their author's Dice on the human labels, from nothing at 0.5 to fully at 1, and less as it is behind the other's, nothing from 0.2 on | a network that has learned nothing yet says "background", and both end there ([measured](../reference/foundation-models-measured.md)) |
| SAM answers | with a pretrained SAM both go into service, and SAM's answer counts; without one, the U-Net alone does; the option `network` says otherwise | a pretrained SAM is far ahead of its U-Net; else the U-Net is no worse, and quicker |
"""  # noqa: E501

from .recipe import RECIPE

__all__ = ["RECIPE"]
