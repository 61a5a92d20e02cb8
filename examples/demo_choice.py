"""Choose strengths for the demo's penalty and its control: ``python -m examples.demo_choice``.

Each strength is chosen by itself, by the same rule: with it, a linear probe that knows one example
of each digit is most accurate on the validation images. Test images are not used.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean

import torch
from rich.progress import track

from examples.demo import SEEDS, features_of, load, probe, train

GRIDS = {
    "isometry": (0.03, 0.1, 0.3, 1.0),
    "control": (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
}


def main(
    path: Path = Path("demo-choice.json"),
    grids: dict[str, tuple[float, ...]] = GRIDS,
    seeds: int = SEEDS,
) -> dict[str, dict[str, float]]:
    """Validation accuracy in % by training and strength, mean over seeds; printed and saved."""
    torch.set_num_threads(1)
    data = load()
    accuracies: dict[str, dict[str, float]] = {name: {} for name in grids}
    jobs = [(name, beta) for name, grid in grids.items() for beta in grid]
    for name, beta in track(jobs, f"{seeds} small networks at each of {len(jobs)} strengths"):
        shots = []
        for seed in range(seeds):
            model = train(data["train"], seed, beta=beta, control=name == "control")
            shots.append(100 * probe(data, features_of(model, data), examples=1)[0])
        accuracies[name][f"{beta:g}"] = round(mean(shots), 1)
    for name, by_beta in accuracies.items():
        print(f"{name}: {chosen(by_beta):g} of {by_beta}")
    path.write_text(json.dumps(accuracies, indent=1) + "\n")
    return accuracies


def chosen(by_beta: dict[str, float]) -> float:
    """The strength with the highest accuracy."""
    return float(max(by_beta, key=lambda beta: by_beta[beta]))


if __name__ == "__main__":
    main()
