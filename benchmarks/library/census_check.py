"""Attach with the defaults, train two steps, detach, and compare with an untouched twin.

Names are compared as well: the classifier that timm declares with the one that the first pass shows
if the declaration is removed, and the layers of ``"stages"`` with timm's ``feature_info``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from benchmarks.internals import tensors_in
from isoreg import IsometryRegularizer, IsoregError, LayerError


@dataclass(frozen=True)
class Subject:
    """A model and how to train it.

    Attributes:
        name: Name of the model in the table.
        build: Makes the model, with random weights.
        batch: Makes a batch of four samples: one tensor, or the keyword arguments of a call.
        options: Options of the regularizer.
    """

    name: str
    build: Callable[[], nn.Module]
    batch: Callable[[], Tensor | dict[str, Tensor]]
    options: Mapping[str, Any]


LABELS = torch.tensor([0, 0, 1, 1])


def check(subject: Subject) -> dict[str, str]:
    """Layers, shape and result of one model; an error is written into the row, never raised."""
    row = dict.fromkeys(("model", "layer", "features", "seen", "stages", "result", "reason"), "")
    row["model"] = subject.name
    stage = "building"
    try:
        torch.manual_seed(0)
        model = subject.build()
        batch = subject.batch()
        stage = "training without isoreg"
        _step(copy.deepcopy(model), batch, None)
        stage = "training"
        twin = copy.deepcopy(model)
        with IsometryRegularizer(model, beta=0.1, **subject.options) as iso:
            for _ in range(2):
                _step(model, batch, iso)
            row["layer"] = ", ".join(iso.layers)
            row["features"] = repr(iso).partition("(")[2].partition("layers=")[2].partition("]")[0]
            row["features"] = "(" + row["features"].partition(" (")[2].rstrip("'")
        stage = "comparing"
        row["reason"] = _difference(model, twin, batch)
        stage = "finding the classifier in a pass"
        row["seen"], wrong = _classifier_in_pass(copy.deepcopy(model), batch, subject.options)
        row["reason"] = row["reason"] or wrong
        stage = "comparing stages"
        row["stages"], wrong = _stages(model, batch)
        row["reason"] = row["reason"] or wrong
        row["result"] = "differs" if row["reason"] else "ok"
    except Exception as error:
        if isinstance(error, LayerError) and "layers" not in subject.options:  # no classifier
            row["result"], row["reason"] = "refused", error.message.partition(". ")[0]
            return row
        row["result"] = f"failed while {stage}"
        row["reason"] = f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"
    return row


def _classifier_in_pass(
    model: nn.Module, batch: Tensor | dict[str, Tensor], options: Mapping[str, Any]
) -> tuple[str, str]:
    """The classifier that a pass shows without the declaration, and a sentence if they differ."""
    config = getattr(model, "pretrained_cfg", None) or {}
    declared = config.get("classifier") or ()
    names = [declared] if isinstance(declared, str) else list(declared)
    if hasattr(model, "pretrained_cfg"):
        vars(model)["pretrained_cfg"] = {}
    with IsometryRegularizer(model, **options) as iso:
        _call(model.train(), batch)
        try:
            iso(LABELS)
        except LayerError as error:
            return f"refused: {error.message.partition(', so ')[0]}", ""
        layers = iso.layers
    inside = {f"{n}{suffix}" for n in names for suffix in ("", *_inside(model, n))}
    around = {name for name in layers if all(n.startswith(f"{name}.") for n in names)}
    differs = bool(names) and not set(layers) <= inside | around
    return ", ".join(layers), f"declared {', '.join(names)}, seen {layers[0]}" if differs else ""


def _inside(model: nn.Module, name: str) -> list[str]:
    """Names of the modules inside a declared classifier, with a dot before each."""
    return [f".{inner}" for inner, _ in model.get_submodule(name).named_modules() if inner]


def _stages(model: nn.Module, batch: Tensor | dict[str, Tensor]) -> tuple[str, str]:
    """The layers that "stages" selects, and a sentence if ``feature_info`` names others."""
    info = getattr(model, "feature_info", None)
    entries = info if isinstance(info, list) else getattr(info, "info", None)
    if not entries:
        return "none declared", ""
    names = [entry["module"] for entry in entries]
    try:
        with IsometryRegularizer(model, "stages", pool=_mean) as iso:
            _step(model, batch, iso)
            layers = iso.layers
    except IsoregError as error:  # a name is no module, or one that never runs or has no features
        return f"refused: {error.message.partition('. ')[0][:120]}", ""
    if list(dict.fromkeys(names)) != layers:
        return ", ".join(layers), f"feature_info names {', '.join(names)}"
    return f"{len(layers)}, {layers[0]} to {layers[-1]}", ""


def _mean(output: Any) -> Tensor:
    """The mean over positions of the first tensor that a stage returns, as small features."""
    first = next(tensors_in(output))
    return first if first.ndim == 2 else first.flatten(2).mean(2)


def _step(
    model: nn.Module, batch: Tensor | dict[str, Tensor], iso: IsometryRegularizer | None
) -> None:
    model.train()
    logits = _logits(_call(model, batch))
    loss = F.cross_entropy(logits, LABELS)
    if iso is not None:
        penalty = iso(LABELS)
        _check_gradient(penalty, model)
        loss = loss + penalty
    model.zero_grad()
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.add_(parameter.grad, alpha=-1e-4)


def _check_gradient(penalty: Tensor, model: nn.Module) -> None:
    """Raise a ValueError unless the penalty is finite and has a gradient in some parameter."""
    if not penalty.isfinite():
        raise ValueError(f"the penalty is {penalty.item()}")
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(penalty, parameters, retain_graph=True, allow_unused=True)
    if not any(g is not None and g.abs().max() > 0 for g in gradients):
        raise ValueError("the penalty has no gradient")


def _difference(model: nn.Module, twin: nn.Module, batch: Tensor | dict[str, Tensor]) -> str:
    """A difference between the detached model and its twin, given the same weights; "" if none."""
    if [type(m) for m in model.modules()] != [type(m) for m in twin.modules()]:
        return "classes changed"
    for mine, other in zip(model.modules(), twin.modules(), strict=True):
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"):
            if len(getattr(mine, name)) != len(getattr(other, name)):
                return f"{name} of {type(mine).__name__} changed"
    if list(model.state_dict()) != list(twin.state_dict()):
        return "names of the state dict changed"
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.manual_seed(1)
        mine_out = _logits(_call(model.eval(), batch))
        torch.manual_seed(1)
        twin_out = _logits(_call(twin.eval(), batch))
    same = torch.equal(mine_out.nan_to_num(), twin_out.nan_to_num())
    return "" if same else "outputs changed"


def _call(model: nn.Module, batch: Tensor | dict[str, Tensor]) -> Any:
    return model(**batch) if isinstance(batch, dict) else model(batch)


def _logits(output: Any) -> Tensor:
    """The first tensor of the output, as (4, classes); positions are averaged."""
    first = next(tensors_in(output))
    return first.flatten(1) if first.ndim == 2 else first.flatten(2).mean(1)
