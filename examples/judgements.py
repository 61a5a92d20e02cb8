"""Distances that people gave: documents become points whose distances are human judgements.

Lee, Pincombe and Welsh (2005) let people judge how similar 50 short news texts are, pair by pair.
The judgements and 300 more texts come with gensim (``pip install gensim``). A linear map of
coordinates made from words learns the judged distances of 40 texts; then it places the other ten by
their words alone. Each text is among these ten once.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor, nn

from examples import save
from isoreg import isometry_penalty

DIMENSIONS = 50


def judged() -> tuple[Tensor, Tensor]:
    """(50, 50) coordinates of the texts by their words, and (50, 50) judged distances."""
    try:
        datapath = importlib.import_module("gensim.test.utils").datapath
    except ModuleNotFoundError as error:
        raise SystemExit(
            "The texts and their judgements are gensim's: pip install gensim"
        ) from error
    texts, background = (
        Path(datapath(name)).read_text(encoding="latin-1").strip().split("\n")
        for name in ("lee.cor", "lee_background.cor")
    )
    counts = TfidfVectorizer(stop_words="english", sublinear_tf=True).fit(texts + background)
    words = TruncatedSVD(DIMENSIONS, random_state=0).fit(counts.transform(texts + background))
    x = torch.from_numpy(words.transform(counts.transform(texts))).float()
    similar = np.triu(np.loadtxt(datapath("similarities0-1.txt")), 1)
    distances = torch.from_numpy(1 - similar - similar.T).float().fill_diagonal_(0)
    return nn.functional.normalize(x), distances


def correlation(judgements: Tensor, distances: Tensor, rows: Tensor) -> float:
    """Pearson's r over the pairs of which one text or both are among ``rows``."""
    chosen = torch.zeros_like(judgements, dtype=torch.bool)
    chosen[rows] = chosen[:, rows] = True
    chosen &= torch.ones_like(chosen).triu(1)
    return torch.corrcoef(torch.stack([judgements[chosen], distances[chosen]]))[0, 1].item()


def main(picture: Path = Path("judgements.png"), steps: int = 100) -> dict[str, float]:
    """Learn from 40 texts and place ten, five times; then draw three tables of distances."""
    x, judgements = judged()
    raw, placed = torch.cdist(x, x), torch.zeros(50, 50)
    before, after = [], []
    for fold in range(5):
        torch.manual_seed(0)
        new = torch.arange(50) % 5 == fold
        model = nn.Linear(DIMENSIONS, DIMENSIONS, bias=False)
        nn.init.eye_(model.weight)  # training starts from the coordinates by words
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(steps):
            noisy = x[~new] + 0.05 * torch.randn_like(x[~new])
            targets = judgements[~new][:, ~new]
            loss = isometry_penalty(None, model(noisy), input_distances=targets, scale="fit")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            points = model(x)
        distances = torch.cdist(points, points)
        placed[new] = distances[new]
        before.append(correlation(judgements, raw, new))
        after.append(correlation(judgements, distances, new))
    figures = {"words alone": float(np.mean(before)), "learnt": float(np.mean(after))}
    print("Pearson's r with people's judgements, pairs with a new text:", figures)
    tables = {"people": judgements, "words alone": raw, "learnt, new texts by row": placed}
    topics = np.argsort(torch.linalg.svd(judgements)[0][:, 1].numpy())
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    for (name, table), axes in zip(tables.items(), figure.subplots(1, 3), strict=True):
        axes.imshow(table[topics][:, topics], vmin=table[table > 0].quantile(0.02))
        axes.set(title=name, xticks=[], yticks=[])
    save(figure, picture)
    return figures


if __name__ == "__main__":
    main()
