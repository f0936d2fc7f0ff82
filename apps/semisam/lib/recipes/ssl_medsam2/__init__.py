"""SSL-MedSAM2: pseudo-labels without training, then cross-validated trainings that relabel the scans they have not seen.

Gong and Chen, "SSL-MedSAM2: A semi-supervised medical image segmentation framework powered by few-shot learning of
SAM2", Algorithm 1 and section 2.2. The human labels are propagated (Algorithm 2 with the propagator `video`). In each
cycle the unlabelled scans are split into five folds; five networks learn from all human labels and the pseudo-labels of
four folds each, and relabel the fold that they have not seen. The mean of the five is the specialist.

| paper | here | why |
|---|---|---|
| Algorithm 2: MedSAM2 follows the labelled volume inserted into the unlabelled one | the server's propagator: `registration` by default, `video` is the paper's | `video` needs weights |
| every slice is encoded anew for each insertion and direction (code) | `video` encodes each slice once, prompts with some of the labelled slices, and follows all structures at once | time |
| each labelled volume in turn, the plain mean of their answers | the three most similar outlined scans, weighted by confidence and by how well each matches | time; an unlike scan misleads |
| threshold of the mean probability over R insertions | probabilities with a confidence are kept; R, which the paper leaves open, is five; of each label only the largest component stays | as in all recipes; a tracker leaves specks far from the structure |
| nnU-Net, hard labels, 1000 epochs | MONAI's DynUNet on soft labels by default; network `nnunetv2` is nnU-Net with its own planning and training, and the longest of its stock trainers within the preset's epochs | a result in minutes; nnU-Net when there is time |
| "fully supervised" | no regulariser unless one is chosen; on pseudo-labels the noise-tolerant Dice of FM-ABS, on human labels the plain one | pseudo-labels are wrong in places |
| all labels are drawn alike | half of the windows come from human labels; with `nnunetv2` all alike | few human labels would be drowned |
| cycles until convergence; two or three | the preset's or the request's rounds | nothing tells convergence without a truth |
| five folds | five; with fewer unlabelled scans each is a fold of its own, trained again with other seeds | a fold must not be empty |
| 1000 epochs a fold | the preset's epochs a fold: a round takes five times as long as in other recipes | each fold starts from scratch |
"""  # noqa: E501

from .recipe import RECIPE

__all__ = ["RECIPE"]
