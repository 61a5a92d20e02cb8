"""``python -m benchmarks``: the commands, or which package they lack."""

from __future__ import annotations

import importlib

from isoreg.errors import import_extra

if __name__ == "__main__":
    import_extra("typer", "bench")
    importlib.import_module("benchmarks.commands").app()
