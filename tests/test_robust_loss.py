"""What a training loop may give to the first-order margin, and what it gets back."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from zoo import Answers

from isoreg import InputError, RobustLoss
from isoreg.robustness.local import first_order_margin_loss

INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16]


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def batch(n: int = 6) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.rand(n, 5).double(), torch.arange(n) % 3


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_what_made_the_images_gets_the_gradient_of_finite_differences(norm: str) -> None:
    model, (x, y) = mlp(), batch()
    maker = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)

    def loss(value: Tensor) -> Tensor:
        return first_order_margin_loss(model, value * x, y, eps=0.1, norm=norm)

    assert torch.autograd.gradcheck(loss, (maker,))
    leaf = x.clone().requires_grad_()
    first_order_margin_loss(model, leaf, y, eps=0.1, norm=norm).backward()
    assert leaf.grad is not None
    assert torch.autograd.gradcheck(
        lambda images: first_order_margin_loss(model, images, y, eps=0.1, norm=norm),
        (x.clone().requires_grad_(),),
    )


def test_a_hook_of_the_images_sees_the_loss_s_gradient_alone() -> None:
    model, (x, y) = mlp(), batch()
    seen: list[Tensor] = []
    x.requires_grad_().register_hook(lambda gradient: seen.append(gradient))
    first_order_margin_loss(model, x, y, eps=0.1).backward()
    assert len(seen) == 1


@pytest.mark.parametrize("eps", [0.0, 0.1])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_labels_may_be_integers_of_any_type(dtype: torch.dtype, eps: float) -> None:
    model, (x, y) = mlp(), batch()
    expected = first_order_margin_loss(model, x, y, eps=eps)
    torch.testing.assert_close(first_order_margin_loss(model, x, y.to(dtype), eps=eps), expected)


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_an_image_whose_label_is_ignored_counts_for_nothing(eps: float) -> None:
    model, (x, y) = mlp(), batch()
    y[[1, 4]] = -100
    kept = y != -100
    found = first_order_margin_loss(model, x, y, eps=eps)
    expected = first_order_margin_loss(model, x[kept], y[kept], eps=eps)
    torch.testing.assert_close(found, expected)
    none = first_order_margin_loss(model, x, torch.full_like(y, -100), eps=eps)
    none.backward()
    assert none == 0
    assert all(p.grad is not None and bool((p.grad == 0).all()) for p in model.parameters())


def test_an_ignored_image_in_a_normalised_batch_adds_no_margin_to_the_others() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).double()
    x, y = batch()
    y[0] = -100
    x.requires_grad_()
    logits = model(x)
    rival = logits.detach().scatter(1, y.clamp_min(0)[:, None], -torch.inf).argmax(1)
    margins = (logits.gather(1, rival[:, None]) - logits.gather(1, y.clamp_min(0)[:, None]))[1:]
    (gradient,) = torch.autograd.grad(margins.sum(), x)
    raised = logits + 0.2 * gradient.abs().sum(1, keepdim=True) * F.one_hot(rival, 3)
    expected = F.cross_entropy(raised, y)
    found = first_order_margin_loss(model, x.detach(), y, eps=0.2)
    torch.testing.assert_close(found.detach(), expected.detach())


def test_a_model_may_normalise_in_place_and_the_images_stay_what_they_are() -> None:
    model, (x, y) = mlp(), batch()

    before = x.clone()
    in_place = Answers(lambda images: model(images.sub_(0.5).div_(0.2)))
    found = first_order_margin_loss(in_place, x, y, eps=0.1)
    expected = first_order_margin_loss(model, x, y, eps=0.1, mean=0.5, std=0.2)
    torch.testing.assert_close(found, expected)
    assert torch.equal(x, before)


class Named(NamedTuple):
    """As torchvision's networks with auxiliary classifiers return in training."""

    logits: Tensor
    auxiliary: Tensor


