"""Tables and the figure of the MNIST experiment, from its results."""

from rich.console import Console

from benchmarks.results import Results


def report(results: Results, console: Console) -> None: ...
