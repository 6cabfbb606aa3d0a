"""Parameters trained as what they differ by from those of a base, so that an update of it is small."""

from collections.abc import Collection, Mapping

import torch
from torch import nn
from torch.nn.utils import parametrize

from metaq import container
from metaq.compression.pipeline import exact_tensor, on_grid
from metaq.compression.updating import NOWHERE, Update, has_same, update_of
from metaq.config import require
from metaq.container.applying import tied
from metaq.container.updates import Against
from metaq.model.applying import Model, model_of
from metaq.model.norms import rounded_norms
from metaq.model.opened import AnyModel
from metaq.model.sharding import is_sharded, unwrapped
from metaq.model.weights import alias_of
from metaq.tensors.coverage import coverage_of
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import QuantizedTensor, Tensor


class _Added(nn.Module):
    """The weight that a difference makes of that of the base."""

    base: torch.Tensor

    def __init__(self, base: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("base", base.clone(), persistent=False)

    def forward(self, difference: torch.Tensor) -> torch.Tensor:
        """Their sum."""
        return self.base + difference

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """The difference that makes `weight`, but for rounding."""
        return weight - self.base


class Changes:
    """The chosen parameters of a model as differences from a base.

    The parameters stay the objects they are, so that an optimiser that has them goes on; until :meth:`merge`, they hold
    differences, by the names in `names`, and the modules add the base when they need a weight.

    Parameters
    ----------
    model
        A module, changed in place.
    base
        The model to be updated.
    chosen
        Names of parameters of the module.

    Raises
    ------
    ConfigError
        If the base has no such tensor, or a parameter is tied, shared out over processes or computed from others.
    """

    def __init__(self, model: nn.Module, base: AnyModel | Model, chosen: Collection[str]) -> None:
        self.base = model_of(base)
        self._model = unwrapped(model)
        self._base = weights = self.base.state_dict()
        state = self._model.state_dict()
        alias = alias_of(state, state)
        for name in chosen:
            parameter = self._model.get_parameter(name)
            same = name in weights and (weights[name].shape, weights[name].dtype) == (parameter.shape, parameter.dtype)
            require(same, f"{name}: the base has no tensor of this name, shape and type; add it to `exclude`.")
            is_finite = bool(torch.isfinite(weights[name]).all())
            require(is_finite, f"{name}: holds NaN or infinity in the base, which no change makes up for; repair it.")
            is_tied = sum(1 for first in alias.values() if first == alias.get(name)) > 1
            require(not is_tied, f"{name}: is tied to another parameter, which no base is for; add it to `exclude`.")
            is_plain = not is_sharded(parameter) and "parametrizations" not in name
            require(is_plain, f"{name}: is sharded or parametrised, which no base is for; add it to `exclude`.")
        self.names: dict[str, str] = {}
        for name in chosen:
            module, leaf = self._owner(name)
            device = self._model.get_parameter(name).device
            parametrize.register_parametrization(module, leaf, _Added(weights[name].to(device)))
            stem = name.rpartition(".")[0]
            self.names[f"{stem}.parametrizations.{leaf}.original".lstrip(".")] = name
        self._tensors: list[Tensor] | None = None

    def size_bytes(
        self, grids: Mapping[str, BucketGrid], *, metadata: container.Metadata, coder: str, drops: bool = True
    ) -> int:
        """Bytes of the update of what the model holds; for `grids` see :meth:`update`. Unless it `drops` what has not
        changed, all tensors that take part are there.
        """
        tensors = self._changed(grids, drops=drops)
        against = {
            tensor.name: Against(elements=self.base.elements[tensor.name].values, is_sum=True)
            for tensor in tensors
            if isinstance(tensor, QuantizedTensor) and tensor.name in self.names.values()
        }
        data = container.encode(tensors, metadata=metadata, coder=coder, update=NOWHERE, against=against)
        return len(data) + (0 if drops else self._expected_bytes({tensor.name for tensor in tensors}))

    def _expected_bytes(self, held: Collection[str]) -> int:
        """What parameters will take that are trained but take no part, as they will be kept exactly."""
        own = self.names.keys() | held
        others = (p for name, p in self._model.named_parameters() if name not in own and p.requires_grad)
        return sum(parameter.numel() * parameter.element_size() for parameter in others)

    def update(self, grids: Mapping[str, BucketGrid], *, metadata: container.Metadata, coder: str) -> Update:
        """The update of what the model holds now or, merged, held then; `grids` of differences by their own names."""
        tensors = self._changed(grids)
        held = {tensor.name for tensor in tensors}
        state = self._model.state_dict()
        known = {**{name: name for name in state}, **self.names}
        kept = self.base.held.keys() - held
        left = tied({known[name]: self.base.held[known[name]] for name in state if known[name] in kept})
        sums = held & set(self.names.values())
        weights = sum(tensor.numel() for tensor in state.values())
        float_bytes = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
        coverage = coverage_of(tensors)
        options = {"float_bytes": float_bytes, "weights": weights, "coverage": coverage}
        return update_of(self.base, [*tensors, *left], metadata, coder=coder, sums=sums, **options)

    def merge(self, grids: Mapping[str, BucketGrid]) -> None:
        """Let the parameters hold weights again, those of the update, which is kept."""
        self._tensors = self._changed(grids)
        self.undo()

    def undo(self) -> None:
        """Let the parameters hold weights again."""
        for name in self.names.values():
            parametrize.remove_parametrizations(*self._owner(name), leave_parametrized=True)

    def _owner(self, name: str) -> tuple[nn.Module, str]:
        stem, _, leaf = name.rpartition(".")
        return self._model.get_submodule(stem), leaf

    def _changed(self, grids: Mapping[str, BucketGrid], *, drops: bool = True) -> list[Tensor]:
        """What differs from the base: differences on their grids, and all else that the training has changed.

        Of the latter, vectors of batch normalisation are rounded.
        """
        if self._tensors is not None:
            return self._tensors
        state = self._model.state_dict()
        differences = [
            on_grid(name, state[own], grids[own])
            for own, name in self.names.items()
            if not drops or bool(state[own].any())
        ]
        others = {name: tensor for name, tensor in state.items() if name not in self.names}
        exact = [exact_tensor(name, tensor) for name, tensor in others.items()]
        changed = {tensor.name: tensor for tensor in exact if not has_same(self.base.elements, tensor)}
        if not changed:
            return list[Tensor](differences)
        weights = others | {name: self._base[name] + state[own].cpu() for own, name in self.names.items()}
        norms = rounded_norms(weights, taken=weights.keys() - changed.keys())
        rounded = {name: on_grid(name, norms.values[name], grid) for name, grid in norms.grids.items()}
        return [*differences, *(rounded.get(name, tensor) for name, tensor in changed.items())]
