from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from metaq.entropy.knapsack import FREE_ZERO, solve_cutting_plane, solve_hull, solve_reference
from metaq.errors import ConfigError, SolverError

SOLVERS = [solve_hull, solve_cutting_plane, solve_reference]
EXACT = [solve_hull, solve_cutting_plane]
EXACT_TOLERANCE, REFERENCE_TOLERANCE = 1e-9, 1e-6


@dataclass(frozen=True)
class Instance:
    w: torch.Tensor
    v: torch.Tensor
    xi: torch.Tensor
    delta: float | None

    @property
    def points(self):
        """Abscissae and ordinates, the free zero last."""
        if self.delta is None:
            return self.v, self.xi
        zero = torch.zeros(1, dtype=torch.float64)
        return torch.cat([self.v, zero]), torch.cat([self.xi - self.delta, zero])

    @property
    def inside(self):
        x, _ = self.points
        return self.w.clamp(x.min(), x.max())

    def solve(self, solver):
        return solver(self.w, self.v, self.xi, delta=self.delta)

    def tolerance(self, objective, relative):
        _, y = self.points
        return relative * max(1.0, abs(objective), float(y.abs().max()))


@st.composite
def instances(draw, max_n=200, max_count=40):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, count = draw(st.integers(1, max_n)), draw(st.integers(2, max_count))
    ties, even_grid, scale = draw(st.booleans()), draw(st.booleans()), draw(st.sampled_from([1e-3, 1.0, 1e9]))
    gaps = np.ones(count) if even_grid else rng.uniform(0.02, 1.0, count)
    v = np.cumsum(gaps)
    v -= v[rng.integers(count)] if draw(st.booleans()) else rng.uniform(-1, count)
    xi = rng.integers(-3, 4, count).astype(float) if ties else scale * rng.normal(size=count)
    w = rng.uniform(v[0] - 1, v[-1] + 1, n)
    on_bucket = rng.random(n) < 0.3
    w[on_bucket] = rng.choice(v, on_bucket.sum())
    delta = draw(st.sampled_from([None, -0.5, 0.0, 0.7, 2.0]))
    delta = None if delta is None else delta * (1.0 if ties else scale)
    return Instance(torch.from_numpy(w), torch.from_numpy(v), torch.from_numpy(xi), delta)


def assert_feasible(instance, solution):
    """Shares are a distribution over points around the weight; they reproduce weight, values and objective."""
    x, y = instance.points
    for index in (solution.left, solution.right):
        assert index.dtype == torch.int64
        assert index.min() >= (0 if instance.delta is None else FREE_ZERO)
    left, right = solution.left, solution.right
    assert (solution.left_share >= 0).all()
    assert (solution.right_share >= 0).all()
    torch.testing.assert_close(solution.left_share + solution.right_share, torch.ones_like(instance.w))
    held = solution.left_share * x[left] + solution.right_share * x[right]
    assert (held - instance.inside).abs().max() <= 1e-12 * x.abs().max()
    values = solution.left_share * y[left] + solution.right_share * y[right]
    torch.testing.assert_close(values, solution.values)
    assert solution.objective == pytest.approx(float(values.sum()), abs=instance.tolerance(0.0, 1e-12))


def lowest_lines(instance, beta):
    """Dual value β w + min_b (ξ_b - β v_b) of every weight, evaluated about w so that a steep β does not cancel."""
    x, y = instance.points
    return (y - beta[:, None] * (x - instance.inside[:, None])).amin(dim=1)


@settings(max_examples=1000, deadline=None)
@given(instances())
def test_hull_and_cutting_plane_agree(instance):
    hull, cutting_plane = instance.solve(solve_hull), instance.solve(solve_cutting_plane)
    assert hull.converged
    assert cutting_plane.converged
    assert_feasible(instance, hull)
    assert_feasible(instance, cutting_plane)
    tolerance = instance.tolerance(hull.objective, EXACT_TOLERANCE)
    assert cutting_plane.objective == pytest.approx(hull.objective, abs=tolerance)
    finite = hull.beta[hull.beta.isfinite()]
    slack = EXACT_TOLERANCE * float(finite.abs().max())
    assert (cutting_plane.beta >= hull.beta_low - slack).all()
    assert (cutting_plane.beta <= hull.beta_high + slack).all()
    torch.testing.assert_close(cutting_plane.beta_low, hull.beta_low, rtol=0, atol=slack)
    torch.testing.assert_close(cutting_plane.beta_high, hull.beta_high, rtol=0, atol=slack)
    for beta in (hull.beta, cutting_plane.beta):
        gap = (hull.values - lowest_lines(instance, beta)).abs().max()
        assert gap <= instance.tolerance(0.0, EXACT_TOLERANCE)


