"""What the packages say they hold is there, and what they ask for is what their extras install."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = [
    "isoreg",
    *(f"isoreg.{name}" for name in ("datasets", "embedding", "references", "robustness")),
]


def calls_of(name: str) -> Iterator[tuple[str, list[str]]]:
    """Files and arguments of the calls of a function in the package, its own file left out."""
    for path in (ROOT / "isoreg").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == name:
                yield str(path.relative_to(ROOT)), [ast.literal_eval(a) for a in node.args]


def extras() -> set[str]:
    text = (ROOT / "pyproject.toml").read_text()
    section = text.partition("[project.optional-dependencies]\n")[2].partition("\n[")[0]
    return {line.partition(" = ")[0] for line in section.splitlines() if " = [" in line}


DEFAULTS: dict[str, dict[str, object]] = {
    "AutoBeta": {"share": 0.1, "momentum": 0.95},
    "IsometryRegularizer": {
        "layers": None, "beta": 1.0, "inputs": None, "input_distance": None, "control": False,
        "pool": "flatten", "distance": "euclidean", "scale": 1.0, "reduction": "batch",
        "process_group": None, "queue": None,
    },
    "ReferenceHead": {"layer": None, "weight": 1.0, "pool": "flatten"},
    "RobustLoss": {"norm": "Linf", "warmup_steps": 0, "mean": None, "std": None},
    "isometry_penalty": {
        "labels": None, "distance": "euclidean", "input_distance": None, "scale": 1.0,
        "reduction": "batch", "input_distances": None, "pair_weights": None,
        "process_group": None, "queue": None,
    },
    "datasets.entangled_rings": {"noise": 0.0, "seed": 0},
    "datasets.mnist": {"root": None},
    "datasets.torus": {
        "n": 1600, "radius": 0.67, "tube": 0.33, "noise": 0.001, "regions": "cylinders", "seed": 0,
    },
    "diagnostics.distances_within": {
        "labels": None, "input_distances": None, "distance": "euclidean", "input_distance": None,
        "scale": 1.0,
    },
    "diagnostics.distortion": {
        "labels": None, "input_distances": None, "distance": "euclidean", "input_distance": None,
        "scale": 1.0,
    },
    "distances.geodesic": {"neighbors": 10},
    "distances.pairwise_distances": {"metric": "euclidean"},
    "embedding.IsometricEmbedding": {
        "n_components": 2, "metric": "euclidean", "metric_takes": "rows", "beta": 3.0,
        "beta_all": 3.0, "near": 0.0, "clusterer": None, "network": None, "max_epochs": None,
        "batch_size": 256, "learning_rate": 0.01, "noise": None, "early_stopping": False,
        "validation_fraction": 0.1, "n_iter_no_change": 10, "cache": None, "device": "auto",
        "random_state": None, "verbose": False,
    },
    "lil.LocallyIsometricLayer": {"width": 20, "depth": 4, "activation": nn.Tanh},
    "lil.StackedLIL": {
        "width": 20, "depth": 4, "gradients": "own", "heads": "shared", "reference": "inputs",
    },
    "masks.pair_weights": {"dtype": torch.float32, "device": None},
    "plots.distance_histograms": {
        "labels": None, "distance": "euclidean", "bins": 40, "axes": None,
    },
    "plots.shepard": {"labels": None, "distance": "euclidean", "axes": None},
    "references.manifold": {"reference": None, "neighbors": 10, "dimensions": 30, "spread": 10.0},
    "references.patches": {"size": 7, "filters": 32, "grid": 3, "seed": 0},
    "references.scaled": {"spread": 10.0},
    "references.standardized": {"spread": 10.0},
    "robustness.evaluate": {
        "norm": "Linf", "attacks": "standard", "bounds": (0.0, 1.0), "mean": None, "std": None,
        "transfer_from": None, "training_loss": None, "certified": False, "batch_size": 500,
        "seed": 0, "progress": None,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_are_those_that_users_have_trained_with(name: str) -> None:
    module, _, public = f"isoreg.{name}".rpartition(".")
    parameters = inspect.signature(getattr(importlib.import_module(module), public)).parameters
    given = {k: p.default for k, p in parameters.items() if p.default is not p.empty}
    assert given == DEFAULTS[name]


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_of_a_package_is_there(name: str) -> None:
    package = importlib.import_module(name)
    for public in package.__all__:
        assert hasattr(package, public), public


def test_what_is_asked_for_exists_and_its_extra_is_declared() -> None:
    found = sorted(calls_of("import_extra"))
    assert len(found) > 10
    for file, (module, extra) in found:
        assert extra in extras(), file
        importlib.import_module(module)


@pytest.mark.parametrize(
    ("package", "module", "extra"),
    [
        ("isoreg.embedding", "sklearn", "embedding"),
        ("isoreg.integrations.lightning", "lightning.pytorch", "lightning"),
        ("isoreg.integrations.transformers", "transformers", "transformers"),
    ],
)
def test_a_room_whose_library_is_missing_names_the_extra_when_it_is_imported(
    package: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    for name in [n for n in sys.modules if n == package or n.startswith(package + ".")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)  # type: ignore[arg-type]
    with pytest.raises(ImportError, match=rf"isoreg\[{extra}\]"):
        importlib.import_module(package)


def test_rooms_that_need_an_extra_are_there_once_they_are_asked_for() -> None:
    code = (
        "import sys, isoreg\n"
        "assert not {'isoreg.embedding', 'isoreg.integrations'} & set(sys.modules)\n"
        "print(isoreg.integrations.loading.PairwiseCollate.__name__)\n"
        "try: isoreg.embeddings\n"
        "except AttributeError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "PairwiseCollate\nmodule 'isoreg' has no attribute 'embeddings'\n"
