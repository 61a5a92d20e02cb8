"""Tables of the three parts, from their results."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from benchmarks.results import Figures, Found
from benchmarks.tables import SEEDS, Column, grouped, markdown_table, percent, table, with_keys
from benchmarks.timm_models.settings import SHARE, VARIANTS

FEATURES = "features"


def training_tables(found: Found) -> str:
    """Of each network what was measured on test images, the choice of settings and the costs."""
    s = found["settings"]
    parts = [
        "# timm's models on photographs\n",
        f"{_training(s, 'schedule')} {_testing(s)} Settings were chosen on {s['choice_images']} "
        f"attacked and {s['validation_images']:,} clean validation images. Mean ± standard "
        "deviation over seeds. Time and memory: of a step, as ratios to plain, taken in turn.\n",
    ]
    for name in s["networks"]:
        runs = grouped(with_keys(found, phase="test", network=name), "method")
        if runs:
            parts += [f"## {name}\n", _measured(found, name), _geometry(runs)]
        parts += [_choice(found, name), _shares(found, name)]
    return "\n".join(part for part in parts if part)


def scale_tables(found: Found) -> str:
    """Every way to measure, on each network, and how far the weights are apart."""
    s = found["settings"]
    parts = [
        "# In which unit to compare\n",
        f"{_training(s, 'choice')} Validation images. The weight keeps the penalty's gradient at "
        f"{SHARE:g} of the loss's; what it came to at the end is in the last column. r: Pearson's, "
        "within classes. Stress: at the best factor.\n",
    ]
    columns = [
        Column("clean, %", "clean"),
        Column("r, features", "distortion/features/correlation", 2),
        Column("r, stages", _mean_of_stages, 2),
        Column("stress, features", "distortion/features/fitted stress", 2),
        Column("scale", text=lambda runs: _mean(runs, "scale", ".2g")),
        Column("weight", text=lambda runs: _mean(runs, "beta", ".3g")),
    ]
    for name in s["networks"]:
        rows = {
            f"{where}, {scale}" if scale else where: [run["figures"] for run in runs]
            for where, scale in VARIANTS
            if (runs := with_keys(found, network=name, where=where, scale=scale))
        }
        parts += [f"## {name}\n", table("compared, scale", rows, columns) + "\n"]
    parts += ["## How far the weights are apart\n", _spans(found)]
    return "\n".join(parts)


def finetune_tables(found: Found) -> str:
    """Of each network before and after."""
    s = found["settings"]
    parts = [
        "# Fine-tuning\n",
        f"{_training(s, 'schedule')} Then {s['finetuning']['epochs']} more epochs at a rate of "
        f"{s['finetuning']['rate']:g} from there, in three ways. {_testing(s)}\n",
    ]
    for name in s["networks"]:
        if runs := grouped(with_keys(found, network=name), "tuning"):
            parts += [f"## {name}\n", table("", runs, _columns(s["radii"])) + "\n"]
    return "\n".join(parts)


def _training(s: Figures, which: str) -> str:
    schedule, kind = s[which], "narrow versions" if s["narrow"] else "full width"
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


def _measured(found: Found, name: str) -> str:
    tested = with_keys(found, phase="test", network=name)
    by_method = grouped(tested, "method")
    cost = {
        run["key"]["method"]: run["figures"] for run in with_keys(found, phase="cost", network=name)
    }
    titles = {run["key"]["method"]: run["key"]["setting"] for run in tested}
    rows = {
        f"{method}, {titles[method]}" if titles[method] else method: [
            {**figures, "cost": cost.get(method, {})} for figures in runs
        ]
        for method, runs in by_method.items()
    }
    ratios = [
        Column(kind, text=lambda f, k=kind: f"{f[0]['cost'][k]:.2f}" if k in f[0]["cost"] else "")  # type: ignore[misc]
        for kind in ("time", "memory")
    ]
    kinds = list(next(iter(by_method.values()))[0]["corrupted"])
    warnings = sum(len(f["attacked"]["warnings"]) for runs in by_method.values() for f in runs)
    corrupted = [Column(kind, f"corrupted/{kind}") for kind in kinds]
    return (
        f"{table('', rows, [*_columns(found['settings']['radii']), *ratios])}\n\n"
        f"Warnings of the report card: {warnings}.\n\n"
        f"{table('accuracy under', by_method, corrupted)}\n"
    )


def _geometry(runs: dict[str, list[Figures]]) -> str:
    """Pearson's r by layer."""
    layers = list(next(iter(runs.values()))[0]["distortion"])
    columns = [
        Column(x, lambda f, x=x: f["distortion"][x]["correlation"], 2)  # type: ignore[misc]
        for x in layers
    ]
    return table("Pearson's r within classes", runs, columns) + "\n"


def _choice(found: Found, name: str) -> str:
    rows = [
        [
            run["key"]["method"],
            run["key"]["setting"],
            percent([run["figures"]["clean"]]),
            percent([run["figures"]["attacked"]]),
        ]
        for run in with_keys(found, phase="choose", network=name)
    ]
    header = [f"{name}, validation images", "setting", "clean", "2/255"]
    return markdown_table(header, rows) + "\n" if rows else ""


def _shares(found: Found, name: str) -> str:
    """The penalty's part of a step."""
    rows = [
        [
            f"{name}, {run['key']['width']} width",
            f"{run['figures']['milliseconds']:.0f} ms",
            str(run["figures"]["layers"]),
            *(f"{100 * run['figures'][pool]:.1f}" for pool in ("flatten", "mean")),
        ]
        for run in with_keys(found, phase="share", network=name)
    ]
    header = ["the penalty's part of a step, %", "plain step", "stages", "flattened", "pooled"]
    return markdown_table(header, rows) + "\n" if rows else ""


def _mean_of_stages(figures: Figures) -> float:
    layers = figures["distortion"].items()
    return float(mean(x["correlation"] for name, x in layers if name != FEATURES))


def _mean(runs: Sequence[Figures], name: str, form: str) -> str:
    values = [figures[name] for figures in runs if isinstance(figures[name], float)]
    return f"{mean(values):{form}}" if values else ""


def _spans(found: Found) -> str:
    """The largest weight over the smallest, among networks."""
    rows = []
    for where, scale in VARIANTS:
        runs = with_keys(found, where=where, scale=scale) if scale else []
        weights = [
            mean(f["beta"] for f in of_network) for of_network in grouped(runs, "network").values()
        ]
        if weights:
            low, high = min(weights), max(weights)
            rows.append([f"{where}, {scale}", f"{low:.3g}", f"{high:.3g}", f"{high / low:.1f}"])
    header = ["compared, scale", "smallest weight", "largest weight", "ratio"]
    return markdown_table(header, rows) + "\n"
