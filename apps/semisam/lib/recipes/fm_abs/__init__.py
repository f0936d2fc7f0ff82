"""FM-ABS: three outlined slices a scan, and a foundation model that is prompted slice by slice.

"FM-ABS: Promptable Foundation Model Drives Active Barely Supervised Learning for 3D Medical Image Segmentation", MICCAI
2024. A training minimises Eq. 1 with Eq. 3: `L_sup^cross(labelled) + lambda_sam L_sup^SAM(all) + lambda_c L_c(all)`: a
partial cross-entropy on the [annotated planes](../how-to/sparse-labels.md); the noise-tolerant Dice (Eq. 2) against what
the foundation model says in three views, prompted by a mean teacher; and consistency with that teacher. There is no
published code of FM-ABS; its successor's differs from the paper and chooses its model on the test scans.

| paper | here | why |
|---|---|---|
| partial cross-entropy | half of it, half a partial Dice over the same voxels | small structures gain ([measured](../reference/benchmarks.md)) |
| V-Net | a 3D U-Net by default, any other by choice | as in all recipes |
| one structure | several: each view takes the most probable structure with at least 0.5 | studies have several structures |
| Eq. 2 over all voxels | over voxels with a fused label; a class that a window's pseudo-label lacks is left out, and the loss is scaled to the classes that are there | for an absent class Eq. 2 is large and *falls* as its probability rises |
| one box a slice, each side moved outwards by 0-10 pixels | a box for each connected part, none for parts of fewer than three pixels or less than a quarter of the largest; a side moves by at most ten pixels and a fifth of the box | one box around all false positives covers half the scan; ten pixels drown a structure of ten |
| asked from the start, all scans "in a few task-specific rounds" | not queried in the first 40 % of the steps, unless a label of the round before is known; then about a scan that is drawn whose answer is older than a tenth of the training; so many questions a step as keep pace with the training | early predictions contain false positives, and prompting with them reinforces them |
| MobileSAM | any 2D model, slice by slice; a 3D model is asked once a view, with the points and one box of all slices together; a graph cut of each slice where there are no weights | works with what is installed |
| UA or MV over three views | the same; a 2D image has one view, which stands as it is | no other view exists |
| teacher's memory 0.99 | at most 7 % of the training, as for all [teachers](#regularisers) | a memory of 0.99 lags behind in a training of some hundred steps |
| L_c: mean over J perturbations | one teacher pass that sees noise and another contrast together | half the time; not compared |
| "considering labels only when there is consensus" (UA) | the same; voxels between agreement and none (windows are interpolated) are left out too | they hold a mixture of labels |
| one training; two more scans are outlined every few hundred steps | rounds: each further one begins with the labels of the round before; scans are outlined between trainings, a strategy says which | a person cannot be waited for in the middle of a training |
| LC, HE and HER over all voxels | in and around the predicted structures | the share of empty background would decide |
| HER: normalised entropy above beta, which rises during the training | entropy in bits above beta, which rises with the share of scans that are outlined | one bit is two classes in doubt, however many structures there are; a study is scored between trainings |
"""  # noqa: E501

from .recipe import RECIPE

__all__ = ["RECIPE"]