@settings(max_examples=1000, deadline=None)
@given(instances())
def test_the_reference_agrees_with_the_hull(instance):
    pytest.importorskip("cvxpy")
    hull, reference = instance.solve(solve_hull), instance.solve(solve_reference)
    assert reference.converged
    assert_feasible(instance, reference)
    tolerance = instance.tolerance(hull.objective, REFERENCE_TOLERANCE)
    assert reference.objective == pytest.approx(hull.objective, abs=tolerance)
    gap = (reference.values - lowest_lines(instance, reference.beta)).abs().max()
    assert gap <= instance.tolerance(0.0, REFERENCE_TOLERANCE)


def value_by_pairs(instance, w):
    """Least value over all pairs of points around w, the δ variant's single buckets with their slack included."""
    v, xi = instance.v.tolist(), instance.xi.tolist()
    cost = xi if instance.delta is None else [y - instance.delta for y in xi]
    candidates = []
    for a, b in itertools.combinations_with_replacement(range(len(v)), 2):
        if v[a] <= w <= v[b]:
            share = 0.0 if a == b else (w - v[a]) / (v[b] - v[a])
            candidates.append((1 - share) * cost[a] + share * cost[b])
    if instance.delta is not None:
        candidates += [0.0] * (w == 0)
        candidates += [w / v[b] * cost[b] for b in range(len(v)) if v[b] != 0 and 0 <= w / v[b] <= 1]
    return min(candidates)


@pytest.mark.parametrize("solver", EXACT)
@given(instance=instances(max_n=12, max_count=12))
def test_brute_force_over_pairs(solver, instance):
    expected = [value_by_pairs(instance, w) for w in instance.inside.tolist()]
    tolerance = instance.tolerance(0.0, EXACT_TOLERANCE)
    np.testing.assert_allclose(instance.solve(solver).values, expected, rtol=0, atol=tolerance)


@given(instances(max_n=1, max_count=12))
def test_the_linear_program_as_written(instance):
    solution = instance.solve(solve_hull)
    v = instance.v.numpy()[None]
    ones = np.ones_like(v)
    cost = instance.xi.numpy() - (instance.delta or 0.0)
    size = max(1.0, float(np.abs(cost).max()))
    masses = {"A_eq": np.vstack([v, ones]), "b_eq": [float(instance.inside), 1.0]}
    if instance.delta is not None:
        masses = {"A_eq": v, "b_eq": [float(instance.inside)], "A_ub": ones, "b_ub": [1.0]}
    program = linprog(cost / size, bounds=(0, None), **masses)
    assert program.status == 0
    assert solution.objective / size == pytest.approx(program.fun, abs=1e-7)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("delta", [None, 0.4])
def test_beta_is_the_derivative_of_the_value(solver, delta):
    if solver is solve_reference:
        pytest.importorskip("cvxpy")
    rng = np.random.default_rng(3)
    v, xi = torch.linspace(-1.5, 1.5, 16).double(), torch.from_numpy(rng.normal(size=16))
    w, step = torch.from_numpy(rng.uniform(-1.45, 1.45, 60)), 1e-6
    above, below = (solve_hull(w + side, v, xi, delta=delta).values for side in (step, -step))
    solution = solver(w, v, xi, delta=delta)
    torch.testing.assert_close(solution.beta, (above - below) / (2 * step), rtol=0, atol=1e-4)
    torch.testing.assert_close(solution.beta_low, solution.beta_high)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_weight_between_one_bucket_and_the_free_zero(solver):
    if solver is solve_reference:
        pytest.importorskip("cvxpy")
    v, xi = torch.tensor([-2.0, 4.0]), torch.tensor([3.0, 7.0])
    solution = solver(torch.tensor([1.0, -0.5]), v, xi, delta=1.0)
    assert solution.left.tolist() == [FREE_ZERO, 0]
    assert solution.right.tolist() == [1, FREE_ZERO]
    assert solution.left_share.tolist() == [0.75, 0.25]
    assert solution.values.tolist() == [1.5, 0.5]
    assert solution.beta.tolist() == pytest.approx([6 / 4, 2 / -2], abs=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("delta", "holder", "value"), [(1.0, FREE_ZERO, 0.0), (3.0, 1, -1.0), (2.0, 1, 0.0)])
