"""The parts of a control report that follow from numbers alone."""

import numpy as np
import pytest

from apps import demo_control
from apps.report.control.figures import Level, PlottedCurve, apart, learning_curve
from apps.report.control.published import PUBLISHED, TASKS, of_task
from apps.report.control.report import lead
from apps.report.control.run import ControlRun
from apps.report.control.scores import (
    common_scores,
    in_words,
    published_levels,
    thinned,
    what_is_beside,
    write_scores,
    write_seeds,
)
from apps.report.control.training import chance
from apps.report.page import Page
from rl.training.evaluation import Episode, PlayedEpisodes
from rl.training.learning_curve import EvaluationScore
from rl.training.recipe import ControlRecipe
from rl.training.statistics import Interval


def run_with(*points, random=None, **settings):
    """A run with mean scores after environment steps, without a directory."""
    run = ControlRun(None)
    run.recipe = ControlRecipe.model_validate(settings)
    run.scores = [EvaluationScore(steps, steps, mean, 1.0) for steps, mean in points]
    run.random = None if random is None else EvaluationScore(0, 0, random, 1.0)
    return run


def dmc(steps, **env):
    return ControlRecipe(env={"name": "cartpole-swingup", "action_repeat": 8, **env}, steps=steps)


def test_published_scores_are_those_of_the_papers():
    assert len(TASKS) == 6
    assert dict(of_task("cartpole-swingup")) == {
        "CURL": {100_000: 582, 500_000: 841}, "DrQ": {100_000: 759, 500_000: 869}, "ResAct": {100_000: 819},
    }  # fmt: skip
    assert of_task("ball-in-cup-catch") == of_task("ball_in_cup-catch") != []
    assert dict(of_task("finger-spin"))["CURL"][100_000] == 767
    assert of_task("surnia/PixelReach-v0") == []
    for one in PUBLISHED:
        assert set(one.scores) == set(TASKS)


@pytest.mark.parametrize(
    ("steps", "names"),
    [
        (8_000, ["CURL 582 at 100k", "DrQ 759 at 100k", "ResAct 819 at 100k"]),
        (100_000, ["CURL 582 at 100k", "DrQ 759 at 100k", "ResAct 819 at 100k"]),
        (496_000, ["CURL 841 at 500k", "DrQ 869 at 500k"]),
    ],
)
def test_a_run_is_compared_at_its_own_length(steps, names):
    assert [level.name for level in published_levels(dmc(steps))] == names


def test_what_does_not_compare_is_said():
    assert "do not compare strictly" in what_is_beside(dmc(100_000, fast_render=True))
    assert "This run is shorter: 8,000 steps" in what_is_beside(dmc(8_000))
    assert "compare strictly" not in what_is_beside(dmc(100_000))


def test_no_score_is_drawn_or_spoken_of_that_was_not_published():
    early, late = what_is_beside(dmc(100_000)), what_is_beside(dmc(500_000))
    assert "ResAct: as tabulated" in early and "no scores" not in early
    assert "ResAct: as tabulated" not in late and late.endswith("ResAct: no scores at 500,000 steps are known.")
    for one in PUBLISHED:
        wanted = {100_000} if one.method == "ResAct" else {100_000, 500_000}
        assert all(set(scores) == wanted for scores in one.scores.values())


def test_names_are_moved_apart():
    assert apart([0.5, 0.1, 0.52, 0.53], 0.05) == pytest.approx([0.5, 0.1, 0.55, 0.6])
    assert apart([], 0.05) == []


def test_the_curve_shows_every_level():
    figure = learning_curve(PlottedCurve([(0, 1.0), (1000, 3.0)]), [Level(40.0, "others 40")])
    [axes] = figure.axes
    assert axes.get_ylim()[1] > 40
    assert [text.get_text() for text in axes.texts] == ["others 40"]


