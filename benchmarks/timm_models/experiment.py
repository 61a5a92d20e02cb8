"""Choose settings on validation images, measure the costs, then train and measure.

Which share of a step the penalty takes on each network's stages was measured once: its runs are
kept, without the code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from torch import nn

from benchmarks.claims import Entry
from benchmarks.images import Part, Uses, rows
from benchmarks.methods.registry import versions
from benchmarks.results import Figures, Found, Key, Run
from benchmarks.study import Lab, Lacking, Study
from benchmarks.tables import grouped, with_keys
from benchmarks.timm_models.cost import costs
from benchmarks.timm_models.data import Epochs, Splits, evenly, load
from benchmarks.timm_models.evaluation import measure, worst_case
from benchmarks.timm_models.figure import draw_training
from benchmarks.timm_models.networks import network
from benchmarks.timm_models.report import training_tables
from benchmarks.timm_models.settings import (
    ANSWERED,
    CONTROL,
    ROWS,
    Schedule,
    Settings,
    settings,
)
from benchmarks.timm_models.training import Training, accuracy, train


def splits(lab: Lab[Settings]) -> Splits:
    """The images, read when they are first needed."""
    s = lab.settings
    counts = {"validation_images": s.validation_images, "test_images": s.test_images}
    return lab.once("splits", lambda: load(lab.data_dir, lab.cache, size=s.size, **counts))


def trained(key: Key, schedule: Schedule, lab: Lab[Settings]) -> nn.Sequential:
    """Train the network of a run, and return the moving average of its weights."""
    s, row, seed = lab.settings, ROWS[key["method"]], key.get("seed", 0)
    epochs = lab.once("epochs", lambda: Epochs(splits(lab).train, lab.workers))
    shape: dict[str, Any] = {"classes": epochs.classes, "size": s.size, "narrow": s.narrow}
    training = Training(
        epochs=epochs,
        schedule=schedule,
        batch_size=s.batch_size,
        weight_decay=s.weight_decay,
        mixup=s.mixup if row.mixup else 0.0,
        seed=seed,
        device=lab.device,
        tick=lab.tick,
    )
    return train(network(key["network"], seed=seed, **shape), row.recipes[key["setting"]], training)


_OF_TRAINING = ("size", "batch_size", "weight_decay", "mixup", "narrow", "validation_images")
_OF_TEST = ("test_images", "corrupted_images", "attacked_images", "radii", "attacks")
_OF_COST = ("size", "batch_size", "narrow", "timing_seconds")
_OF_PHASE = {
    "choose": (*_OF_TRAINING, "choice", "choice_images"),
    "test": (*_OF_TRAINING, *_OF_TEST, "schedule"),
    "cost": (*_OF_COST, "measure_memory"),
}


def keys(lab: Lab[Settings]) -> Iterator[Key]:
    """The choice, the costs, seed 0, other seeds: a run stopped after seed 0 is a smaller study."""
    s = lab.settings
    for name in s.networks:
        for method, row in ROWS.items():
            for setting in row.recipes if len(row.recipes) > 1 else ():
                yield {"phase": "choose", "network": name, "method": method, "setting": setting}
    for name in s.networks:
        for method in ROWS:
            yield {"phase": "cost", "network": name, "method": method}
    for seeds in (range(1), range(1, lab.seeds)):
        for name in s.networks:
            for seed in set(seeds) & {0} if name in s.once else seeds:
                for method in ROWS:
                    setting = chosen(lab.runs, name, method)
                    key = {"phase": "test", "network": name, "method": method}
                    yield {**key, "setting": setting, "seed": seed}


def determines(key: Key, settings: Settings) -> dict[str, Any]:
    """The settings of the phase, the recipe and the versions of its methods."""
    phase_settings = {name: asdict(settings)[name] for name in _OF_PHASE[key["phase"]]}
    row = ROWS[key["method"]]
    recipe = row.recipes[key.get("setting", next(iter(row.recipes)))]
    method = {"recipe": recipe, "versions": versions(recipe), "mixup_used": row.mixup}
    return {**phase_settings, **method, "data": "CIFAR-10"}


def chosen(runs: list[Run], name: str, method: str) -> str:
    """The setting with the largest mean of clean and attacked accuracy on validation images.

    Raises:
        Lacking: If a setting was not tried yet.
    """
    settings = list(ROWS[method].recipes)
    if len(settings) == 1:
        return settings[0]
    tried = with_keys({"runs": runs}, phase="choose", network=name, method=method)
    by_setting = grouped(tried, "setting")
    if set(settings) - set(by_setting):
        raise Lacking
    return max(settings, key=lambda s: by_setting[s][0]["clean"] + by_setting[s][0]["attacked"])


def measure_key(key: Key, lab: Lab[Settings]) -> Figures:
    """Try a setting, time steps, or train and measure."""
    s, phase = lab.settings, key["phase"]
    if phase == "cost":
        return _costs(key, lab)
    if phase == "test":
        return measure(trained(key, s.schedule, lab), splits(lab).test, s, lab.device)
    average, validation = trained(key, s.choice, lab), splits(lab).validation
    attacked = worst_case(average, evenly(validation, s.choice_images), (2,), (("pgd-margin",),))
    clean = accuracy(average, validation, lab.device)
    return {"clean": clean, "attacked": attacked["shares"]["2"]}


def _costs(key: Key, lab: Lab[Settings]) -> Figures:
    s = lab.settings
    recipe = next(iter(ROWS[key["method"]].recipes.values()))
    shape: dict[str, Any] = {"size": s.size, "batch": s.batch_size, "narrow": s.narrow}
    how: dict[str, Any] = {"seconds": s.timing_seconds, "measure_memory": s.measure_memory}
    return costs(key["network"], recipe, device=lab.device, **shape, **how)


_CONTROLLED = "isometry, features"


def entries(results: Found) -> dict[str, Entry]:
    """For each method and network: the shares or radii that were tried, and the one taken."""
    tried: dict[tuple[str, str], list[str]] = {}
    taken: dict[tuple[str, str], str] = {}
    for run in results["runs"]:
        key = run["key"]
        if key["phase"] == "choose":
            tried.setdefault((key["network"], key["method"]), []).append(key["setting"])
        elif key["phase"] == "test":
            taken[key["network"], key["method"]] = key["setting"]
    return {
        f"{method}, {network}": Entry(
            tuple(map(_number, tried.get((network, method), ()))),
            _number(setting),
            f"{CONTROL}, {network}" if method == _CONTROLLED else "",
            "one seed, beside the question" if method == "isometry, stages" else "",
        )
        for (network, method), setting in taken.items()
        if setting
    }


def _number(setting: str) -> float:
    """The number in a setting: 0.1 of "share 0.1", 4 of "eps 4/255"."""
    return float(setting.split()[1].partition("/")[0])


STUDY = Study(
    "timm",
    settings,
    keys,
    measure_key,
    training_tables,
    draw_training,
    shows="timm's models on photographs: what the penalty costs and does",
    time="two hours on one core; for a GPU: --device cuda --full-width --epochs 100",
    data="CIFAR-10",
    seeds=3,
    device=True,
    determines=determines,
    frozen=lambda key: key["phase"] == "share" or key["method"] in ANSWERED,
    uses=Uses(
        (rows("CIFAR-10 train", 0, 12_000, shuffled=True),),
        (rows("CIFAR-10 train", 45_000, 50_000, shuffled=True),),
        (Part("CIFAR-10 test"),),
    ),
    entries=entries,
)
