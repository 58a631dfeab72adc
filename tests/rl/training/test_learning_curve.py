import numpy as np
import pytest

from rl.training.learning_curve import EvaluationScore, LearningCurve, read_curve, scores_in
from sslcore.errors import DataError
from sslcore.storage import RunDirectory, read_metrics


def test_curves(tmp_path):
    with RunDirectory.create(tmp_path / "run", recipe="{}\n", command=[], seed=0) as run:
        for step, score in ((0, 1.0), (100, 8.0), (200, 5.0)):
            run.log_metrics(step, agent_steps=step // 2, **{"eval/mean_reward": score, "eval/std_reward": 1.0})
            run.log_metrics(step + 50, **{"train/critic_loss": 0.1})
    curve = read_curve(tmp_path / "run")
    assert curve.env_steps.tolist() == [0, 100, 200] and curve.scores.tolist() == [1, 8, 5]
    assert curve.at(199) == 8 and curve.at(200) == 5
    assert curve.steps_to(5) == 100 and curve.steps_to(9) is None
    with pytest.raises(DataError, match="no evaluation up to environment step 10"):
        LearningCurve(np.array([20]), np.array([1.0])).at(10)
    assert scores_in(read_metrics(tmp_path / "run"))[1] == EvaluationScore(100, 50, 8.0, 1.0)
