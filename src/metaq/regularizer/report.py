"""Where the weights of a training stand."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from metaq.entropy.cells import CellStatistics
from metaq.entropy.objective import entropy_bits
from metaq.entropy.passes import dispatch
from metaq.entropy.passes.grids import CPU, GridSet
from metaq.regularizer.participants import Participants
from metaq.regularizer.slopes import SlopeRule


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


def report_of(
    participants: Participants,
    rule: SlopeRule,
    grids: GridSet,
    weights: Sequence[torch.Tensor],
    values: Iterable[torch.Tensor],
    *,
    frozen: int,
) -> RegularizerReport:
    """Sum up over all weights of all processes, with `grids` on the CPU; O(n); refuses NaN and infinity.

    `weights` and `values` are the latent and the quantised weights, one tensor each, the latter in float64; `frozen`
    counts those of this process.
    """
    total = participants.shards.total
    counts, fractions = total(*dispatch.cell_sums(*participants.counted(weights), grids))
    dispatch.require_finite(counts, fractions)
    phi_bits = sum(
        rule.value(CellStatistics(counts=counts[g].numpy(), fractions=fractions[g].numpy(), grid=grid), g)
        for g, grid in enumerate(grids)
    )
    bucket_counts = torch.zeros(len(grids), grids.count, dtype=torch.float64)
    others = torch.tensor([0.0, frozen], dtype=torch.float64)
    counted = set(participants.shards.counted)
    for t, (tensor, quantized) in enumerate(zip(weights, values, strict=True)):
        if t in counted:
            bucket_counts += dispatch.bucket_counts([quantized], [participants.group_of[t]], grids)
            others[0] += (tensor.double() - quantized).square().sum().to(CPU)
    bucket_counts, others = total(bucket_counts, others)
    bits = float(entropy_bits(bucket_counts))
    return RegularizerReport(
        phi_bits=phi_bits,
        bits=bits,
        bits_per_weight=bits / participants.total,
        distance=math.sqrt(float(others[0]) / participants.total),
        weights=participants.total,
        frozen=int(others[1]),
    )
