"""Second moments of vectors that few samples tell of."""

import torch

from metaq.entropy.passes.grids import CPU

AT_ONCE = 1 << 24
"""Elements of vectors, about, whose products are held at a time."""


class SecondMoment:
    """Sum over samples of the outer squares of their vectors.

    Few samples tell little of what different elements do together, and their sums are the less to be trusted the more
    single samples differ. The estimate has the share of them at which its expected squared error is least (Ledoit and
    Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", 2004; towards a diagonal: Schäfer
    and Strimmer, 2005). Vectors of one sample depend on each other, so that what counts is how many samples there are.

    Parameters
    ----------
    size
        n, of the vectors.
    is_coupled
        Whether the products of different elements are wanted: `total` is of shape (n, n) then, else (n,).
    dtype
        Of `total`.
    """

    def __init__(self, size: int, *, is_coupled: bool = True, dtype: torch.dtype = torch.float64) -> None:
        self.total = torch.zeros((size, size) if is_coupled else (size,), dtype=dtype, device=CPU)
        self.samples = 0
        self._squares = torch.zeros((), dtype=torch.float64, device=CPU)

    def add(self, vectors: torch.Tensor) -> None:
        """Take in samples, each with as many vectors: floating, of shape (samples, vectors, n)."""
        self.samples += len(vectors)
        if self.total.ndim == 1:
            self.total += vectors.square().sum(dim=(0, 1)).to(self.total)
            return
        flat = vectors.flatten(0, 1)
        self.total += (flat.mT @ flat).to(self.total)
        for some in torch.split(vectors, max(AT_ONCE // max(vectors[:1].numel(), 1), 1)):
            # Of a matrix V, VᵀV and VVᵀ have the same sum of squares.
            products = some @ some.mT if some.shape[1] < some.shape[2] else some.mT @ some
            diagonals = some.square().sum(dim=1)
            self._squares += (_squared(products) - _squared(diagonals)).cpu()

    def add_sample(self, moment: torch.Tensor) -> None:
        """Take in the outer squares of one sample, floating (n, n)."""
        self.samples += 1
        self.total += moment.to(self.total)
        self._squares += (_squared(moment) - _squared(moment.diagonal())).cpu()

    @property
    def is_finite(self) -> bool:
        """Whether the sums of squares are."""
        return bool((self.total.diagonal() if self.total.ndim == 2 else self.total).isfinite().all())

    def shrunk(self) -> torch.Tensor:
        """The sum, of the shape of `total`, with what is to be trusted of products of different elements."""
        if self.total.ndim == 1 or not self.samples:
            return self.total
        diagonal = self.total.diagonal()
        mean_square = float(_squared(self.total) - _squared(diagonal)) / self.samples**2
        if not mean_square > 0:
            return self.total
        spread = float(self._squares) / self.samples - mean_square
        # In this order, 0 where squares of squares are beyond the range, and their difference NaN.
        trusted = min(max(0.0, 1 - spread / (mean_square * (self.samples - 1))), 1.0) if self.samples > 1 else 0.0
        result = self.total * trusted
        result.diagonal().copy_(diagonal)
        return result


def _squared(tensor: torch.Tensor) -> torch.Tensor:
    """Sum of squares, a float64 scalar, with no copy of all of a large tensor."""
    sums = [part.double().square().sum() for part in torch.split(tensor.flatten(), AT_ONCE)]
    return torch.stack(sums).sum()
