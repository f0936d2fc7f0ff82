"""When a generalist is asked about which scan in a training, and what it said last.

A question takes as long as several steps: without a bound, a training would spend its time on questions, the more so
the more scans a study has.
"""

from __future__ import annotations

from torch import Tensor

from .kept import Kept


class Schedule:
    """Whose turn it is, and the last answers.

    A scan is asked about when it is drawn and its last question is too old, as far as the pace allows. What is not used
    of the pace may be used later. While there are more such scans than that, those go first that were drawn in vain
    most often: their answers will be used most.

    The answers are kept while there is memory. One that had to go leaves its scan without an answer until its turn.

    Args:
        every: share of the steps after which a question is too old.
        pace: steps for each question, counted from the start of the training: after t of them at most 1 + t / ``pace``.
        most: bytes for answers.
    """

    def __init__(self, every: float, pace: int, most: int) -> None:
        self._every = every
        self._pace = pace
        self._answers: Kept[Tensor] = Kept(most, lambda answer: answer.nbytes)
        self._asked: dict[str, int] = {}
        self._vain: dict[str, int] = {}
        self._steps = 1
        self._paced = 0

    def start(self, steps: int) -> None:
        """Forget all answers and get ready for a training of so many steps."""
        self._steps = steps
        self._paced = 0
        self._asked.clear()
        self._vain.clear()
        self._answers.clear()

    def asked(self, name: str) -> bool:
        """Whether a scan was asked about in this training, also where nothing is left of the answer."""
        return name in self._asked

    def turn(self, name: str, step: int) -> bool:
        """Whether to ask now about a scan that is drawn after ``step`` steps; to be called once a draw.

        Whoever is told to ask calls ``put``.
        """
        if self.asked(name) and step - self._asked[name] < self._every * self._steps:
            return False
        self._vain[name] = self._vain.get(name, 0) + 1
        often = self._vain[name] * len(self._vain) >= sum(self._vain.values())
        return often and self._paced * self._pace <= step

    def put(self, name: str, step: int, answer: Tensor | None, *, paced: bool = True) -> None:
        """Keep an answer, None when there was nothing to ask; what was not ``paced`` leaves the pace as it is."""
        self._asked[name] = step
        self._vain[name] = 0
        self._paced += paced
        if answer is None:
            self._answers.drop(name)
        else:
            self._answers.put(name, answer)

    def answer(self, name: str) -> Tensor | None:
        """The last answer about a scan, None when there is none, or none left."""
        return self._answers.get(name)
