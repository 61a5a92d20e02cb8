"""Run by ``make dist``, the built wheel installed beside torch alone: it is whole, and it works."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import core_alone


def main() -> None:
    import isoreg

    home = Path(isoreg.__file__).parent
    if home.parent.name != "site-packages":
        sys.exit(f"this is not the installed package: {home}")
    if not (home / "py.typed").exists():
        sys.exit("py.typed is missing, so type checkers would ignore the types")
    version = importlib.metadata.version("isoreg")
    if version != isoreg.__version__:
        sys.exit(f"the wheel calls itself {version}, the package {isoreg.__version__}")
    core_alone.main()
    print(f"the wheel of isoreg {version} installs and works")


if __name__ == "__main__":
    main()
