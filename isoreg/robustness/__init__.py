"""Is the model robust? `evaluate` answers, and warns where its figure should not be believed."""

from isoreg.robustness.attacks import ATTACKS, PRESETS
from isoreg.robustness.evaluation import evaluate
from isoreg.robustness.report import RobustnessReport

__all__ = ["ATTACKS", "PRESETS", "RobustnessReport", "evaluate"]