class Returns(nn.Module):
    def __init__(self, wrap) -> None:
        super().__init__()
        self.model, self.wrap = mlp(), wrap

    def forward(self, x: Tensor) -> object:
        return self.wrap(self.model(x))


@pytest.mark.parametrize("eps", [0.0, 0.1])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda z: {"logits": z, "features": 2 * z},
        lambda z: {"out": z},
        lambda z: (z, z.sum()),
        lambda z: [torch.tensor(1.0), z],
        lambda z: Named(logits=z, auxiliary=2 * z),
        lambda z: SimpleNamespace(logits=z, auxiliary=2 * z),
    ],
)
def test_logits_are_found_in_a_mapping_a_tuple_or_by_their_name(wrap, eps: float) -> None:
    x, y = batch()
    expected = first_order_margin_loss(mlp(), x, y, eps=eps)
    torch.testing.assert_close(RobustLoss(Returns(wrap), eps=eps)(x, y), expected)


def test_logits_are_found_in_what_transformers_return() -> None:
    outputs = pytest.importorskip("transformers.modeling_outputs")
    x, y = batch()
    model = Returns(lambda z: outputs.SequenceClassifierOutput(logits=z, hidden_states=(z, z)))
    expected = first_order_margin_loss(mlp(), x, y, eps=0.1)
    torch.testing.assert_close(first_order_margin_loss(model, x, y, eps=0.1), expected)


@pytest.mark.parametrize("eps", [0.0, 0.1])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_it_is_the_same_number(mode, eps: float) -> None:
    model, (x, y) = mlp(), batch()
    expected = first_order_margin_loss(model, x, y, eps=eps).detach()
    with mode():
        criterion = RobustLoss(model, eps=eps)
        found = criterion(x.clone(), y.clone())
        assert criterion.steps == 0
    assert not found.requires_grad
    torch.testing.assert_close(found.clone(), expected)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("std", [0.25, [0.2, 0.3, 0.4, 0.5, 0.6]])
def test_the_radius_is_in_pixels_where_mean_and_std_are_given(norm: str, std) -> None:
    model, (x, y) = mlp(), batch()
    scale = torch.as_tensor(std, dtype=torch.float64)
    normalised = Answers(lambda pixels: model((pixels - 0.13) / scale))
    expected = first_order_margin_loss(normalised, x, y, eps=0.1, norm=norm)
    found = RobustLoss(model, eps=0.1, norm=norm, mean=0.13, std=std)(x, y)
    torch.testing.assert_close(found, expected)


