"""``python -m isoreg`` says what a bug report needs."""

from __future__ import annotations

import runpy
import sys
from importlib.metadata import requires

import pytest
import torch

import isoreg
from isoreg import __main__ as report
from isoreg._pairs import engine


def test_it_names_the_versions_and_for_each_size_the_backend_that_serves(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(engine.FORCED, "torch")
    monkeypatch.delitem(sys.modules, "isoreg.__main__")
    monkeypatch.setattr(sys, "argv", ["isoreg"])
    runpy.run_module("isoreg", run_name="__main__")
    text = capsys.readouterr().out
    for line in (
        f"isoreg {isoreg.__version__}",
        f"torch {torch.__version__}",
        "ISOREG_BACKEND=torch",
    ):
        assert line in text
    assert "64 samples on cpu: torch\n" in text
    assert "  triton: cannot, the Triton kernels are for NVIDIA GPUs, not for cpu\n" in text
    assert text.count("  torch: can\n") == 2


def test_it_takes_no_arguments_and_says_what_it_is_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments, code in ((["--help"], 0), (["info"], 2)):
        monkeypatch.setattr(sys, "argv", ["isoreg", *arguments])
        with pytest.raises(SystemExit) as left:
            report.main()
        assert left.value.code == code
    assert "for a bug report" in capsys.readouterr().out


def test_a_backend_that_is_forced_and_cannot_serve_is_reported_and_no_crash(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(engine.FORCED, "triton")
    assert any("none, ISOREG_BACKEND must name a backend" in line for line in report.backends())


def test_every_device_there_is_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for cuda, mps in ((False, False), (True, False), (False, True)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=cuda: there)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda there=mps: there)
        assert report._devices() == ["cpu", *["cuda"] * cuda, *["mps"] * mps]


def test_the_packages_that_are_named_are_those_that_it_can_work_with() -> None:
    brought = " ".join(requires("isoreg") or [])
    assert [name for name in report._PACKAGES if name not in brought] == ["numpy", "triton"]
    assert len(report._PACKAGES) == 10


def test_a_package_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "_PACKAGES", ("no-such-package",))
    assert report.versions()[-1] == "no-such-package: not installed"
    needed = {"isoreg": ["other; extra == 'all'", "no-such-package>=1; extra == 'fast'"]}
    monkeypatch.setattr(report, "requires", needed.get)
    assert report.versions()[-1] == "no-such-package: not installed (extra 'fast')"
