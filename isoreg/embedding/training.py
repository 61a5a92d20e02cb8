"""The training of a map, in which distances are in radii of the classes. Axes: b = batch."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from isoreg._pairs.dense import fitted_scale, mean_stress
from isoreg.diagnostics import distortion_of
from isoreg.embedding.blocks import Blocks, Places
from isoreg.embedding.network import Optimizer
from isoreg.embedding.targets import Targets
from isoreg.errors import InputError
from isoreg.masks import IGNORED

_CHECKS = 40  # how often the stress is measured in a training, at most
_LOOKED_AT = 300  # samples on which it is measured, at most
_SHARPNESS = 2.0  # logits are -(d / (radius / 2))^2 / 2, with d the distance to a prototype


@dataclass(frozen=True)
class Recipe:
    """The numbers of a training; `isoreg.embedding.IsometricEmbedding` says what they mean."""

    steps: int
    learning_rate: float
    noise: float
    beta: float
    beta_all: float
    near: float
    patience: int | None
    verbose: bool


@dataclass
class Pairs:
    """Distances and labels of the samples that a map is learned from.

    Attributes:
        blocks: From places to distances, in the data's unit.
        radius: The number that these distances are divided by.
        targets: The labels, or None.
        prototypes: (k, components) places of the classes, in radii.
        rows: (n, d) the samples in radii, if the distances are Euclidean: they are then faster.
    """

    blocks: Blocks
    radius: float
    targets: Targets | None
    prototypes: Tensor
    rows: Tensor | None = None

    def distances(self, places: Tensor | Places) -> Tensor:
        """(b, b) distances of a batch, in radii, as exact as the metric."""
        return self.blocks(np.asarray(places)) / self.radius

    def training_distances(self, places: Tensor) -> Tensor:
        """(b, b) target distances of a batch; with ``rows`` right to a thousandth of a radius."""
        # cdist multiplies matrices: near copies lose digits in their distances, harmless for a map.
        if self.rows is None:
            return self.distances(places).float()
        rows_bd = self.rows[places.to(self.rows.device)]
        return torch.cdist(rows_bd, rows_bd)

    def loss(self, points: Tensor, places: Tensor, recipe: Recipe) -> Tensor:
        """The training loss: cross-entropy, stress within the classes of each level, and over all.

        All stresses share one table of distances: to compute it for each of them would cost more
        in batches of a few hundred samples.

        Returns:
            The loss of the batch at these points, (b, components) in radii.
        """
        distances_bb = self.training_distances(places).to(points.device)
        map_bb = distances_on_map(points)
        known_bb = (~distances_bb.isnan()).to(points.dtype).fill_diagonal_(0)
        weights_bb = known_bb * near_weights(distances_bb, recipe.near) if recipe.near else known_bb
        distances_bb = distances_bb.nan_to_num()
        if self.targets is None:
            return mean_stress(distances_bb, map_bb, weights_bb, 1.0)

        def stress(weights_bb: Tensor) -> Tensor:
            # The scale is a constant, because the gradient with respect to the best one is 0.
            scale = fitted_scale(distances_bb, map_bb.detach(), weights_bb)
            return mean_stress(distances_bb, map_bb, weights_bb, scale)

        levels = self.targets.levels[:, places].to(points.device)
        same = ((level[:, None] == level) & (level != IGNORED) for level in levels)
        within = torch.stack([stress(weights_bb * same_bb) for same_bb in same]).mean()
        logits = -torch.cdist(points, self.prototypes.to(points)).square() * _SHARPNESS**2 / 2
        cross_entropy = self.targets.cross_entropy(logits, places)
        return cross_entropy + recipe.beta * within + recipe.beta_all * stress(weights_bb)

    def compared(
        self, points: Tensor, places: Places, *, within: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Distances and map distances of the pairs that count, in radii.

        They are the pairs within the classes of the finest level; without classes, all pairs.

        Returns:
            (p,) distances and (p,) distances on the map.
        """
        distances_bb = self.distances(places)
        pairs_bb = torch.ones_like(distances_bb, dtype=torch.bool).triu(1) & ~distances_bb.isnan()
        if self.targets is not None and within:
            finest = self.targets.levels[-1][places]
            pairs_bb &= (finest[:, None] == finest) & (finest != IGNORED)
        return distances_bb[pairs_bb], distances_on_map(points.double().cpu())[pairs_bb]


