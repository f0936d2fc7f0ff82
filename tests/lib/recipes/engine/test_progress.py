"""The time that a run still takes: each kind of work counts by what a unit of it has taken."""

from __future__ import annotations

import pytest

from lib.recipes import SilentObserver
from lib.recipes.choices import budget_of
from lib.recipes.engine import progress
from lib.recipes.engine.options import RecipeOptions
from lib.recipes.engine.planning import Plan
from lib.recipes.engine.progress import QUESTIONS, Reporter
from lib.recipes.registry import RECIPES


class Clock:
    """A clock that a test moves on."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def plan(questions: int) -> Plan:
    budget = budget_of(RecipeOptions(preset="quick", rounds=2, max_epochs=1))
    return Plan(budget, trainings=1, unlabelled=10, refines=False, questions=questions)


def test_questions_take_their_own_time_and_not_that_of_a_step(clock: Clock) -> None:
    """The first questions come all at once: a step with one must not be taken for a usual step."""
    work = plan(questions=4).work(0)
    assert (work["training"], work[QUESTIONS]) == (40, 8)
    reporter = Reporter(SilentObserver(), 2, 1, {"training": 40, QUESTIONS: 8})
    reporter.begin("training", 1)
    for _ in range(2):
        clock.now += 30
        reporter.asked()
        clock.now += 1
        reporter.advance("training")
    assert reporter.seconds_left() == pytest.approx(38 * 1 + 6 * 30)


def test_questions_that_a_training_did_not_need_are_not_waited_for(clock: Clock) -> None:
    reporter = Reporter(SilentObserver(), 2, 1, {"training": 40, QUESTIONS: 8})
    reporter.begin("training", 1)
    clock.now += 30
    reporter.asked()
    for _ in range(20):
        clock.now += 1
        reporter.advance("training")
    reporter.settle(0.5)
    assert reporter.seconds_left() == pytest.approx(20 * 1 + 4 * 30)
    reporter.settle(1.0)
    assert reporter.seconds_left() == pytest.approx(20)


def test_a_run_that_goes_on_asks_only_in_the_rounds_that_are_left(clock: Clock) -> None:
    reporter = Reporter(SilentObserver(), 2, 1, {"propagation": 0, "prediction": 0, "refinement": 0, QUESTIONS: 8})
    reporter._stages["training"] = progress._Stage(total=40)
    reporter.resume(1, 0, 20)
    assert reporter._stages[QUESTIONS].done == 4


def test_recipes_that_ask_say_how_often_about() -> None:
    assert {name for name, recipe in RECIPES.items() if recipe.questions(400, 10)} == {"semisam_plus", "fm_abs"}
    plus, abs_ = RECIPES["semisam_plus"].questions, RECIPES["fm_abs"].questions
    assert plus(400, 10) == 10 + 30, "each scan at once, then after each quarter"
    assert plus(400, 100) == 100 + 40, "later ones keep their pace"
    assert abs_(400, 2) == 2 * 6
    assert abs_(400, 100) == 240 // 5
