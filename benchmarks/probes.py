"""Measure what frozen features contain: nearest neighbours, linear probes, clusters."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor

NEIGHBORS = 5


def standardized(known: Tensor, features: Tensor) -> Tensor:
    """Centre features and divide them by one number, so that a probe's penalty means the same.

    The centre is the mean of the known features, the number their root mean squared distance from
    it. Distances keep their ratios.
    """
    mean = known.mean(0)
    size = (known - mean).square().sum(1).mean().sqrt().clamp_min(1e-12)
    return (features - mean) / size


def knn_accuracy(known: Tensor, known_labels: Tensor, features: Tensor, labels: Tensor) -> float:
    """Accuracy of a vote of the five nearest neighbours; in a tie the nearest of them decides."""
    nearest = [
        torch.cdist(x, known).topk(NEIGHBORS, largest=False).indices for x in features.split(1000)
    ]
    votes = known_labels[torch.cat(nearest)]
    counts = (votes[:, :, None] == votes[:, None, :]).sum(2)
    winner = votes.gather(1, counts.argmax(1, keepdim=True))[:, 0]
    return accuracy(winner, labels)


def probe_accuracy(
    known: Tensor, known_labels: Tensor, features: Tensor, labels: Tensor, *, strength: float
) -> float:
    """Accuracy of logistic regression with L2 penalty 1/strength on standardised features."""
    probe = LogisticRegression(C=strength, max_iter=300, tol=1e-3)
    probe.fit(standardized(known, known).numpy(), known_labels.numpy())
    return float(probe.score(standardized(known, features).numpy(), labels.numpy()))


def few_shot_accuracy(
    known: Tensor,
    known_labels: Tensor,
    features: Tensor,
    labels: Tensor,
    *,
    examples: int,
    draws: Iterable[int],
    strength: float,
) -> list[float]:
    """One accuracy per draw, of a probe trained on ``examples`` known features of each class."""
    accuracies = []
    for draw in draws:
        chosen = examples_of_each(known_labels, examples, seed=draw)
        x, y = known[chosen], known_labels[chosen]
        accuracies.append(probe_accuracy(x, y, features, labels, strength=strength))
    return accuracies


def chosen_strength(
    known: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    examples: int,
    strengths: Iterable[float],
) -> float:
    """The inverse penalty with which the probe does best on validation samples.

    A fixed penalty would suit some features better than others, even after standardisation. The
    draws are others than those on which probes are measured.
    """
    draws = range(1000, 1001 if examples >= 100 else 1004)

    def score(strength: float) -> float:
        how = {"examples": examples, "draws": draws}
        return sum(few_shot_accuracy(*known, *validation, **how, strength=strength))  # type: ignore[arg-type]

    return max(strengths, key=score)


def examples_of_each(labels: Tensor, examples: int, *, seed: int) -> Tensor:
    """Indices of ``examples`` random samples of every class, or of all if a class has fewer."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    return torch.cat([order[labels[order] == c][:examples] for c in labels.unique()])


def cluster_information(features: Tensor, labels: Tensor, *, seed: int) -> float:
    """Normalised mutual information of labels and k-means clusters, one cluster a class."""
    means = KMeans(len(labels.unique()), n_init=3, random_state=seed)
    return float(normalized_mutual_info_score(labels.numpy(), means.fit_predict(features.numpy())))


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Share of equal entries."""
    return (predicted == labels).float().mean().item()
