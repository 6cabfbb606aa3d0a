"""Linear prediction of a symbol from symbols before it, fitted by the encoder and sent in seven bits a coefficient."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COEFFICIENT_BITS = 5
COEFFICIENT_WIDTH = 7
LOWEST_COEFFICIENT, HIGHEST_COEFFICIENT = -64, 63
LAGS = 6
MIN_PERIOD, MAX_PERIOD = 2, 255
HIGHEST_FITTED_PERIOD = 32
MIN_SYMBOLS = 150
"""Shorter streams do not pay for their coefficients."""

REWEIGHTINGS = 5
RIDGE = 4.0


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """How symbols of a stream are predicted.

    `period` is the distance to the symbol above within a filter, 0 if symbols are not predicted; `coefficients`, in
    1/32, are of the symbols 1, period, period + 1, period - 1, 2 and a row before, less the mode each.
    """

    period: int = 0
    coefficients: tuple[int, ...] = (0,) * LAGS


def fit(symbols: NDArray[np.int32], *, mode: int, row_length: int) -> Prediction:
    """The prediction with the least mean absolute error; without rows or with few symbols none.

    Least squares, reweighted towards least absolute errors, for every period that divides a row and is at most 32.
    """
    if symbols.size < MIN_SYMBOLS or row_length == 0:
        return Prediction()
    distances = symbols.astype(np.float64) - mode
    highest = min(row_length - 1, HIGHEST_FITTED_PERIOD)
    periods = [period for period in range(MIN_PERIOD, highest + 1) if row_length % period == 0]
    fitted = [_fit_period(distances, period, row_length) for period in periods]
    return min(fitted, key=lambda pair: pair[0])[1] if fitted else Prediction()


def _fit_period(distances: NDArray[np.float64], period: int, row_length: int) -> tuple[float, Prediction]:
    lags = (1, period, period + 1, period - 1, 2, row_length)
    columns = np.stack([_shifted(distances, lag) for lag in lags], axis=1)
    weights = np.ones(distances.size)
    solution: NDArray[np.floating] = np.zeros(LAGS)
    for _ in range(REWEIGHTINGS):
        weighted = columns * weights[:, None]
        # Least squares, because with symbols in the millions the ridge is lost to rounding.
        solution = np.linalg.lstsq(columns.T @ weighted + RIDGE * np.eye(LAGS), weighted.T @ distances, rcond=None)[0]
        weights = 1 / np.maximum(np.abs(distances - columns @ solution), 1)
    rounded = np.clip(np.round(solution * (1 << COEFFICIENT_BITS)), LOWEST_COEFFICIENT, HIGHEST_COEFFICIENT)
    error = float(np.abs(distances - columns @ (rounded / (1 << COEFFICIENT_BITS))).mean())
    return error, Prediction(period=period, coefficients=tuple(int(value) for value in rounded))


def _shifted(values: NDArray[np.float64], lag: int) -> NDArray[np.float64]:
    shifted: NDArray[np.float64] = np.zeros_like(values)
    if lag < values.size:
        shifted[lag:] = values[:-lag]
    return shifted
