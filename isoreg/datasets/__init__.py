"""Real data and shapes in space, for examples, tests and benchmarks."""

from isoreg.datasets.images import DATA_VARIABLE, digits, mnist
from isoreg.datasets.shapes import entangled_rings, torus

__all__ = ["DATA_VARIABLE", "digits", "entangled_rings", "mnist", "torus"]
