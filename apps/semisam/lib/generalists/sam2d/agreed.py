"""A first click on a picture, answered by the network and another method together: what most of their masks agree on.

A single click means a part or the whole, and the network's own score prefers the part that it is surest of. What it
answers in many ways, and another method in its own, agree on the structure more often than on anything else. So the
answer is that mask, of all that were offered, which is most like the others, counting the network's score and the
clicks that a mask contradicts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .asked import Asked
from .boxes import box_of
from .candidates import Candidates
from .single import Question, SliceAnswers

OTHER_SCORE = 0.6
"""What counts as the score of the other method's mask, which has none."""
LIKE_OTHERS, LIKE_THE_OTHER, CONTRADICTS = 1.0, 0.3, 0.5
"""Weights against the network's score: mean Dice with all masks, Dice with the other method's, a click contradicted.
Chosen on frames of ``polyp_cvc`` that ``benchmarks/bench_real_weights.py`` does not measure."""


def agreed(answers: SliceAnswers, index: int, asked: Asked, other: Tensor) -> Tensor | None:
    """The network's mask that most agree on.

    Args:
        answers: asks the network; it notes the answer for ``remember``.
        index: the slice.
        asked: the click on it.
        other: another method's mask of the slice, logits ``[h, w]`` at the masks' resolution.

    Returns:
        Logits ``[h, w]``; None where it is the other method's mask that most agree on.
    """
    found = _offered(answers, index, asked, other)
    plain = answers.padded(other)[None]
    points, positive = answers.clicks(index, asked)
    offered = found.and_others(answers.judged(plain, torch.tensor([OTHER_SCORE]), points, positive))
    like = offered.alike()
    last = len(like) - 1
    value = offered.scores + LIKE_OTHERS * (like.sum(1) - 1) / last - CONTRADICTS * offered.wrong
    value[:last] += LIKE_THE_OTHER * like[:last, last]
    best = int(value.argmax())
    return None if best == last else answers.taken(index, offered, best)


def _offered(answers: SliceAnswers, index: int, asked: Asked, other: Tensor) -> Candidates:
    """Masks after the click alone, and with the other method's mask, with its box, and with both."""
    points, positive = answers.clicks(index, asked)
    questions = [(Question(points, positive, None, None), True)]
    if bool((other > 0).any()):
        box = box_of(other, answers.canvas.patch / 4)
        hint = answers.padded(other)
        questions += [(Question(points, positive, box, None), several) for several in (False, True)]
        questions += [(Question(points, positive, b, hint), False) for b in (box, None)]
    found = [answers.answer(index, question, several=several) for question, several in questions]
    first = found[0]
    for more in found[1:]:
        first = first.and_others(more)
    return first