def test_a_bucket_on_zero_and_the_free_zero_leave_the_lower_one(solver, delta, holder, value):
    if solver is solve_reference:
        pytest.importorskip("cvxpy")
    v, xi = torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([9.0, 2.0, 9.0])
    solution = solver(torch.tensor([0.0]), v, xi, delta=delta)
    assert solution.objective == pytest.approx(value, abs=1e-12)
    held = solution.left if solution.left_share.item() > 0.5 else solution.right
    assert held.item() == holder


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_range_grows_to_the_free_zero(solver, sign):
    if solver is solve_reference:
        pytest.importorskip("cvxpy")
    v, xi = sign * torch.tensor([1.0, 2.0]), torch.tensor([5.0, 1.0])
    if sign < 0:
        v, xi = v.flip(0), xi.flip(0)
    solution = solver(sign * torch.tensor([-3.0, 0.5, 2.0, 7.0]), v, xi, delta=0.5)
    assert solution.values.tolist() == pytest.approx([0.0, 0.125, 0.5, 0.5], abs=1e-12)


@pytest.mark.parametrize("solver", EXACT)
def test_the_interval_of_beta_on_and_off_breakpoints(solver):
    v = torch.tensor([0.0, 1.0, 2.0, 4.0])
    xi = torch.tensor([4.0, 1.0, 5.0, 3.0])
    solution = solver(torch.tensor([-9.0, 0.0, 0.5, 1.0, 2.0, 4.0, 9.0]), v, xi)
    inf, flat = torch.inf, 2 / 3
    assert solution.beta_low.tolist() == pytest.approx([-inf, -inf, -3, -3, flat, flat, flat])
    assert solution.beta_high.tolist() == pytest.approx([-3, -3, -3, flat, flat, inf, inf])
    assert solution.beta.tolist() == pytest.approx([-3, -3, -3, flat, flat, flat, flat])
    shares = torch.stack([solution.left_share, solution.right_share]).amax(dim=0)
    assert shares[[0, 1, 3, 5, 6]].tolist() == [1.0] * 5


@pytest.mark.parametrize("solver", EXACT)
def test_the_interval_is_one_point_among_collinear_points(solver):
    v = torch.arange(6).double()
    solution = solver(v[1:-1], v, 3 - 2 * v)
    assert solution.beta_low.tolist() == [-2.0] * 4
    assert solution.beta_high.tolist() == [-2.0] * 4


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("scale", [1.0, 1e9])
def test_two_buckets(solver, scale):
    if solver is solve_reference:
        pytest.importorskip("cvxpy")
    v, xi = scale * torch.tensor([-1.0, 1.0]).double(), torch.tensor([scale, 3 * scale]).double()
    solution = solver(scale * torch.tensor([[-1.0], [0.5], [1.0]]).double(), v, xi)
    assert solution.values.shape == (3, 1)
    assert solution.right_share.flatten()[1].item() == 0.75
    assert solution.beta.flatten()[1].item() == pytest.approx(1.0, rel=1e-6)
    np.testing.assert_allclose(solution.values.flatten(), [scale, 2.5 * scale, 3 * scale], rtol=1e-9)


@pytest.mark.parametrize("ordinary", [1.0, 1e9, 1e200, 1e-200])
def test_scales_change_nothing_but_the_scale(ordinary):
    rng = np.random.default_rng(5)
    v, xi = torch.from_numpy(np.sort(rng.normal(size=30))), torch.from_numpy(rng.normal(size=30))
    w = torch.from_numpy(rng.normal(size=100))
    plain, scaled = solve_hull(w, v, xi), solve_hull(w, v, xi * ordinary)
    assert torch.equal(plain.left, scaled.left)
    torch.testing.assert_close(scaled.values / ordinary, plain.values)
    torch.testing.assert_close(scaled.beta / ordinary, plain.beta)


@pytest.mark.parametrize("solver", EXACT)
def test_many_buckets(solver):
    rng = np.random.default_rng(7)
    v = torch.linspace(-1, 1, 65_536).double()
    xi = 50 * v.square() + torch.from_numpy(rng.exponential(size=65_536))
    w = torch.from_numpy(rng.uniform(-1.1, 1.1, 50))
    solution, hull = solver(w, v, xi), solve_hull(w, v, xi)
    assert solution.converged
    assert_feasible(Instance(w, v, xi, None), solution)
    np.testing.assert_allclose(solution.values, hull.values, rtol=0, atol=1e-9)
    gap = solution.values - lowest_lines(Instance(w, v, xi, None), solution.beta)
    assert gap.abs().max() <= 1e-9


