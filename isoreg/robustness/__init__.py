"""Is the model robust? An answer that stands, and a warning where it should not be believed."""

from isoreg.robustness.attacks import ATTACKS, PRESETS
from isoreg.robustness.evaluation import evaluate
from isoreg.robustness.report import RobustnessReport

__all__ = ["ATTACKS", "PRESETS", "RobustnessReport", "evaluate"]
