"""Tables of the three parts, from their results."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

from rich.console import Console

from benchmarks.publish import publish
from benchmarks.results import Results
from benchmarks.tables import markdown_table, percent, spread
from benchmarks.timm_models.figure import draw_scale, draw_training

Figures = dict[str, Any]


def report_training(results: Results, console: Console) -> None:
    """Print the tables of the trainings; save them and the figure."""
    publish(results, console, training_tables, draw_training)


def report_scale(results: Results, console: Console) -> None:
    """Print the tables of the scales; save them and the figure."""
    publish(results, console, scale_tables, draw_scale)


def report_finetune(results: Results, console: Console) -> None:
    """Print and save the table of fine-tuning."""
    publish(results, console, finetune_tables)


def training_tables(results: dict[str, Any]) -> str:
    """Of each network what was measured on test images, the choice of settings and the costs."""
    s = results["settings"]
    parts = [
        "# timm's models on photographs\n",
        f"{_training(s, 'schedule')} {_testing(s)} Settings were chosen on {s['choice_images']} "
        f"attacked and {s['validation_images']:,} clean validation images. Mean ± standard "
        "deviation over seeds. Time and memory: of a step, as ratios to plain, taken in turn.\n",
    ]
    for name in s["networks"]:
        runs = grouped(results, name, "method")
        if runs:
            parts += [f"## {name}\n", _measured(results, name, runs), _geometry(runs)]
        parts += [_choice(results, name), _shares(results, name)]
    return "\n".join(part for part in parts if part)


def scale_tables(results: dict[str, Any]) -> str:
    """Every way to measure, on each network, and how far the weights are apart."""
    s = results["settings"]
    share = next(options["share"] for *_, options in s["variants"] if options)
    parts = [
        "# In which unit to compare\n",
        f"{_training(s, 'choice')} Validation images. The weight keeps the penalty's gradient at "
        f"{share:g} of the loss's; what it came to at the end is in the last column. r: Pearson's, "
        "within classes. Stress: at the best factor.\n",
    ]
    variants = [(where, scale) for where, scale, _ in s["variants"]]
    for name in s["networks"]:
        rows = []
        for where, scale in variants:
            found = [
                run["figures"]
                for run in results["runs"]
                if run["key"]["network"] == name
                and (run["key"]["where"], run["key"]["scale"]) == (where, scale)
            ]
            if found:
                rows.append([f"{where}, {scale}" if scale else where, *_scale_row(found)])
        header = ["compared, scale", "clean, %", "r, features", "r, stages", "stress, features"]
        parts += [f"## {name}\n", markdown_table([*header, "scale", "weight"], rows) + "\n"]
    parts += ["## How far the weights are apart\n", _spans(results, variants)]
    return "\n".join(parts)


def finetune_tables(results: dict[str, Any]) -> str:
    """Of each network before and after."""
    s = results["settings"]
    radii = s["radii"]
    parts = [
        "# Fine-tuning\n",
        f"{_training(s, 'schedule')} Then {s['finetuning']['epochs']} more epochs at a rate of "
        f"{s['finetuning']['rate']:g} from there, in three ways. {_testing(s)}\n",
    ]
    for name in s["networks"]:
        runs = grouped(results, name, "tuning")
        rows = [[tuning, *_test_row(found, radii)] for tuning, found in runs.items()]
        if rows:
            parts += [f"## {name}\n", markdown_table(["", *_header(radii)], rows) + "\n"]
    return "\n".join(parts)


def grouped(results: dict[str, Any], name: str, by: str) -> dict[str, list[Figures]]:
    """Figures of all seeds of a network by an entry of the key, in the order of the runs."""
    found: dict[str, list[Figures]] = {}
    for run in results["runs"]:
        key = run["key"]
        if key["network"] == name and by in key and key.get("phase", "test") == "test":
            found.setdefault(key[by], []).append(run["figures"])
    return found


def _training(s: dict[str, Any], which: str) -> str:
    schedule, kind = s[which], "narrow versions" if s["narrow"] else "full width"
    return (
        f"{kind.capitalize()} of timm's models at {s['size']} pixels, {schedule['epochs']} epochs "
        f"of {schedule['images']:,} images in batches of {s['batch_size']}, AdamW at "
        f"{schedule['rate']:g}, timm's augmentation, Mixup {s['mixup']:g} unless it says "
        "otherwise, moving average of the weights."
    )


def _testing(s: dict[str, Any]) -> str:
    attacks = ", ".join(name for group in s["attacks"] for name in group)
    return (
        f"Clean: {s['test_images']:,} test images. Attacked: {s['attacked_images']:,} of them, "
        f"L-inf, worst case for each image over {attacks} of the report card. Corrupted: "
        f"{s['corrupted_images']:,}, mean of noise, blur, contrast and JPEG at five strengths."
    )


def _header(radii: Sequence[int]) -> list[str]:
    attacked = [f"{radius}/255" for radius in radii]
    return ["seeds", "clean", *attacked, "corrupted", "r, features", "stress"]


def _test_row(found: list[Figures], radii: Sequence[int]) -> list[str]:
    features = [figures["distortion"]["features"] for figures in found]
    return [
        str(len(found)),
        percent([figures["clean"] for figures in found]),
        *(percent([f["attacked"]["shares"][f"{radius}"] for f in found]) for radius in radii),
        percent([mean(figures["corrupted"].values()) for figures in found]),
        spread([layer["correlation"] for layer in features], 2),
        spread([layer["fitted stress"] for layer in features], 2),
    ]


def _measured(results: dict[str, Any], name: str, runs: dict[str, list[Figures]]) -> str:
    cost = _cost(results, name)
    rows = []
    for method, found in runs.items():
        setting = found[0]["setting"]
        title = f"{method}, {setting}" if setting else method
        ratios = [
            f"{cost[kind][method]:.2f}" if method in cost.get(kind, {}) else ""
            for kind in ("time", "memory")
        ]
        rows.append([title, *_test_row(found, results["settings"]["radii"]), *ratios])
    header = ["", *_header(results["settings"]["radii"]), "time", "memory"]
    warnings = sum(len(f["attacked"]["warnings"]) for found in runs.values() for f in found)
    kinds = list(next(iter(runs.values()))[0]["corrupted"])
    corrupted = [
        [method, *(percent([f["corrupted"][kind] for f in found]) for kind in kinds)]
        for method, found in runs.items()
    ]
    return (
        f"{markdown_table(header, rows)}\n\nWarnings of the report card: {warnings}.\n\n"
        f"{markdown_table(['accuracy under', *kinds], corrupted)}\n"
    )


def _geometry(runs: dict[str, list[Figures]]) -> str:
    """Pearson's r by layer."""
    layers = list(next(iter(runs.values()))[0]["distortion"])
    rows = [
        [method, *(spread([f["distortion"][x]["correlation"] for f in found], 2) for x in layers)]
        for method, found in runs.items()
    ]
    return markdown_table(["Pearson's r within classes", *layers], rows) + "\n"


