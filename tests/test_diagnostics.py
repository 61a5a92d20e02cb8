"""Distortion of a map, against numbers worked out by hand and by scipy."""

from __future__ import annotations

import math
import re
from dataclasses import asdict
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isoreg import InputError
from isoreg.diagnostics import best_factor, distances_within, distortion, distortion_of


def test_an_isometry_has_no_stress_and_correlation_one() -> None:
    x = torch.randn(20, 5, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    found = distortion(x, x @ rotation + 3)
    assert found.pairs == 190
    assert found.correlation == pytest.approx(1)
    assert found.stress == pytest.approx(0, abs=1e-6)
    assert found.expansion == pytest.approx(1)
    assert found.contraction == pytest.approx(1)


@given(factor=st.floats(0.01, 100))
def test_scaling_is_read_back_in_every_figure(factor: float) -> None:
    x = torch.randn(9, 4, dtype=torch.float64)
    found = distortion(x, factor * x)
    assert found.correlation == pytest.approx(1)
    assert found.stress == pytest.approx(abs(1 - factor), rel=1e-6, abs=1e-9)
    assert found.expansion == pytest.approx(factor)
    assert found.contraction == pytest.approx(factor)
    assert found.scale == pytest.approx(1 / factor)


@pytest.mark.parametrize("exponent", [-150, 160, 290])
@pytest.mark.parametrize("other", [0, 150])
def test_distances_whose_squares_leave_float64_have_the_right_figures(
    exponent: int, other: int
) -> None:
    x, phi = torch.rand(7, 3, dtype=torch.float64), torch.rand(7, 2, dtype=torch.float64)
    usual = distortion(x, phi)
    size = 10.0**exponent
    assert asdict(distortion(size * x, size * phi)) == pytest.approx(asdict(usual))
    dx, dphi = distances_within(x, phi)
    found = distortion_of(size * dx, 10.0**other * dphi)
    assert found.correlation == pytest.approx(usual.correlation)
    assert found.scale == pytest.approx(usual.scale * 10.0 ** (exponent - other))
    fitted = distances_within(size * x, phi, scale="fit")
    assert distortion_of(*fitted).stress == pytest.approx(distortion(x, phi, scale="fit").stress)


def test_figures_equal_plain_loops_over_same_class_pairs() -> None:
    x, phi = torch.randn(11, 3, dtype=torch.float64), torch.randn(11, 2, dtype=torch.float64)
    labels = torch.arange(11) % 3
    pairs = [(i, j) for i in range(11) for j in range(i) if labels[i] == labels[j]]
    dx = torch.stack([(x[i] - x[j]).norm() for i, j in pairs])
    dphi = torch.stack([(phi[i] - phi[j]).norm() for i, j in pairs])
    found = distortion(x, phi, labels)
    assert found.pairs == len(pairs)
    assert found.correlation == pytest.approx(torch.corrcoef(torch.stack([dx, dphi]))[0, 1].item())
    assert found.stress == pytest.approx(((dx - dphi).norm() / dx.norm()).item())
    assert found.expansion == pytest.approx((dphi / dx).max().item())
    assert found.contraction == pytest.approx((dphi / dx).min().item())


def test_collapsed_features_have_stress_one_and_no_correlation() -> None:
    found = distortion(torch.randn(6, 3), torch.ones(6, 2))
    assert found.stress == pytest.approx(1)
    assert found.contraction == 0
    assert math.isnan(found.correlation)
    assert math.isnan(found.scale)


def test_duplicate_inputs_do_not_make_the_expansion_infinite() -> None:
    x = torch.tensor([[0.0], [0.0], [1.0]])
    found = distortion(x, torch.tensor([[0.0], [1.0], [2.0]]))
    assert (found.expansion, found.contraction) == (2, 1)


def test_no_pair_gives_zero_pairs_and_nan() -> None:
    found = distortion(torch.randn(3, 2), torch.randn(3, 2), torch.arange(3))
    assert found.pairs == 0
    assert math.isnan(found.stress)


def test_batches_of_different_length_and_soft_labels_are_refused() -> None:
    with pytest.raises(InputError, match=r"^distortion: .*3 and 4"):
        distortion(torch.randn(3, 2), torch.randn(4, 2))
    with pytest.raises(InputError, match=r"^distortion: .*probabilities"):
        distortion(torch.randn(3, 2), torch.randn(3, 2), torch.eye(3))


def test_given_distances_replace_those_of_the_inputs_and_unknown_pairs_are_left_out() -> None:
    x, phi = torch.randn(9, 3, dtype=torch.float64), torch.randn(9, 2, dtype=torch.float64)
    labels = torch.arange(9) % 2
    table = torch.cdist(x, x)
    expected = distortion(x, phi, labels)
    assert asdict(distortion(None, phi, labels, input_distances=table)) == pytest.approx(
        asdict(expected)
    )
    table[0, 2] = table[2, 0] = math.nan
    table[0, 1] = math.inf  # of two classes
    table.fill_diagonal_(5.0)
    dx, dphi = distances_within(None, phi, labels, input_distances=table)
    assert len(dx) == expected.pairs - 1
    full = distances_within(x, phi, labels)
    torch.testing.assert_close(dx, full[0][1:])
    torch.testing.assert_close(dphi, full[1][1:])


def test_a_scale_multiplies_the_feature_distances_and_fit_makes_the_stress_least() -> None:
    x, phi = torch.randn(9, 3, dtype=torch.float64), torch.randn(9, 2, dtype=torch.float64)
    plain, scaled = distortion(x, phi), distortion(x, phi, scale=2.5)
    assert scaled.stress == pytest.approx(distortion(x, 2.5 * phi).stress)
    assert scaled.expansion == pytest.approx(2.5 * plain.expansion)
    assert scaled.scale == pytest.approx(plain.scale)
    fitted = distortion(x, phi, scale="fit")
    assert fitted.scale == pytest.approx(plain.scale)
    assert fitted.stress == pytest.approx(distortion(x, plain.scale * phi).stress)
    assert fitted.stress < min(plain.stress, scaled.stress)
    _, dphi = distances_within(x, phi, scale=torch.tensor(2.0))
    torch.testing.assert_close(dphi, 2 * distances_within(x, phi)[1])


def test_inputs_may_have_a_distance_of_their_own() -> None:
    x, phi = torch.randn(9, 3), torch.randn(9, 2)
    dx, dphi = distances_within(x, phi, input_distance="manhattan")
    torch.testing.assert_close(dx, distances_within(x, phi, distance="manhattan")[0])
    torch.testing.assert_close(dphi, distances_within(x, phi)[1])
    dx, dphi = distances_within(x, phi, distance="manhattan")
    found = distortion(x, phi, distance="manhattan")
    assert found.expansion == pytest.approx((dphi / dx).max().item())


def test_what_cannot_be_measured_is_refused_with_the_values() -> None:
    x, table = torch.randn(3, 2), torch.ones(3, 3)
    table[0, 1] = -1
    with pytest.raises(InputError, match=r"^distortion: input_distances must be finite.*-1"):
        distortion(None, x, input_distances=table)
    with pytest.raises(InputError, match=r"^distortion: inputs must be a tensor unless"):
        distortion(None, x)
    with pytest.raises(InputError, match=r"^distortion: scale must be"):
        distortion(x, x, scale=0.0)
    with pytest.raises(InputError, match=r"^distances_within: a distance must be"):
        distances_within(x, x, input_distance="euclid")
    with pytest.raises(InputError, match=r"^distances_within: scale must be"):
        distances_within(x, x, scale=-1.0)
    with pytest.raises(InputError, match=r"^distortion: features must be floating"):
        distortion(x, x.long())
    with pytest.raises(InputError, match=r"^distortion: inputs must be floating"):
        distortion(x.long(), x)
    with pytest.raises(InputError, match=r"^distortion: input_distances must be of shape \(3, 3\)"):
        distortion(None, x, input_distances=torch.ones(2, 3))
    with pytest.raises(InputError, match="Targets of a regression are no classes"):
        distortion(x, x, torch.rand(3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.int64])
def test_distances_of_any_type_are_summed_in_float64(dtype: torch.dtype) -> None:
    dx, dphi = (torch.randint(1, 900, (500,)).to(dtype) for _ in range(2))
    assert distortion_of(dx, dphi) == distortion_of(dx.double(), dphi.double())


def test_a_device_is_asked_for_no_type_that_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = distances_within(x := torch.rand(5, 3), 2 * x)
    monkeypatch.setattr("isoreg.diagnostics.exact_dtype", lambda _: torch.float32)  # as on MPS
    found = distances_within(x, 2 * x)
    assert [d.dtype for d in found] == [torch.float32, torch.float32]
    torch.testing.assert_close(found, expected, check_dtype=False)


@pytest.mark.parametrize("shapes", [((3,), (1,)), ((2, 2), (2, 2)), ((), ())])
def test_distances_of_pairs_are_two_vectors_of_one_length(shapes: tuple[Any, Any]) -> None:
    got = re.escape(f"got {shapes[0]} and {shapes[1]}.")
    with pytest.raises(InputError, match=rf"^dx and dphi must hold one distance a pair.*{got}$"):
        distortion_of(*map(torch.ones, shapes))


@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_figures_are_numbers_that_the_unit_does_not_change(unit: float) -> None:
    x, phi = torch.randn(9, 3, dtype=torch.float64), torch.randn(9, 2, dtype=torch.float64)
    found = asdict(distortion(unit * x, unit * phi))
    assert found == pytest.approx(asdict(distortion(x, phi)))
    assert {type(value) for name, value in found.items() if name != "pairs"} == {float}


def test_inputs_that_all_coincide_determine_nothing_but_the_number_of_pairs() -> None:
    found = distortion(torch.ones(4, 2), torch.randn(4, 2))
    assert found.pairs == 6
    figures = (found.correlation, found.stress, found.expansion, found.contraction)
    assert all(map(math.isnan, figures))
    assert found.scale == 0


@pytest.mark.parametrize("points", [0.1 * torch.eye(7).double(), torch.eye(10).mul(2).softmax(1)])
def test_distances_that_are_equal_but_for_rounding_have_no_correlation(
    points: torch.Tensor,
) -> None:
    others = torch.rand(len(points), 3, generator=torch.Generator().manual_seed(0))
    for pair in ((points, others), (others, points)):
        assert math.isnan(distortion(*pair).correlation)
    assert distortion(others, others + 1e3 * others.mean()).correlation == pytest.approx(1)


def test_features_that_all_coincide_have_the_stress_1_whatever_the_scale() -> None:
    x, features = torch.rand(8, 3), torch.ones(8, 2)
    for scale in (1.0, 2.0, "fit"):
        found = distortion(x, features, scale=scale)
        assert (found.stress, found.contraction, found.expansion) == (1, 0, 0)


def test_the_best_scale_of_inputs_that_all_coincide_is_0_whatever_is_asked_for() -> None:
    scales = [distortion(torch.ones(3, 2), torch.eye(3), scale=s).scale for s in (1.0, 2.0, "fit")]
    assert scales == [0, 0, 0]


@pytest.mark.parametrize("function", [distortion_of, best_factor])
@pytest.mark.parametrize(
    ("dx", "text"),
    [
        ([1.0, 2.0], "dx must be a tensor, got list"),
        (None, "dx must be a tensor, got NoneType"),
        (torch.ones(2) * 1j, "dx must hold real numbers, got torch.complex64"),
    ],
)
def test_distances_that_are_no_tensor_of_real_numbers_are_refused(
    function: Any, dx: Any, text: str
) -> None:
    with pytest.raises(InputError, match=text):
        function(dx, torch.ones(2))
