"""Units of a network that can be reordered, mirrored or folded away without changing what it computes."""

from metaq.model.structure.chains import Chain, find_chains
from metaq.model.structure.folding import Folded, fit_layers, fold, is_folded
from metaq.model.structure.symmetry import arranged_like, arrangement, arrangements

__all__ = [
    "Chain",
    "Folded",
    "arranged_like",
    "arrangement",
    "arrangements",
    "find_chains",
    "fit_layers",
    "fold",
    "is_folded",
]