def distances_on_map(points: Tensor) -> Tensor:
    """(b, b) distances on the map, by differences: exact, and cheap since it has few columns."""
    return torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")


def near_weights(distances_bb: Tensor, power: float) -> Tensor:
    """Weights ``d^-power``, constant where d is below a twentieth of the median of those above 0.

    Near pairs count more: power 1 is Sammon's mapping, 2 elastic scaling.

    Args:
        distances_bb: (b, b) distances; NaN marks one that is not known.
        power: How fast the weight falls.

    Returns:
        (b, b) weights, 1 at the median distance; 0 for a pair that is not known.
    """
    median = distances_bb.where(distances_bb > 0, torch.nan).nanmedian().nan_to_num(1.0)
    relative_bb = (distances_bb / median).clamp_min(0.05)
    return relative_bb.pow(-power).nan_to_num(0)


def train(
    body: nn.Module,
    inputs: Tensor,
    order: Iterator[Tensor],
    pairs: Pairs,
    recipe: Recipe,
    generator: torch.Generator,
    held_out: Places,
) -> dict[str, list[Any]]:
    """Train the body in place.

    With a patience, the weights of the lowest held-out stress are put back at the end.

    Args:
        body: From standardised rows to points, in radii.
        inputs: (n, d) standardised rows.
        order: Batches of places, without end.
        pairs: Distances and labels.
        recipe: The numbers.
        generator: Draws the noise of the inputs.
        held_out: Places whose stress is measured; with a patience they are not in ``order``.

    Returns:
        Lists of the "step", "loss" and held-out "stress" each time that the stress was measured.

    Raises:
        InputError: If the loss does not stay finite.
    """
    optimizer = Optimizer(body, recipe.learning_rate, recipe.steps)
    history: dict[str, list[Any]] = {"step": [], "loss": [], "stress": []}
    every = math.ceil(recipe.steps / _CHECKS)
    best, best_state, since = float("inf"), None, 0
    for step, batch in zip(range(1, recipe.steps + 1), order, strict=False):
        body.train()
        x = inputs[batch.to(inputs.device)]
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float32).to(x.device)
        points, shape = body(x + recipe.noise * noise), (len(batch), pairs.prototypes.shape[1])
        if not isinstance(points, Tensor) or points.shape != shape:
            is_tensor = isinstance(points, Tensor)
            got = f"shape {tuple(points.shape)}" if is_tensor else type(points).__name__
            raise InputError(
                f"network must give {shape} points in training mode as in eval mode, got {got}. "
                "Switch off what it adds in training, as aux_logits."
            )
        loss = pairs.loss(points, batch, recipe)
        optimizer.step(loss)
        if step % every and step != recipe.steps:
            continue
        if not loss.isfinite():
            raise InputError(
                f"training must stay finite, got a loss of {loss.item()} at step {step}. Is the "
                "learning rate, a weight (beta, beta_all) or the noise too large, a distance far "
                "beyond the others, or does the network return NaN?"
            )
        stress = held_out_stress(body, inputs, pairs, held_out[:_LOOKED_AT])
        for name, value in (("step", step), ("loss", loss.item()), ("stress", stress)):
            history[name].append(value)
        if recipe.verbose:
            status = f"loss {loss.item():.3f}, stress {stress:.3f}"
            print(f"\rstep {step}/{recipe.steps}, {status}", end="")
        if recipe.patience is not None:
            since += 1
            if stress < best:
                best, best_state, since = stress, copy.deepcopy(body.state_dict()), 0
            if since >= recipe.patience:
                break
    if recipe.verbose:
        print()
    if best_state is not None:
        body.load_state_dict(best_state)
    return history


@torch.no_grad()
def held_out_stress(body: nn.Module, inputs: Tensor, pairs: Pairs, places: Places) -> float:
    """Kruskal's stress of some samples; with classes at the best scale, as a map is scaled later.

    Returns:
        The stress; NaN without pairs.
    """
    body.eval()
    distances, map_distances = pairs.compared(
        body(inputs[torch.as_tensor(places, device=inputs.device)]), places
    )
    scale = distortion_of(distances, map_distances).scale if pairs.targets else 1.0
    return distortion_of(distances, scale * map_distances).stress
