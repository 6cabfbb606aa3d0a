"""Rate-distortion quantisation: against brute force, against plain rounding, and what it promises."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from metaq.quantize import allocation, rates, rdo, rotation, search
from metaq.tensors.quantized import Dtype
from metaq.tensors.trellis import PARITY_CHECKS, continued_numerators, transitions

COSTS = rates.initial_costs()


def squared_error_importance(shape: tuple[int, ...]) -> rdo.Importance:
    return rdo.Importance.even(shape, 2.0)


def laplacian(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).laplace(size=(rows, columns)) / np.sqrt(2)


def path_cost(targets: np.ndarray, levels: np.ndarray, importance: float, kind: int, bits: int) -> float:
    numerators, _ = continued_numerators(levels, 1, bits, row_length=levels.size, start=0, state=0)
    table = transitions(bits)
    state, total = 0, 0.0
    for target, level, numerator in zip(targets, levels, numerators, strict=True):
        total += importance * (target - numerator / 2) ** 2 + COSTS[state & 1, kind, abs(level)]
        state = table[2 * state + (level & 1)]
    return total


@pytest.mark.parametrize("seed", range(8))
def test_the_trellis_search_finds_the_best_path(seed: int) -> None:
    targets = np.random.default_rng(seed).normal(0, 1.2, 5)
    levels = np.zeros(5, dtype=np.int32)
    kinds = np.full(5, 8, dtype=np.uint8)
    search.choose_path(targets, np.full(5, 3.0), kinds, COSTS, 100, rdo.predecessors(2), levels)
    every = (np.array(choice) for choice in product(range(-4, 5), repeat=5))
    best = min(path_cost(targets, choice, 3.0, 8, 2) for choice in every)
    assert path_cost(targets, levels, 3.0, 8, 2) == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("bits", PARITY_CHECKS)
def test_every_state_has_two_ways_in_and_out(bits: int) -> None:
    assert np.bincount(transitions(bits)).tolist() == [2] * (1 << bits)
    ways = rdo.predecessors(bits).reshape(-1, 2)
    for state, pair in enumerate(ways):
        assert [transitions(bits)[way] for way in pair] == [state, state]


def test_more_states_pack_better() -> None:
    weights = laplacian(60, 500)
    importance = squared_error_importance(weights.shape)
    figures = []
    for bits, slope in ((0, rdo.SCALAR_SLOPE), (2, rdo.TRELLIS_SLOPE), (7, rdo.TRELLIS_SLOPE)):
        step = 0.5 if bits == 0 else 0.8
        found = rdo.quantize(
            "w",
            weights,
            importance,
            step_size=step,
            multiplier=slope * step**2,
            trellis_bits=bits,
            dtype=Dtype.float32,
        )
        error = np.square(found.tensor.values() - weights).mean()
        figures.append(found.bits / weights.size + 0.5 * np.log2(error))
    assert figures[1] < figures[0] - 0.05
    assert figures[2] < figures[1] - 0.03


def test_feedback_lowers_the_error_of_outputs() -> None:
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(400, 30)) @ rng.normal(size=(30, 30))
    moment = inputs.T @ inputs / len(inputs)
    weights = rng.normal(size=(20, 30))
    aware = replace(rdo.Importance.even((20, 30), 1.0), inputs=moment, outputs=np.ones(20))
    plain = rdo.Importance.even((20, 30), aware.mean)
    options = {"step_size": 0.5, "multiplier": 1e-6, "trellis_bits": 0, "dtype": Dtype.float32}
    with_feedback = rdo.quantize("w", weights, aware, **options)
    without = rdo.quantize("w", weights, plain, **options)
    errors = without.tensor.values() - weights
    assert with_feedback.distortion < 0.6 * rdo.distortion(errors, aware)


def coupled_importance(rows: int, columns: int, seed: int) -> rdo.Importance:
    rng = np.random.default_rng(seed)
    inputs, outputs = (
        mixed.T @ mixed / len(mixed)
        for mixed in (rng.normal(size=(9 * size, size)) @ rng.normal(size=(size, size)) for size in (columns, rows))
    )
    return replace(rdo.Importance.even((rows, columns), 1.0), inputs=inputs, outputs=outputs)


def test_unit_factors_give_the_matrix_back() -> None:
    matrix = coupled_importance(3, 7, 0).inputs
    assert matrix is not None
    upper, scales = rdo.unit_factors(matrix)
    np.testing.assert_allclose(upper * scales @ upper.T, rdo.damped(matrix, rdo.COUPLED_DAMPING), rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(upper, np.triu(upper))
    np.testing.assert_array_equal(np.diag(upper), 1)


def test_every_coupled_choice_is_the_best_for_the_errors_before_it() -> None:
    importance = coupled_importance(3, 4, 5)
    assert importance.inputs is not None
    assert importance.outputs is not None
    columns, column_weights = rdo.unit_factors(importance.inputs)
    rows, row_weights = rdo.unit_factors(importance.outputs)
    targets = np.random.default_rng(6).normal(0, 1.5, (4, 3))
    kinds = np.full(targets.shape, 8, dtype=np.uint8)
    levels = np.zeros(targets.shape, dtype=np.int32)
    search.choose_coupled(targets, column_weights, row_weights, columns, rows, kinds, COSTS, 100, levels)
    place = [(column, row) for column in range(4) for row in range(3)]
    for number, (column, row) in enumerate(place):
        figures = {}
        for level in {0, *(int(np.floor(x)) + step for step in (-1, 0, 1, 2) for x in [targets[column, row]])}:
            errors = np.zeros(targets.shape)
            for earlier in place[:number]:
                errors[earlier] = levels[earlier] - targets[earlier]
            errors[column, row] = level - targets[column, row]
            carried = (rows.T @ errors.T @ columns)[row, column]
            figures[level] = row_weights[row] * column_weights[column] * carried**2 + COSTS[0, 8, abs(level)]
        assert figures[int(levels[column, row])] <= min(figures.values()) + 1e-9 or abs(levels[column, row]) > 2


def test_coupled_outputs_do_not_err_together() -> None:
    importance = coupled_importance(12, 20, 7)
    assert importance.outputs is not None
    alone = replace(importance, outputs=np.diag(importance.outputs))
    weights = np.random.default_rng(8).normal(size=(12, 20))
    options = {"step_size": 0.5, "multiplier": 1e-6, "trellis_bits": 0, "dtype": Dtype.float32}
    coupled = rdo.quantize("w", weights, importance, **options)
    errors = rdo.quantize("w", weights, alone, **options).tensor.values() - weights
    assert coupled.distortion < 0.6 * rdo.distortion(errors, importance)


def test_distortion_is_the_second_order_term() -> None:
    rng = np.random.default_rng(2)
    errors, moment, outputs = rng.normal(size=(3, 4)), np.eye(4) + 0.5, np.array([1.0, 2.0, 3.0])
    full = np.kron(np.diag(outputs), moment)
    found = rdo.distortion(errors, replace(rdo.Importance.even((3, 4), 1.0), inputs=moment, outputs=outputs))
    assert found == pytest.approx(0.5 * errors.reshape(-1) @ full @ errors.reshape(-1))
    coupled = coupled_importance(3, 4, 9)
    full = np.kron(coupled.outputs, coupled.inputs)
    assert rdo.distortion(errors, coupled) == pytest.approx(0.5 * errors.reshape(-1) @ full @ errors.reshape(-1))


def test_a_larger_multiplier_takes_fewer_bits() -> None:
    target = allocation.Target(
        name="w",
        values=laplacian(40, 40),
        dtype=Dtype.float32,
        importance=squared_error_importance((40, 40)),
    )
    found = [allocation.allocate({"w": target}, multiplier=m)["w"] for m in (1e-4, 1e-3, 1e-2, 1e-1)]
    assert [choice.bits for choice in found] == sorted((choice.bits for choice in found), reverse=True)
    assert [choice.distortion for choice in found] == sorted(choice.distortion for choice in found)


def test_constant_and_pruned_tensors_keep_their_common_value() -> None:
    weights = np.full((10, 10), -0.135)
    weights[3] = np.linspace(-1, 1, 10)
    assert rdo.central_value(weights) == pytest.approx(-0.135, rel=1 / 128)
    target = allocation.Target(
        name="w",
        values=np.full(5, 0.25),
        dtype=Dtype.float32,
        importance=squared_error_importance((5,)),
        center=rdo.central_value(np.full((1, 5), 0.25)),
    )
    restored = allocation.allocate({"w": target}, multiplier=1e-3)["w"].tensor.restore()
    np.testing.assert_array_equal(restored, np.full(5, 0.25, dtype=np.float32))


def test_a_basis_pays_for_correlated_rows_only() -> None:
    rng = np.random.default_rng(3)
    mixed = rng.normal(size=(4000, 32)) * np.geomspace(1, 0.01, 32) @ np.linalg.qr(rng.normal(size=(32, 32)))[0]
    basis = rotation.find_basis(mixed, 0.05)
    assert basis is not None
    np.testing.assert_allclose(rotation.rotate(mixed, basis) @ basis.values(), mixed, atol=1e-9)
    squares = [np.square(rows).mean(axis=0) for rows in (mixed, rotation.rotate(mixed, basis))]
    assert rotation.saved_bits(*squares, 0.05) > 0.5
    assert rotation.find_basis(rng.normal(size=(4000, 32)), 0.05) is None


def test_few_rows_pay_for_a_matrix_of_low_rank_only() -> None:
    rng = np.random.default_rng(4)
    for rows, columns in ((200, 80), (60, 300)):
        matrix = rng.normal(size=(rows, 3)) @ rng.normal(size=(3, columns))
        known = rotation.LowRank.of(matrix)
        assert known is not None
        estimate = known.estimate(0.1)
        assert estimate is not None
        assert estimate[0] == 3
        basis = known.basis(3, 0.1)
        assert int(basis.values().any(axis=1).sum()) == 3
        coefficients = rotation.rotate(matrix, basis)
        assert not coefficients[:, 3:].any()
        # Errors of the basis are those of a step of 0.1 in every entry of its rows, scaled to unit singular values.
        error = np.sqrt(np.square(coefficients @ basis.values() - matrix).mean())
        assert error == pytest.approx(0.1 / np.sqrt(12) * np.sqrt(3 / rows), rel=0.5)
        # With some noise, as long as that is below the step.
        noise = rng.normal(size=matrix.shape)
        near, other = (rotation.LowRank.of(matrix + scale * noise) for scale in (0.02, 0.3))
        assert near is not None
        assert near.estimate(0.1) is not None
        assert other is None or other.estimate(0.1) is None
        assert rotation.LowRank.of(np.zeros_like(matrix)) is None