class Attends(nn.Module):
    """Attention between the three rows of an image, as torch has it or as the formula."""

    def __init__(self, plain: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.plain, self.mix, self.last = plain, nn.Linear(4, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.mix(x).chunk(3, dim=-1)
        if self.plain:
            found = (q @ k.mT / 2).softmax(-1) @ v
        else:
            found = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return self.last(found.flatten(1))


def test_attention_has_the_gradient_of_its_formula() -> None:
    x, y = torch.rand(6, 3, 4), torch.arange(6) % 3
    gradients = []
    for model in (Attends(plain=True), Attends(plain=False)):
        RobustLoss(model, eps=0.1)(x, y).backward()
        gradients.append(model.mix.weight.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_model_that_cuts_the_graph_has_cross_entropy_and_no_margin(frozen: bool) -> None:
    (x, y), net = batch(), mlp().requires_grad_(not frozen)
    model = Answers(lambda x: net(x.detach()))
    torch.testing.assert_close(RobustLoss(model, eps=0.0)(x, y), F.cross_entropy(net(x), y))
    with pytest.raises(InputError, match="^RobustLoss: the model must be differentiable by its im"):
        RobustLoss(model, eps=0.1)(x, y)


def test_a_radius_is_taken_as_a_number_also_from_a_tensor() -> None:
    x, y = batch()
    expected = RobustLoss(mlp(), eps=0.25)(x, y)
    for eps in (torch.tensor(0.25), np.float32(0.25)):
        criterion = RobustLoss(mlp(), eps=eps)
        assert type(criterion.eps) is float
        torch.testing.assert_close(criterion(x, y), expected)


class FullyShardedDataParallel(nn.Linear):
    """Stands for torch's class of that name, which needs a process group."""


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x, y: RobustLoss(m, eps=0.1)(x, y.to(torch.complex64)),
         "labels must be 6 integers, got torch.complex64"),
        (lambda m, x, y: RobustLoss(m, eps=0.1)(x, y - 1),
         "labels must be classes from 0 to 2, or -100 for an image that does not count, got -1."),
        (lambda m, x, y: RobustLoss(m, eps=0.1)(x, y + 1), "labels must be classes from 0 to 2,"),
        (lambda m, x, y: RobustLoss(m, eps=0.1)((255 * x).byte(), y),
         "images must be floating, got torch.uint8."),
        (lambda m, x, y: RobustLoss(Returns(lambda z: (z, z)), eps=0.1)(x, y),
         "the model must return logits of shape (n, classes), got 2 tensors that may be them, at "
         "[0], [1]. Wrap it"),
        (lambda m, x, y: RobustLoss(nn.Sequential(FullyShardedDataParallel(5, 3)), eps=0.1),
         "model must be whole on this rank, got one that FSDP shards at '0'."),
        (lambda m, x, y: RobustLoss(m, eps=0.1, std=0.0), "std must be above 0, got [0.0]."),
        (lambda m, x, y: RobustLoss(m, eps=0.1, mean=[0.1, 0.2])(x, y),
         "mean must be one number, or one for each of 5 channels of images of shape (6, 5), "),
        (lambda m, x, y: RobustLoss(m, eps=0.1, std="a"), "std must be a finite number, or one"),
        *[
            (lambda m, x, y, eps=eps: RobustLoss(m, eps=eps), "eps must be a number, finite and >=")
            for eps in ("a", None, True, [0.1], 1j, torch.tensor(0.1, requires_grad=True))
        ],
        *[
            (
                lambda m, x, y, steps=steps: RobustLoss(m, eps=0.1, warmup_steps=steps),
                f"warmup_steps must be an integer of at least 0, got {steps}.",
            )
            for steps in (1.5, None, True, math.nan)
        ],
        (lambda m, x, y: RobustLoss(m.forward, eps=0.1),
         "a model must be a torch.nn.Module, got m"),
        (lambda m, x, y: RobustLoss(nn.Linear, eps=0.1),
         "a model must be a torch.nn.Module, got t"),
        (lambda m, x, y: RobustLoss(m, eps=0.1)(x.tolist(), y),
         "images must be a tensor, got list"),
        (lambda m, x, y: RobustLoss(m, eps=0)(x, y.tolist()), "labels must be a tensor, got list."),
        (lambda m, x, y: RobustLoss(m, eps=0.1)(x[:, 0], y), "images must be of shape (n, ...), g"),
        (lambda m, x, y: RobustLoss(m, eps=0.1)(x.to_sparse(), y), "images must be a dense tensor"),
        (lambda m, x, y: RobustLoss(m, eps=0)(x.to("meta"), y), "images must be a dense tensor th"),
        (lambda m, x, y: RobustLoss(m, eps=0.1)(x, y.to("meta")), "labels must be a dense tensor"),
    ],
)  # fmt: skip
def test_what_has_no_answer_is_refused_with_a_sentence(call, message: str) -> None:
    with pytest.raises(InputError) as caught:
        call(mlp(), *batch())
    assert str(caught.value).startswith(f"RobustLoss: {message}")


