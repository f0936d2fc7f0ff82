"""Decides when a generalist is asked about which scan in a training, and keeps its latest answers.

A question takes as long as several training steps. Without a limit, a training would spend most of its time on
questions, and more so the more scans the study has.
"""

from __future__ import annotations

from torch import Tensor

from .memory_cache import MemoryLimitedCache


class Schedule:
    """When to ask about a scan, and the latest answers.

    A scan is due when a window is drawn from it and its last question is older than ``every``. The pace limits the
    number of questions; unused questions may be asked later. While more scans are due than the pace allows, those that
    were due and not asked about most often go first, as their answers will be used most.

    Answers are kept as far as memory allows. A scan whose answer had to be dropped has none until it is asked again.

    Args:
        every: share of the steps after which a question is too old.
        pace: steps for each question: after t steps, at most 1 + t / ``pace`` questions have been asked.
        most: bytes for answers.
    """

    def __init__(self, every: float, pace: int, most: int) -> None:
        self._every = every
        self._pace = pace
        self._answers: MemoryLimitedCache[Tensor] = MemoryLimitedCache(most, lambda answer: answer.nbytes)
        self._asked: dict[str, int] = {}
        self._vain: dict[str, int] = {}
        self._steps = 1
        self._paced = 0

    @staticmethod
    def about(every: float, pace: int, steps: int, scans: int, *, first_paced: bool) -> int:
        """Questions in a training of so many steps on so many scans that are drawn, about.

        Args:
            every: see the class.
            pace: see the class.
            steps: in which questions are asked.
            scans: how many.
            first_paced: whether the first question about a scan counts for the pace.
        """
        again = round(1 / every) - (not first_paced)
        paced = min(steps // max(1, pace), scans * again)
        return paced if first_paced else paced + min(scans, steps)

    def start(self, steps: int) -> None:
        """Forget all answers and prepare for a training of ``steps`` steps."""
        self._steps = steps
        self._paced = 0
        self._asked.clear()
        self._vain.clear()
        self._answers.clear()

    def asked(self, name: str) -> bool:
        """Whether a question about a scan was asked in this training, even if its answer is no longer kept."""
        return name in self._asked

    def turn(self, name: str, step: int) -> bool:
        """Whether to ask now about a scan that is drawn after ``step`` steps.

        Called once for each draw. The caller asks and then calls ``put``.
        """
        if self.asked(name) and step - self._asked[name] < self._every * self._steps:
            return False
        self._vain[name] = self._vain.get(name, 0) + 1
        often = self._vain[name] * len(self._vain) >= sum(self._vain.values())
        return often and self._paced * self._pace <= step

    def put(self, name: str, step: int, answer: Tensor | None, *, paced: bool = True) -> None:
        """Keep an answer.

        Args:
            name: the scan's name.
            step: steps done.
            answer: None when there was nothing to ask.
            paced: whether the question counts for the pace.
        """
        self._asked[name] = step
        self._vain[name] = 0
        self._paced += paced
        if answer is None:
            self._answers.pop(name, None)
        else:
            self._answers[name] = answer

    def answer(self, name: str) -> Tensor | None:
        """The latest answer about a scan, None when there is none or it is no longer kept."""
        return self._answers.get(name)
