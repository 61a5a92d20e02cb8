"""Benchmarks of isoreg: ``python -m benchmarks list`` says what there is."""

from isoreg.errors import import_extra

import_extra("typer", "bench")
