"""What features may be compared with in place of raw inputs: callables for ``inputs=``."""

from isoreg.references._points import Reference
from isoreg.references.along_data import manifold
from isoreg.references.images import blurred, patches
from isoreg.references.units import scaled, standardized

__all__ = ["Reference", "blurred", "manifold", "patches", "scaled", "standardized"]