def _choice(results: dict[str, Any], name: str) -> str:
    rows = [
        [
            run["key"]["method"],
            run["key"]["setting"],
            percent([run["figures"]["clean"]]),
            percent([run["figures"]["attacked"]]),
        ]
        for run in results["runs"]
        if run["key"].get("phase") == "choose" and run["key"]["network"] == name
    ]
    header = [f"{name}, validation images", "setting", "clean", "2/255"]
    return markdown_table(header, rows) + "\n" if rows else ""


def _shares(results: dict[str, Any], name: str) -> str:
    """The penalty's part of a step."""
    rows = [
        [
            f"{name}, {run['key']['width']} width",
            f"{run['figures']['milliseconds']:.0f} ms",
            str(run["figures"]["layers"]),
            *(f"{100 * run['figures'][pool]:.1f}" for pool in ("flatten", "mean")),
        ]
        for run in results["runs"]
        if run["key"].get("phase") == "share" and run["key"]["network"] == name
    ]
    header = ["the penalty's part of a step, %", "plain step", "stages", "flattened", "pooled"]
    return markdown_table(header, rows) + "\n" if rows else ""


def _cost(results: dict[str, Any], name: str) -> Figures:
    for run in results["runs"]:
        if run["key"] == {"phase": "cost", "network": name}:
            return dict(run["figures"])
    return {}


def _scale_row(found: list[Figures]) -> list[str]:
    layers = [figures["distortion"] for figures in found]
    stages = [[x["correlation"] for n, x in by.items() if n != "features"] for by in layers]
    weights = [f["beta"] for f in found if f["beta"] is not None]
    scales = [f["scale"] for f in found if isinstance(f["scale"], float)]
    return [
        percent([figures["clean"] for figures in found]),
        spread([by["features"]["correlation"] for by in layers], 2),
        spread([mean(values) for values in stages], 2),
        spread([by["features"]["fitted stress"] for by in layers], 2),
        f"{mean(scales):.2g}" if scales else "",
        f"{mean(weights):.3g}" if weights else "",
    ]


def _spans(results: dict[str, Any], variants: Sequence[tuple[str, str]]) -> str:
    """The largest weight over the smallest, among networks."""
    rows = []
    for where, scale in variants:
        by_network: dict[str, list[float]] = {}
        for run in results["runs"]:
            if (run["key"]["where"], run["key"]["scale"]) == (where, scale) and scale:
                by_network.setdefault(run["key"]["network"], []).append(run["figures"]["beta"])
        weights = [mean(values) for values in by_network.values()]
        if weights:
            low, high = min(weights), max(weights)
            rows.append([f"{where}, {scale}", f"{low:.3g}", f"{high:.3g}", f"{high / low:.1f}"])
    header = ["compared, scale", "smallest weight", "largest weight", "ratio"]
    return markdown_table(header, rows) + "\n"