def test_the_band_stays_within_what_scores_can_be():
    """A tenth of the episodes scores 40 and the others 0: mean less deviation would be -8."""
    played = PlayedEpisodes(tuple(Episode(0, i, 40.0 * (i == 9), np.zeros((1, 2))) for i in range(10)))
    assert played.mean - played.std < -7 and played.quartiles == (0.0, 0.0)
    run = run_with()
    run.scores = [EvaluationScore(0, 0, played.mean, played.std, played.quartiles),
                  EvaluationScore(10, 10, 30.0, 9.0, (28.0, 33.0))]  # fmt: skip
    figure, caption = curve_of(run)
    [axes] = figure.axes
    [band] = axes.collections
    assert axes.get_ylim()[0] == 0 and {y for _, y in band.get_paths()[0].vertices} == {0.0, 28.0, 33.0}
    assert "the band goes from their lower to their upper quartile" in caption

    figure, caption = curve_of(run_with((0, 1.0), (10, 2.0)))  # of before quartiles were kept
    assert not figure.axes[0].collections and "band" not in caption


def curve_of(run):
    """The learning curve of one seed, and what is written under it."""
    page = page_of_one_section()
    figure = write_scores(page, run)
    return figure, page.sections[0]["blocks"][0]["figures"][0]["caption"]


def page_of_one_section():
    page = Page("title", "lead")
    page.section("section")
    return page


def test_random_actions_stand_beside_several_seeds():
    runs = [run_with((10, mean), random=2.5) for mean in (7.0, 9.0, 8.0)]
    page = page_of_one_section()
    write_seeds(page, runs)
    rows = page.sections[0]["blocks"][1]["rows"]
    assert rows[0] == ["random actions", "", "2.5", "1.0"] and rows[1] == ["seed 0", "10", "7.0", "1.0"]
    assert "from 7.0 to 9.0; random actions reach 2.5. With so few seeds" in lead(runs)


def test_seeds_are_compared_where_all_were_evaluated():
    runs = [run_with((0, 1.0), (10, 2.0), (20, 3.0)), run_with((0, 5.0), (20, 7.0))]
    steps, table = common_scores(runs)
    assert steps == [0, 20]
    assert table.tolist() == [[1.0, 3.0], [5.0, 7.0]]


def test_seeds_that_were_never_evaluated_at_the_same_step_are_not_summarised():
    said = lead([run_with((10, 2.0)), run_with((20, 7.0))])
    assert said.endswith("Its 2 seeds were never evaluated at the same step.")


def test_the_best_evaluation_is_told_from_the_last():
    said = lead([run_with((10, 7.0), (20, 9.0), (30, 8.0), random=2.0)])
    assert "After 30 environment steps, at its last evaluation, it scores 8.0 on average over 10 episodes" in said
    assert said.endswith("where random actions reach 2.0. Its best evaluation was that after 20 steps: 9.0.")
    assert "best" not in lead([run_with((10, 7.0), (20, 9.0))])
    assert lead([run_with((10, 7.0), evaluation={"episodes": 1})]).endswith("on average over 1 episode.")


def test_few_seeds_are_called_few():
    found = Interval(5.0, 4.0, 6.0, 0.95, 3)
    assert in_words(found, 3, 1000).endswith("from 4.0 to 6.0. With so few seeds the interval says little.")
    assert in_words(found, 5, 1000).endswith("from 4.0 to 6.0.")


def test_long_tables_keep_first_and_last():
    evaluations = run_with(*((i, float(i)) for i in range(100))).scores
    shown = thinned(evaluations, 12)
    assert (len(shown), shown[0].env_steps, shown[-1].env_steps) == (12, 0, 99)
    assert thinned(evaluations[:5], 12) == evaluations[:5]


def test_chance_is_the_logarithm_of_the_batch():
    assert chance(run_with(agent={"batch_size": 128})) == (pytest.approx(4.852, abs=1e-3), "chance 4.85")


def test_the_demo_says_whether_it_learned():
    assert demo_control.answer(run_with((6000, 30.0), random=3.0)).startswith("It learned: 30.0 of 40 points")
    assert demo_control.answer(run_with((6000, 3.5), random=3.0)).startswith("Not yet: 3.5 of 40 points")
