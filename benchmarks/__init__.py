"""Benchmarks of isoreg: ``python -m benchmarks list`` says what there is."""
