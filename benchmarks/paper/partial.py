"""Partial isometry: a penalty that pulls the Jacobian of probabilities to a scaled isometry.

Source: Shi-Garrier, Bouaynaya and Delahaye (2024), "Adversarial Robustness with Partial Isometry",
Entropy 26, 103.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_INSIDE = 1e-6


def partial_isometry(images: Tensor, logits: Tensor, radius: float) -> Tensor:
    r"""Distance of the Jacobian from an isometry that would protect the L2 ball of this radius.

    The map :math:`2 \sqrt p` takes probabilities :math:`p` to a sphere of radius 2, on which the
    geodesic distance is Fisher's. Stereographic projection from the last class gives coordinates
    :math:`\tau_i = 2 \sqrt{p_i} / (1 - \sqrt{p_m})`, in which the metric is a multiple of the
    identity, :math:`g = (1 - \sqrt{p_m})^2 I`. With the Jacobian J of these coordinates,

    .. math::
        \frac{\epsilon^2}{n} \left\lVert
            J J^\top - \frac{\delta^2}{\epsilon^2} g^{-1} \right\rVert_F

    is averaged over images. :math:`\delta = 2 \arccos \sum_i \sqrt{p_i / m}` is the distance of p
    from the middle of the simplex, and n is the number of pixels.

    Args:
        images: (b, ...) images that require gradients.
        logits: (b, m) logits of the images.
        radius: Epsilon, the radius of the L2 ball.

    Returns:
        The penalty, a scalar.
    """
    classes = logits.shape[1]
    p = logits.softmax(1) * (1 - classes * _INSIDE) + _INSIDE
    roots = p.sqrt()
    away = 1 - roots[:, -1]
    tau = 2 * roots[:, :-1] / away[:, None]
    rows = [
        torch.autograd.grad(column.sum(), images, create_graph=True)[0].flatten(1)
        for column in tau.unbind(1)
    ]
    jacobian = torch.stack(rows, 1)
    delta = 2 * (roots.sum(1) / math.sqrt(classes)).clamp(max=1 - 1e-6).acos()
    aim = (delta / (radius * away)).square()[:, None, None] * torch.eye(classes - 1).to(p)
    gap = jacobian @ jacobian.transpose(1, 2) - aim
    pixels = images[0].numel()
    lengths = torch.linalg.vector_norm(gap.flatten(1), dim=1)
    value: Tensor = radius**2 / pixels * lengths.mean()
    return value
