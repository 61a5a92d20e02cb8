"""``python -m isoreg`` prints versions, and which backend computes here and why."""

from __future__ import annotations

import argparse
import os
import platform
from importlib.metadata import PackageNotFoundError, requires, version

import torch

import isoreg
from isoreg._pairs import engine
from isoreg._pairs.plan import Call
from isoreg.errors import IsoregError

_PACKAGES = (
    "numpy",
    "numba",
    "triton",
    "scikit-learn",
    "torchvision",
    "timm",
    "transformers",
    "lightning",
    "accelerate",
    "torchattacks",
)


def main() -> None:
    """Print what a bug report should contain."""
    about = "Print versions, and which backend serves here and why, for a bug report."
    argparse.ArgumentParser("python -m isoreg", description=about).parse_args()
    print("\n".join([*versions(), "", *backends()]))


def versions() -> list[str]:
    """Return lines for isoreg, Python, torch, and each package that isoreg can work with."""
    threads = f"{torch.get_num_threads()} threads"
    lines = [
        f"isoreg {isoreg.__version__}",
        f"Python {platform.python_version()} on {platform.platform()}",
        f"torch {torch.__version__}, {threads}, matmul precision {_precision()}",
        f"devices: {', '.join(_devices())}",
    ]
    for name in _PACKAGES:
        try:
            lines.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            lines.append(f"{name}: not installed{_extra_of(name)}")
    return lines


def backends() -> list[str]:
    """Return which backend computes two batches on each device, and why another does not."""
    forced = os.environ.get(engine.FORCED)
    lines = [f"{engine.FORCED}={forced}"] if forced else []
    for device in _devices():
        for size in (64, 1024):
            lines.append(f"{size} samples on {device}: {_served_by(device, size)}")
            lines += [f"  {name}: {why}" for name, why in _reasons(device, size).items()]
    return lines


def _served_by(device: str, size: int) -> str:
    scales = torch.ones(1, device=device)
    try:
        engine.compare(_call(device, size), scales, 1.0, needs_grad=True)
    except (IsoregError, RuntimeError) as error:
        return f"none, {error}"
    choice = engine.last_choice()
    assert choice is not None
    return choice.name


def _reasons(device: str, size: int) -> dict[str, str]:
    """Return for each backend whether it can compute such a batch, or why it cannot."""
    call, reasons = _call(device, size), dict[str, str]()
    for name in engine._BACKENDS:
        refused = engine._load(name).refuses(call)
        reasons[name] = f"cannot, {refused}" if refused else "can"
    return reasons


def _call(device: str, size: int) -> Call:
    points, features = torch.rand(2, size, 16, device=device)
    return Call(points, [features], torch.arange(size, device=device) % 4)


def _devices() -> list[str]:
    devices = ["cpu"]
    if torch.cuda.is_available():
        devices.append("cuda")
    if torch.backends.mps.is_available():
        devices.append("mps")
    return devices


def _precision() -> str:
    return torch.get_float32_matmul_precision()


def _extra_of(package: str) -> str:
    """Return which extra of isoreg installs a package, read from the distribution's metadata."""
    try:
        lines = requires("isoreg") or []
    except PackageNotFoundError:
        return ""
    extras = [
        line.partition("extra == ")[2].strip("'\" )")
        for line in lines
        if line.startswith(package) and "extra == " in line
    ]
    return f" (extra '{extras[0]}')" if extras else ""


if __name__ == "__main__":
    main()
