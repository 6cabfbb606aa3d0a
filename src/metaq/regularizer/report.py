"""Where the weights of a training stand."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RegularizerReport:
    """Where the weights stand.

    Attributes
    ----------
    phi_bits
        φ of the latent weights, summed over groups, in bits.
    bits
        Zero-order entropy of the bucket indices, one table a group, in bits.
    bits_per_weight
        `bits` over `weights`.
    distance
        Root mean square distance of the latent weights from their reference values, in units of weight.
    weights
        Number of weights that take part.
    frozen
        Weights fixed because they oscillated.
    """

    phi_bits: float
    bits: float
    bits_per_weight: float
    distance: float
    weights: int
    frozen: int
