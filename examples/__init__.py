"""Examples of isoreg; each runs as ``python -m examples.NAME``."""
