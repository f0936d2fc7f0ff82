"""SemiSAM-O1: one outlined scan, training in rounds, and pseudo-labels that are corrected where they are uncertain.

[SemiSAM-O1](https://arxiv.org/abs/2604.24109). Labels are propagated from the outlined scans to all others by frozen
features. Each round then trains a specialist from scratch on the human labels and the current pseudo-labels, predicts
all scans with a voxel-wise uncertainty, and corrects the uncertain voxels: they take over labels from the most similar
confident places of the most similar scans, in the features of the foundation model. Of the paper we had the abstract, a
public review and the behaviour of its code, no equations: "paper" below is what these say.

| paper | here | why |
|---|---|---|
| class prototypes: one mean feature a class | default propagator `registration`; `prototype` and `ensemble` are settings, with up to 32 prototypes a structure and the position counted | more accurate with `mind`, which needs no weights ([measured](../reference/benchmarks-measured.md)) |
| features of a 128³ crop, nearest-neighbour labels on 8³ cells (code) | the whole scan, soft labels with a confidence | structures outside the crop are not lost; borders are not blocks of 16 voxels |
| pseudo-labels are hard | probabilities; a voxel counts as much as its confidence | an uncertain voxel should not be learned like a certain one |
| `0.5 (CE + Dice)` on human labels, `w 0.5 (CE + Dice)` on pseudo-labels, w rising over 30 % of the steps (code) | the same with the noise-tolerant Dice of FM-ABS on pseudo-labels, w rising over 10 % | wrong voxels pull less; a short training has no steps to spare |
| uncertain regions take labels of their most similar confident neighbours (abstract); the code replaces the whole label map of the 10 % most uncertain scans | voxel by voxel, as in the abstract: uncertainty of at least 0.15, at most 8,000 voxels a scan, from the six most similar scans: 700 voxels of each, drawn from the surest 60 % of a class within three voxels of a border | the abstract's description is the finer one |
| neighbours are compared by the foundation model's features | by features, intensities, the surrounding prediction and the position relative to the structures; features of more than 48 channels are first reduced to 48 by a fixed random projection | comparable without registration; distances are kept to a few percent at a fraction of the memory |
| the neighbours' labels replace the old ones | they are blended in, at most a fifth; votes are shifted so that each class keeps its share of the uncertain voxels | the asked places are no fair sample of the classes: without the shift, structures grow |
| each round's labels replace those before | averaged with the labels of the round before, which count a third ([temporal ensembling](https://arxiv.org/abs/1610.02242)) | specialist and propagation make different errors |
| three rounds, always | one or two by the preset; they end early when new and old labels agree to a mean Dice of 0.985. The agreement is that of the new label *before* it is averaged | a further round would repeat the last one |
| best checkpoint on five labelled validation scans (code) | no choice of a checkpoint: the teachers of all rounds together | with one outlined scan there is no validation set |
| one network | `full` trains three a round and averages them | evens out the seeds |
"""  # noqa: E501

from .recipe import RECIPE

__all__ = ["RECIPE"]
