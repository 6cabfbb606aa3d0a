"""The small quadratic program of the proximal bundle method."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metaq.errors import SolverError

PRECISION = 1e-10


def minimize_on_simplex(quadratic: NDArray[np.float64], linear: NDArray[np.float64]) -> NDArray[np.float64]:
    """The α that minimises ``α' Q α / 2 + q' α`` over α ≥ 0, Σ α = 1, by Clarabel's interior-point method.

    Parameters
    ----------
    quadratic
        Q, positive semidefinite, float64 of shape (m, m).
    linear
        q, float64 of shape (m,).

    Returns
    -------
    float64 of shape (m,)

    Raises
    ------
    SolverError
        If Clarabel, which brings SciPy, is not installed.
    """
    try:
        import clarabel
        from scipy import sparse
    except ImportError as error:
        raise SolverError("The proximal bundle method needs Clarabel: pip install 'metaq-torch[reference]'.") from error
    m = linear.size
    if m == 1:
        return np.ones(1)
    scale = max(float(np.abs(np.diag(quadratic)).max()), float(np.abs(linear).max()), np.finfo(np.float64).tiny)
    constraints = sparse.csc_matrix(np.vstack([np.ones(m), -np.eye(m)]))
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = PRECISION
    solution = clarabel.DefaultSolver(
        sparse.csc_matrix(np.triu(quadratic / scale)),
        linear / scale,
        constraints,
        np.concatenate([np.ones(1), np.zeros(m)]),
        [clarabel.ZeroConeT(1), clarabel.NonnegativeConeT(m)],
        settings,
    ).solve()
    shares = np.nan_to_num(np.maximum(np.array(solution.x), 0.0))
    total = shares.sum()
    return shares / total if total > 0 else np.full(m, 1 / m)
