"""Tables of the study of timm's models."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from benchmarks.results import Figures, Found
from benchmarks.tables import SEEDS, Column, grouped, page, table, with_keys


def training_tables(results: Found) -> str:
    """The page: for each network the test images, the choice of settings and the costs."""
    s = results["settings"]
    parts = [
        "# timm's models on photographs",
        f"{_training(s)} {_testing(s)} Settings were chosen on {s['choice_images']} "
        f"attacked and {s['validation_images']:,} clean validation images. Mean ± standard "
        "deviation over seeds. Time and memory: of a step, as ratios to plain, taken in turn.",
    ]
    for name in s["networks"]:
        if with_keys(results, phase="test", network=name):
            parts += [f"## {name}", *_measured(results, name)]
        parts += [_choice(results, name), _shares(results, name)]
    return page(*parts)


def _training(s: Figures) -> str:
    schedule, kind = s["schedule"], "narrow versions" if s["narrow"] else "full width"
    return (
        f"{kind.capitalize()} of timm's models at {s['size']} pixels, {schedule['epochs']} epochs "
        f"of {schedule['images']:,} images in batches of {s['batch_size']}, AdamW at "
        f"{schedule['rate']:g}, timm's augmentation, Mixup {s['mixup']:g} unless it says "
        "otherwise, moving average of the weights."
    )


def _testing(s: Figures) -> str:
    attacks = ", ".join(name for group in s["attacks"] for name in group)
    return (
        f"Clean: {s['test_images']:,} test images. Attacked: {s['attacked_images']:,} of them, "
        f"L-inf, worst case for each image over {attacks} of the report card. Corrupted: "
        f"{s['corrupted_images']:,}, mean of noise, blur, contrast and JPEG at five strengths."
    )


def _columns(radii: Sequence[int]) -> list[Column]:
    return [
        SEEDS,
        Column("clean", "clean"),
        *(Column(f"{radius}/255", f"attacked/shares/{radius}") for radius in radii),
        Column("corrupted", lambda figures: mean(figures["corrupted"].values())),
        Column("r, features", "distortion/features/correlation", 2),
        Column("stress", "distortion/features/fitted stress", 2),
    ]


def _measured(results: Found, name: str) -> list[str]:
    """Tables of the test, of accuracy by kind of corruption, and of Pearson's r by layer."""
    tested = with_keys(results, phase="test", network=name)
    by_method = grouped(tested, "method")
    cost = grouped(with_keys(results, phase="cost", network=name), "method")
    titles = {run["key"]["method"]: run["key"]["setting"] for run in tested}
    rows = {
        f"{method}, {titles[method]}" if titles[method] else method: [
            {**figures, "cost": cost.get(method, [{}])[0]} for figures in runs
        ]
        for method, runs in by_method.items()
    }
    ratios = [Column(kind, f"cost/{kind}", form=".2f") for kind in ("time", "memory")]
    first = next(iter(by_method.values()))[0]
    warnings = sum(len(f["attacked"]["warnings"]) for runs in by_method.values() for f in runs)
    corrupted = [Column(kind, f"corrupted/{kind}") for kind in first["corrupted"]]
    layers = [Column(x, f"distortion/{x}/correlation", 2) for x in first["distortion"]]
    return [
        table("", rows, [*_columns(results["settings"]["radii"]), *ratios]),
        f"Warnings of the report card: {warnings}.",
        table("accuracy under", by_method, corrupted),
        table("Pearson's r within classes", by_method, layers),
    ]


def _choice(results: Found, name: str) -> str:
    runs = grouped(with_keys(results, phase="choose", network=name), ("method", "setting"))
    columns = [Column("clean", "clean"), Column("2/255", "attacked")]
    return table((f"{name}, validation images", "setting"), runs, columns) if runs else ""


def _shares(results: Found, name: str) -> str:
    """A table of the penalty's part of a step."""
    runs = grouped(with_keys(results, phase="share", network=name), "width")
    rows = {f"{name}, {width} width": figures for width, figures in runs.items()}
    columns = [
        Column("plain step", lambda f: f"{f['milliseconds']:.0f} ms"),
        Column("stages", "layers", 0),
        Column("flattened", "flatten"),
        Column("pooled", "mean"),
    ]
    return table("the penalty's part of a step, %", rows, columns) if runs else ""