@pytest.mark.parametrize("solver", EXACT)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_weights_are_computed_with_in_double(solver, dtype):
    generator = torch.Generator().manual_seed(1)
    w = torch.randn(4, 5, 6, generator=generator).to(dtype).transpose(0, 2)
    v, xi = torch.linspace(-2, 2, 9), torch.randn(9, generator=generator)
    solution, double = solver(w, v, xi), solver(w.double(), v.double(), xi.double())
    assert solution.values.shape == w.shape
    assert solution.values.dtype == torch.float64
    for name in ("left", "right", "left_share", "values", "beta", "beta_low", "beta_high"):
        assert torch.equal(getattr(solution, name), getattr(double, name))


@pytest.mark.parametrize("solver", EXACT)
def test_a_parameter_and_a_single_weight_are_taken(solver):
    v, xi = torch.tensor([0.0, 1.0]), torch.tensor([0.0, 2.0])
    solution = solver(torch.nn.Parameter(torch.tensor(0.25)), v, xi)
    assert solution.values.shape == ()
    assert solution.objective == 0.5
    assert not solution.values.requires_grad


def test_the_cap_is_reported():
    v, xi = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.0, -1.0, 0.0])
    capped = solve_cutting_plane(torch.tensor([0.5, 1.5]), v, xi, max_iterations=1)
    assert not capped.converged
    assert capped.iterations == 1
    assert torch.equal(capped.beta_low, capped.beta_high)
    assert solve_cutting_plane(torch.tensor([0.5, 1.5]), v, xi).converged


def test_rounding_does_not_keep_the_cutting_plane_going():
    v = torch.linspace(0.1, 0.7, 301).double()
    for slope in (1 / 3, 1e9 / 7):
        solution = solve_cutting_plane(torch.linspace(0, 1, 500).double(), v, 0.1 + slope * v)
        assert solution.converged
        assert solution.iterations <= 3


def test_a_reference_that_is_not_optimal_is_not_converged(monkeypatch):
    cvxpy = pytest.importorskip("cvxpy")
    monkeypatch.setattr(cvxpy.Problem, "status", property(lambda _: cvxpy.OPTIMAL_INACCURATE))
    v, xi = torch.tensor([0.0, 1.0]), torch.tensor([0.0, 2.0])
    assert not solve_reference(torch.tensor([0.5]), v, xi).converged


def test_a_missing_reference_solver_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    with pytest.raises(SolverError, match=r"pip install 'metaq-torch\[reference\]'"):
        solve_reference(torch.tensor([0.5]), torch.tensor([0.0, 1.0]), torch.tensor([0.0, 2.0]))


GOOD = {
    "weights": torch.tensor([0.5]),
    "reference_values": torch.tensor([0.0, 1.0, 2.0]),
    "xi": torch.tensor([1.0, 0.0, 1.0]),
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("weights", torch.tensor([0.5, torch.nan]), "finite"),
        ("weights", torch.tensor([-torch.inf]), "finite"),
        ("weights", torch.tensor([]), "one at least"),
        ("weights", torch.tensor([1]), "float16"),
        ("weights", torch.tensor([1j]), "float16"),
        ("reference_values", torch.tensor([0.0, torch.nan, 2.0]), "finite"),
        ("reference_values", torch.tensor([0.0, 1.0, torch.inf]), "finite"),
        ("reference_values", torch.tensor([0.0, 2.0, 1.0]), "strictly increasing"),
        ("reference_values", torch.tensor([0.0, 1.0, 1.0]), "strictly increasing"),
        ("reference_values", torch.tensor([1.0]), "C >= 2"),
        ("reference_values", torch.tensor([[0.0, 1.0]]), "C >= 2"),
        ("reference_values", torch.tensor([0, 1, 2]), "float16"),
        ("reference_values", torch.zeros(3, device="meta"), "one device"),
        ("xi", torch.tensor([1.0, torch.nan, 1.0]), "finite"),
        ("xi", torch.tensor([1.0, torch.inf, 1.0]), "finite"),
        ("xi", torch.tensor([1.0, 2.0]), "reference_values"),
        ("xi", torch.tensor([[1.0, 2.0, 3.0]]), "reference_values"),
        ("xi", torch.zeros(3, dtype=torch.float64), "reference_values"),
        ("xi", torch.zeros(3, device="meta"), "one device"),
        ("delta", torch.nan, "finite"),
        ("delta", torch.inf, "finite"),
    ],
)
def test_bad_input_is_refused_by_name(solver, name, value, expected):
    with pytest.raises(ConfigError, match=f"^{name}: .*{expected}"):
        solver(**{**GOOD, name: value})


@pytest.mark.parametrize("iterations", [0, -1])
def test_a_cap_below_one_is_refused(iterations):
    with pytest.raises(ConfigError, match=r"^max_iterations: "):
        solve_cutting_plane(**GOOD, max_iterations=iterations)
