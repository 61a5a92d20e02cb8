"""A network in place of the edit distance: words become points, and misspelt ones land nearby.

The words are those of Python's own help pages. Each step computes only the distances of the pairs
of a batch, so no table of all pairs is needed. A quarter of the words is kept apart for measuring.
"""

from __future__ import annotations

import re
from pathlib import Path
from pydoc_data.topics import topics

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from examples import save
from isoreg import isometry_penalty
from isoreg.diagnostics import distortion

LONGEST = 12
MISSPELT = ("sequnce", "exeption", "dictonary", "itterator", "atribute", "paramter", "fucntion")


def letters(words: list[str]) -> Tensor:
    """(n, 12) numbers of the letters, from 1 for a; 0 after the last letter."""
    padded = [[ord(c) - 96 for c in word] + [0] * (LONGEST - len(word)) for word in words]
    return torch.tensor(padded)


def edit_distances(a: Tensor, b: Tensor) -> Tensor:
    """(a, b) Levenshtein distances of a words and b words, computed for all pairs at once."""
    ends_a, ends_b = (a > 0).sum(1), (b > 0).sum(1)
    rows = [torch.arange(LONGEST + 1.0).expand(len(a), len(b), -1)]
    for i in range(LONGEST):
        entries = [torch.full_like(rows[-1][..., 0], i + 1.0)]
        for j in range(LONGEST):
            other = (a[:, None, i] != b[None, :, j]).float()
            around = torch.minimum(rows[-1][..., j + 1], entries[-1]) + 1
            entries.append(torch.minimum(around, rows[-1][..., j] + other))
        rows.append(torch.stack(entries, -1))
    ends = torch.stack(rows, 2)  # (a, b, 13, 13)
    ends = ends.gather(2, ends_a[:, None, None, None].expand(-1, len(b), 1, LONGEST + 1))[:, :, 0]
    return ends.gather(2, ends_b[None, :, None].expand(len(a), -1, 1))[..., 0]


def speller(dimensions: int = 32) -> nn.Sequential:
    """A network from letters to points: two convolutions along the word and a hidden layer."""
    layers = [nn.Conv1d(27, 64, 3, padding=1), nn.ReLU(), nn.Conv1d(64, 64, 3, padding=1)]
    end = [nn.Linear(64 * LONGEST, 256), nn.ReLU(), nn.Linear(256, dimensions)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), *end)


def main(picture: Path = Path("words.png"), steps: int = 1_000) -> dict[str, float]:
    """Train, measure on new words, look up misspelt ones, and draw."""
    torch.manual_seed(0)
    words = sorted(set(re.findall(rf"\b[a-z]{{4,{LONGEST}}}\b", " ".join(topics.values()))))
    words = [words[place] for place in torch.randperm(len(words)).tolist()]
    x, known = letters(words), 3 * len(words) // 4
    spelt = nn.functional.one_hot(x, 27).mT.float()
    misspelt = nn.functional.one_hot(letters(list(MISSPELT)), 27).mT.float()
    model = speller()
    matrices = [p for p in model.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if p.ndim != 2]
    muon = torch.optim.Muon(matrices, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    optimizers = [muon, torch.optim.AdamW(rest)]
    for step in range(steps):
        rows = torch.randint(known, (64,))
        edits = edit_distances(x[rows], x[rows])
        loss = isometry_penalty(None, model(spelt[rows]), input_distances=edits)
        model.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 6e-3 * (1 - step / steps)
            optimizer.step()
    points, queries = model(spelt).detach(), model(misspelt).detach()
    new_edits = edit_distances(x[known:], x[known:])
    report = distortion(None, points[known:], input_distances=new_edits)
    print(f"{len(words) - known} words that were not trained on: {report}")
    nearest = torch.cdist(queries, points).topk(30, largest=False).indices
    for word, few in zip(MISSPELT, nearest, strict=True):  # compare with 30 words, not all
        best = few[edit_distances(letters([word]), x[few])[0].topk(3, largest=False).indices]
        print(f"{word}: {', '.join(words[place] for place in best)}")
    pairs = torch.ones_like(new_edits, dtype=torch.bool).triu(1)
    axes = (figure := Figure(figsize=(9, 4), layout="constrained")).subplots()
    lengths = torch.cdist(points[known:], points[known:])[pairs]
    by_edits = {n: lengths[new_edits[pairs] == n] for n in new_edits[pairs].unique().int().tolist()}
    axes.violinplot(list(by_edits.values()), list(by_edits), showextrema=False, widths=0.9)
    for violin in axes.collections:
        violin.set_alpha(0.8)
    axes.axline((0, 0), slope=1, color="tab:red")
    axes.set(xlabel="edits between two new words", ylabel="distance of their points")
    save(figure, picture)
    return {"r": report.correlation, "stress": report.stress}


if __name__ == "__main__":
    main()