COMPILED: dict[str, Callable[[nn.Sequential], nn.Module]] = {
    "the model": lambda net: torch.compile(net, backend="aot_eager"),  # type: ignore[dict-item]
    "in place": lambda net: (net.compile(backend="aot_eager"), net)[1],
    "a part of it": lambda net: nn.Sequential(net[0], torch.compile(net[1:], backend="aot_eager")),
}


@pytest.mark.parametrize("wrap", COMPILED.values(), ids=COMPILED)
def test_compiled_code_that_has_no_second_derivative_is_not_used(
    wrap: Callable[[nn.Sequential], nn.Module],
) -> None:
    net, (x, y) = mlp(), batch()
    expected = torch.autograd.grad(RobustLoss(net, eps=0.1)(x, y), net[0].weight)
    compiled = wrap(net)
    found = RobustLoss(compiled, eps=0.1)(x, y)
    torch.testing.assert_close(torch.autograd.grad(found, net[0].weight), expected)
    with torch.no_grad():
        torch.testing.assert_close(RobustLoss(compiled, eps=0.1)(x, y), found.detach())


def test_in_a_compiled_step_it_runs_between_two_graphs() -> None:
    net, (x, y) = mlp(), batch()
    criterion = RobustLoss(net, eps=0.1, warmup_steps=2)

    def step(x: Tensor) -> Tensor:
        return criterion(2 * x, y) + net(x).square().mean()

    def trained(step: Callable[[Tensor], Tensor]) -> list[Tensor]:
        criterion.load_state_dict({"steps": 0})
        losses = [step(x) for _ in range(4)]
        return [*torch.autograd.grad(sum(losses), net[0].weight), *losses]  # type: ignore[arg-type]

    expected = trained(step)
    torch.testing.assert_close(trained(torch.compile(step, backend="aot_eager")), expected)
    assert criterion.steps == 4
    torch._dynamo.reset()
    # torch 2.9 says only that it breaks
    with pytest.raises(
        torch._dynamo.exc.Unsupported, match="without fullgraph=True|active context"
    ):
        torch.compile(step, backend="aot_eager", fullgraph=True)(x)


class Averaged(DistributedDataParallel):
    """As it is once there are ranks."""

    def __init__(self, module: nn.Module, static_graph: bool) -> None:
        nn.Module.__init__(self)
        self.module, self.static_graph = module, static_graph


def test_a_static_graph_under_ddp_is_refused() -> None:
    RobustLoss(Averaged(nn.Linear(4, 3), static_graph=False), eps=0.1)
    with pytest.raises(InputError, match="without static_graph=True"):
        RobustLoss(Averaged(nn.Linear(4, 3), static_graph=True), eps=0.1)


class Kernel(torch.autograd.Function):
    """tanh with a gradient by numbers alone, as a kernel's is, or with one of operations."""

    @staticmethod
    def forward(ctx, x: Tensor, by_numbers: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.by_numbers = by_numbers
        return x.tanh()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        result = gradient * (1 - x.tanh() ** 2)
        return result.detach() if ctx.by_numbers else result, None


def test_a_function_whose_gradient_has_no_graph_is_refused_and_one_of_operations_is_exact() -> None:
    first, last = nn.Linear(6, 5), nn.Linear(5, 3)
    x, y = torch.rand(4, 6), torch.tensor([0, 1, 2, 0])

    def loss(function: Callable[[Tensor], Tensor]) -> Tensor:
        return RobustLoss(nn.Sequential(first, Answers(function), last), eps=0.1)(x, y)

    def by_numbers(x: Tensor) -> Tensor:
        return Kernel.apply(x, True)

    with pytest.raises(InputError, match="differentiable twice, got 'Kernel'.*only a part of"):
        loss(by_numbers)
    with torch.no_grad():
        assert loss(by_numbers) == loss(torch.tanh), "the value needs the first derivative alone"
    found = torch.autograd.grad(loss(lambda x: Kernel.apply(x, False)), first.weight)
    torch.testing.assert_close(found, torch.autograd.grad(loss(torch.tanh), first.weight))
