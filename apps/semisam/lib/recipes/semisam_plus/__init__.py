"""SemiSAM+: a specialist in training prompts frozen foundation models about unlabelled scans.

[SemiSAM+](https://arxiv.org/abs/2502.20749), sections 3.4 and 3.5. A training minimises Eq. 13, with several generalists
Eq. 14: `L_sup + lambda L_unsup + beta sum L_sam`. The specialist's prediction becomes prompts (Eq. 10), several random
ones; how much the generalist's answers differ is its uncertainty U (Eq. 11); the student is drawn to the mean answer
where U is low (Eq. 12 with Eq. 4 and 5). `lambda L_unsup` is one of the [regularisers](#regularisers).

| paper | here | why |
|---|---|---|
| starts without any label of the other scans | starts from propagated labels, which are learned as well, with a weight; further rounds start from the last predictions | one outlined scan is too little to prompt with |
| random 128³ windows are asked about | whole scans, once each; answers of `mind` are kept for a quarter of the training, then asked again when the scan is drawn | an encoding is used many times; a CPU can follow |
| the prompt is the current prediction | the first question about a scan is about its current label, later ones to `mind` about the current prediction. A promptable model that knows structures is asked about each label once | a network that has just begun cannot prompt; asked again about predictions, a model made the network worse ([measured](../reference/foundation-models-measured.md)) |
| answers are learned by Eq. 12 | also as the scan's label, with full weight, where the answers of a model that knows structures agree | the labels get better by its answers; by Eq. 12 alone little of that reached the network ([measured](../reference/foundation-models-measured.md)) |
| Eq. 11: a statistical discrepancy D of n answers | n = 4; D is twice the largest standard deviation of a class, 0..1 | the paper leaves both open |
| Eq. 12: the answer to one prompt | the mean of the n answers | they are there already |
| Eq. 5: threshold u_th | U < 0.2 | the paper leaves it open |
| beta, not stated (the code: 0.01, falling) | rises to 2 over the first 40 % of the steps | early answers are about poor prompts |
| lambda, left open (the code: 0.1, with noise of 0.1 for the teacher) | 0.1 and noise of 0.1 | the published code's |
| Eq. 4: squared norm over the classes, for the generalist and in UA-MT and AC-MT alike | the generalist's term is summed over the classes; the regularisers' terms are means over them | with a lambda of its own the factor is only a scale |
| points and mask from the coarse segmentation | points where the specialist is most certain; masks randomly widened or narrowed. A 2D model: the mask, or the box around it on each slice | different prompts are what Eq. 11 needs; beside a mask, random points spoil a 2D model's answers |
| each generalist is asked about everything | it first has to correct a wrong outline (a tenth larger or smaller, moved by 6 % of its size) on at most two outlined scans, by 0.01 Dice; then it is asked about the structures that it corrects, by the mask if that does it, else by boxes. Where it corrects none, the random walk on `mind` takes its place | what a model does not know it gets wrong every time in the same way, and seems certain |
| each answer counts | one that overlaps less than 0.6 with what it was asked about counts as that | it is about something else |
| promptable models only | a generalist that takes no prompts is asked by a random walk over its features; the mean answer then keeps the structures' sizes | `mind` needs no weights; features tell where a structure ends, not how large it is |
| one target | all structures at once; where one was not asked about, the answer says nothing | studies have several structures |
| Eq. 8 (DAN): `-BCE(E(S(x), x), 0)` | the non-saturating form: minus log of the probability of "outlined" | it has a gradient where the discriminator is sure; usual since 2014 |
| UA-MT: one teacher pass is the target, eight give the entropy | the mean of the eight passes is both | it is there already, and less noisy |
| teacher asked in every step | in every third, counting three times | the same pull on average, a third of the time |
| the code divides the generalist's term by itself: its gradient is zero; uncertain voxels count more | as in the paper; the norm of the term's gradient is logged | else the foundation model has no say |
"""  # noqa: E501

from .recipe import RECIPE

__all__ = ["RECIPE"]
