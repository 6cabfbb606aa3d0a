"""How much the loss minds an error in every weight, measured on calibration data.

The second-order term of the loss around trained weights is ``0.5 * e F e`` with the Fisher information F. For linear
and convolution layers F is taken as a Kronecker product of a matrix over the inputs and one over the outputs (Martens
and Grosse, "Optimizing neural networks with Kronecker-factored approximate curvature", 2015). Where a layer uses its
weights at several positions of a sample, both come from the whole gradient of the sample, because what positions say
adds up: with G that gradient, from the means of ``Gᵀ G`` and ``G Gᵀ`` (Gupta, Koren and Singer, "Shampoo", 2018). For
all other parameters F is its diagonal.
"""

import copy
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize

from metaq.config import require
from metaq.entropy.passes.grids import CPU
from metaq.errors import ConfigError
from metaq.model.evaluating import evaluating
from metaq.model.weights import QUANTIZABLE
from metaq.quantize.outputs import floating_tensors
from metaq.quantize.rotation import is_tall
from metaq.quantize.second_moment import SecondMoment
from metaq.tensors.quantized import matrix_shape

Batch = torch.Tensor | tuple[torch.Tensor, ...] | Mapping[str, torch.Tensor]
Loss = Callable[[object, torch.Generator], tuple[torch.Tensor, int]]
"""From the model's output to a sum of independent terms with mean zero gradient, and how many samples they are of."""

MAX_COUPLED = 1 << 15
"""Elements of the largest weight, and square of the longest bias, whose outputs are seen together."""

MAX_GRAM_WORK = 1 << 25
"""Multiplications a sample, at most, for the second moment of gradients over the inputs of a layer."""

GRADIENT_SHARE = 0.7
"""Share of gradients in the matrix over the inputs of layers with positions; the rest, from inputs, is less noisy."""

MAX_GRADIENTS = 1 << 24
"""Elements of the gradients of single samples that are held at a time."""

RUNS = 4
"""Parts of a sample, runs of positions, that count as samples for what inputs do together: there may be only one."""

MAX_GUESSED = 1 << 18
"""Elements of the largest table whose rows all matter, though inputs may have touched few of them: they cost little."""

MAX_COLUMNS, MAX_BOTH = 4096, 3072
"""Columns of the widest weight whose inputs are seen by the gradients of whole batches, and of the widest layer where
its inputs themselves are seen besides: both take memory.
"""

TOO_LARGE = "inputs, or what layers make of them, are too large to be squared; scale them as in training."
"""What to say where sums of squares overflow."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Curvature:
    """Curvature of the loss for one parameter.

    The parameter is seen as a matrix (first dimension, all others), a vector as a single row. The Fisher information of
    an element is taken as the product of one number of its row and one of its column, `rows` and `columns`, float64;
    single elements of matrices are too noisy to be trusted. `inputs` is a matrix over the columns, float32 or float64
    (columns, columns): for linear layers the second moment of what the rows are multiplied with; for a bias all of F;
    None where only `rows` and `columns` are known. With it, `outputs` is a matrix over the rows, float64 (rows, rows),
    or for large weights its diagonal, (rows,).

    In small tables, rows that inputs hardly touched count as others do; `measured` is what `rows` were before.
    `samples` are those that `inputs` and `outputs` are of, 0 where there are none.
    """

    rows: NDArray[np.float64]
    columns: NDArray[np.float64]
    inputs: NDArray[np.floating] | None = None
    outputs: NDArray[np.float64] | None = None
    measured: NDArray[np.float64] | None = None
    samples: int = 0

    @property
    def diagonal(self) -> NDArray[np.float64]:
        """The Fisher information of every element, float64 (rows, columns)."""
        return np.outer(self.rows, self.columns)

    @property
    def mean(self) -> float:
        """Mean Fisher information of an element."""
        return float(self.rows.mean() * self.columns.mean())


def categorical_loss(output: object, generator: torch.Generator) -> tuple[torch.Tensor, int]:
    """Product of logits, shape (samples, classes), with random numbers that make its curvature that of cross-entropy.

    The numbers of a sample have mean zero and the covariance ``diag(p) - p pᵀ`` of a label drawn with the model's own
    probabilities p, but not a label's rare large gradients.
    """
    if not isinstance(output, torch.Tensor) or output.ndim != 2:
        raise ConfigError("curvature: the model's output is no matrix of logits; pass a loss of your own.")
    probabilities = output.detach().softmax(dim=1)
    drawn = probabilities.sqrt() * torch.randn(output.shape, generator=generator, device=CPU).to(output)
    directions = drawn - probabilities * drawn.sum(dim=1, keepdim=True)
    return (output * directions).sum(), len(output)


def random_projection_loss(output: object, generator: torch.Generator) -> tuple[torch.Tensor, int]:
    """Product of all floating tensors of an output, each of shape (samples, …), with standard normal numbers.

    Its curvature is that of the squared error.
    """
    found = floating_tensors(output)
    tensors = [tensor for tensor in found if tensor.requires_grad]
    require(bool(found), "batches: the model's output has no floating tensor, so that nothing can be measured.")
    require(
        bool(tensors),
        "batches: no gradient leads from the model's output to its weights, as its forward switches gradients off "
        "(no_grad, inference_mode, detach); take that out, give the network inside of it, or give no batches.",
    )
    products = [
        (tensor * torch.randn(tensor.shape, generator=generator, device=CPU).to(tensor)).sum().double()
        for tensor in tensors
    ]
    return torch.stack(products).sum(), len(tensors[0])


def _differentiate(value: torch.Tensor, parameters: Sequence[torch.Tensor], *, again: bool) -> None:
    """Gradients for hooks; a ConfigError if the network has none."""
    try:
        torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=again)
    except RuntimeError as error:
        raise ConfigError(
            f"batches: the network cannot be differentiated, which calibration needs ({error}); mend that, or give no "
            "batches."
        ) from error


def measure(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    loss: Loss = categorical_loss,
    seed: int = 0,
    draws: int = 1,
    batch_names: Sequence[str] = (),
    needed: Collection[str] | None = None,
) -> dict[str, Curvature]:
    """Curvature of every floating parameter by name, frozen ones included; the model is left as it was.

    Parameters
    ----------
    model
        In evaluation mode during the call.
    batches
        Inputs: tensors, tuples of positional or mappings of keyword arguments, on the model's device.
    loss
        See :data:`Loss`.
    seed
        Of the random numbers that `loss` draws.
    draws
        How often it draws them for every batch.
    batch_names
        What messages call the batches; their numbers from 1 unless given.
    needed
        Parameters whose curvature has to be finite; all unless given.

    Raises
    ------
    ConfigError
        If there is no batch, the output does not suit the loss, or curvature that is needed is NaN or infinite.
    """
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.dtype in QUANTIZABLE}
    taps = {name: _Tap(module) for name, module in _layers(model).items()}
    sums = {name: _Sums(parameter.shape) for name, parameter in parameters.items()}
    checked = parameters.keys() if needed is None else parameters.keys() & set(needed)
    generator = torch.Generator().manual_seed(seed)
    samples = 0

    def see(name: str, gradient: torch.Tensor) -> None:
        tap = taps.get(name, taps.get(name.removesuffix("bias") + "weight"))
        is_tapped = tap is not None and tap.has_seen
        needs_gram = not is_tapped or (name in taps and taps[name].needs_gram)
        sums[name].add(gradient.detach().to_dense(), with_squares=not is_tapped, with_gram=needs_gram)

    try:
        with _each_gradient(model, parameters, see):
            for place, batch in enumerate(batches):
                output = call(model, batch)
                for draw in range(draws):
                    value, count = loss(output, generator)
                    # Hooks of the user's on gradients that are accumulated, such as steps of an optimizer, stay silent.
                    _differentiate(value, list(parameters.values()), again=draw + 1 < draws)
                    samples += count
                if not (
                    all(sums[name].is_finite for name in checked)
                    and all(tap.is_finite for name, tap in taps.items() if checked & {name, *tap.bias_of(name)})
                ):
                    raise _refusal(batch_names[place] if batch_names else f"number {place + 1}", batch, output)
    finally:
        for tap in taps.values():
            tap.handle.remove()
    require(samples > 0, "curvature: there is no calibration data; give at least one batch.")
    found = {name: own.curvature(samples) for name, own in sums.items()}
    for name, tap in taps.items():
        if tap.has_seen and name in found:
            found[name] = tap.of_weight(samples, sums[name].gram)
            found |= {bias: tap.of_bias(samples) for bias in tap.bias_of(name)}
    is_finite = all(np.isfinite(each).all() for name in checked for each in (found[name].rows, found[name].columns))
    require(is_finite, f"batches: {TOO_LARGE}")
    return found


def require_gradients(model: nn.Module) -> None:
    """Raise :class:`ConfigError` if PyTorch cannot make gradients of the parameters, here or at all."""
    require(
        not torch.is_inference_mode_enabled(),
        "batches: calibration takes gradients, which torch.inference_mode rules out; call compress outside of it.",
    )
    require(
        not any(parameter.is_inference() for parameter in model.parameters()),
        "batches: calibration takes gradients, and parameters made under torch.inference_mode have none; make or load "
        "the model outside of it.",
    )


def _refusal(name: str, batch: Batch, output: object) -> ConfigError:
    """What to say of a batch that leaves sums that are not finite."""
    if all(bool(tensor.isfinite().all()) for tensor in floating_tensors((batch, output))):
        return ConfigError(f"batches: {name}: {TOO_LARGE}")
    return ConfigError(f"batches: {name} holds, or gives, NaN or infinity; leave it out.")


@contextmanager
def _each_gradient(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], see: Callable[[str, torch.Tensor], None]
) -> Iterator[None]:
    """Evaluation mode in which `see` is told every gradient that is found, and none of them is kept; the model is left
    as it was.
    """
    frozen = [parameter for parameter in parameters.values() if not parameter.requires_grad]

    def hook_of(name: str) -> Callable[[torch.Tensor], torch.Tensor | None]:
        def hook(gradient: torch.Tensor) -> torch.Tensor | None:
            see(name, gradient)
            # In its place, something of the same shape that takes no memory.
            return None if gradient.is_sparse else gradient.new_zeros(()).expand(gradient.shape)

        return hook

    for parameter in frozen:
        parameter.requires_grad_(True)
    handles = [
        parameter.register_hook(hook_of(name))  # type: ignore[no-untyped-call]
        for name, parameter in parameters.items()
    ]
    try:
        with evaluating(model), torch.enable_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter in frozen:
            parameter.requires_grad_(False)


class _Sums:
    """Sums over batches, of squares of the gradient of one parameter by row and column, and of its second moment."""

    def __init__(self, shape: torch.Size) -> None:
        self._shape = shape
        rows, columns = matrix_shape(shape)
        self._rows, self._columns = (torch.zeros(size, dtype=torch.float64, device=CPU) for size in (rows, columns))
        self.gram: SecondMoment | None = None
        self._is_table = False

    def add(self, gradient: torch.Tensor, *, with_squares: bool, with_gram: bool) -> None:
        """Take in the gradient of a batch."""
        matrix = _wide(gradient).reshape(len(self._rows), -1)
        if with_squares:
            squares = matrix.square()
            by_row, by_column = (squares.sum(dim=dim, dtype=torch.float64).cpu() for dim in (1, 0))
            self._rows += by_row
            self._columns += by_column
            touched = by_row if len(self._shape) > 1 else by_column
            self._is_table = self._is_table or (bool(touched.any()) and not bool(touched.all()))
        if with_gram and _has_gram(self._shape):
            # Random numbers of mean zero make the products of different samples cancel.
            self.gram = self.gram or SecondMoment(matrix.shape[1], dtype=torch.float32)
            self.gram.add_sample(matrix.mT @ matrix)

    @property
    def is_finite(self) -> bool:
        """Whether all sums are."""
        own = (each.isfinite().all() for each in (self._rows, self._columns))
        return all(bool(each) for each in own) and (self.gram is None or self.gram.is_finite)

    def curvature(self, samples: int) -> Curvature:
        """What all batches told, of so many samples."""
        rows, columns = self._rows.numpy() / samples, self._columns.numpy() / samples
        # As of positions: other inputs may touch what these hardly did.
        is_guessed = self._is_table and len(rows) * len(columns) <= MAX_GUESSED
        if len(self._shape) < 2:
            return Curvature(rows=np.ones(1), columns=_at_least_usual(columns) if is_guessed else columns)
        columns = columns / max(float(rows.sum()), np.finfo(float).tiny)
        measured, rows = rows, _at_least_usual(rows) if is_guessed else rows
        found = Curvature(rows=rows, columns=columns, measured=measured)
        if self.gram is None or not float(self.gram.total.trace()) > 0:
            return found
        inputs = (self.gram.shrunk() / samples).numpy()
        return replace(found, inputs=inputs, outputs=rows / np.trace(inputs), samples=samples)


def copied(model: nn.Module) -> nn.Module:
    """A copy of the model, in evaluation mode.

    Raises :class:`ConfigError` if a module holds tensors that it has computed, as the older
    ``torch.nn.utils.weight_norm`` does.
    """
    try:
        return copy.deepcopy(model).eval()
    except RuntimeError as error:
        raise ConfigError(
            "the model cannot be copied: a module holds tensors that it has computed, as the older "
            "torch.nn.utils.weight_norm and spectral_norm do; take those of torch.nn.utils.parametrizations."
        ) from error


def call(model: nn.Module, batch: Batch) -> object:
    """The model's output for a batch, of which it gets a copy: it may write into it."""
    batch = _own(batch)
    if isinstance(batch, Mapping):
        return model(**batch)
    if isinstance(batch, tuple):
        return model(*batch)
    return model(batch)


def _own(part: Any) -> Any:
    """The same with copies of its tensors."""
    if isinstance(part, Mapping):
        return {name: _own(value) for name, value in part.items()}
    if type(part) in (tuple, list):
        return type(part)(map(_own, part))
    return part.clone() if isinstance(part, torch.Tensor) else part


class _Tap:
    """Second moments of what goes into a layer and of the gradients of its weight and bias, sample by sample."""

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        rows = layer.weight.shape[0]
        columns = layer.weight.numel() // rows
        is_coupled = rows * columns <= MAX_COUPLED
        sees_gradients = rows * columns**2 <= MAX_GRAM_WORK
        self._inputs = SecondMoment(columns, dtype=torch.float32)
        self._over_columns = SecondMoment(columns) if sees_gradients else None
        self._over_rows = SecondMoment(rows, is_coupled=is_coupled)
        self._bias = SecondMoment(rows, is_coupled=rows**2 <= MAX_COUPLED)
        self._samples = self._positions = 0
        self._has_positions = False
        self._layer = layer
        self.handle = layer.register_forward_hook(self._see, with_kwargs=True)

    @property
    def has_seen(self) -> bool:
        """Whether the layer was called: some modules use its weight without that."""
        return self._positions > 0

    def bias_of(self, name: str) -> list[str]:
        """Name of the bias beside the weight `name`, if there is one."""
        return [name.removesuffix("weight") + "bias"] if self._layer.bias is not None else []

    @property
    def needs_gram(self) -> bool:
        """Whether the second moment of gradients has to come from whole batches."""
        return self._has_positions and self._over_columns is None and len(self._inputs.total) <= MAX_BOTH

    @property
    def is_finite(self) -> bool:
        """Whether all sums are."""
        own = (self._inputs, self._over_rows, self._over_columns, self._bias)
        return all(each.is_finite for each in own if each is not None)

    def of_weight(self, samples: int, gram: SecondMoment | None) -> Curvature:
        """Curvature of the weight; `gram` is of the gradients of whole batches, (columns, columns)."""
        inputs = self._inputs.shrunk() / self._positions
        outputs = self._over_rows.shrunk() / samples
        if self._has_positions:
            # Rows hold the trace of the whole here; the inputs' matrix keeps the scale of inputs.
            trace = float(inputs.trace()) or 1.0
            over_columns = self._over_columns if gram is None else gram
            gradients = 0.0 if over_columns is None else float(over_columns.total.trace())
            if over_columns is not None and gradients > 0:
                share = GRADIENT_SHARE * trace / gradients
                inputs = inputs.mul_(1 - GRADIENT_SHARE).add_(over_columns.shrunk(), alpha=share)
            outputs = outputs / trace
        by_row = outputs.diagonal() if outputs.ndim == 2 else outputs
        columns = inputs.diagonal().double().numpy().copy()
        return Curvature(
            rows=by_row.numpy().copy(),
            columns=columns,
            inputs=inputs.numpy(),
            outputs=outputs.numpy(),
            samples=self._samples,
        )

    def of_bias(self, samples: int) -> Curvature:
        """Curvature of the bias."""
        moment = (self._bias.shrunk() / samples).numpy()
        if moment.ndim == 1:
            return Curvature(rows=np.ones(1), columns=moment)
        columns = np.diag(moment).copy()
        return Curvature(
            rows=np.ones(1), columns=columns, inputs=moment, outputs=np.ones((1, 1)), samples=self._samples
        )

    def _see(
        self,
        _: nn.Module,
        arguments: tuple[torch.Tensor, ...],
        named: Mapping[str, torch.Tensor],
        output: torch.Tensor,
    ) -> None:
        inputs = next(iter((*arguments, *named.values())))
        patches = _patches(self._layer, _wide(inputs.detach()))
        for run in torch.tensor_split(patches, min(RUNS, max(patches.shape[1], 1)), dim=1):
            self._inputs.add(run)
        self._samples += len(patches)
        self._positions += patches.shape[0] * patches.shape[1]
        if output.requires_grad:
            output.register_hook(lambda gradient: self._see_gradient(patches, gradient))  # type: ignore[no-untyped-call]

    def _see_gradient(self, patches: torch.Tensor, gradient: torch.Tensor) -> None:
        by_sample = _by_sample(self._layer, _wide(gradient.detach()))
        self._bias.add(by_sample.sum(dim=1, keepdim=True))
        if patches.shape[1] == 1:
            self._over_rows.add(by_sample)
            return
        self._has_positions = True
        at_once = max(MAX_GRADIENTS // self._layer.weight.numel(), 1)
        for some, inputs in zip(torch.split(by_sample, at_once), torch.split(patches, at_once), strict=True):
            gradients = some.mT @ inputs  # samples, rows, columns
            self._over_rows.add(gradients.mT)
            if self._over_columns is not None:
                self._over_columns.add(gradients)


def _at_least_usual(worths: NDArray[np.float64]) -> NDArray[np.float64]:
    """`worths`, float64 (n,), but no less than the mean of those that are not zero."""
    lifted: NDArray[np.float64] = np.maximum(worths, worths[worths > 0].mean() if worths.any() else 0.0)
    return lifted


def _has_gram(shape: torch.Size) -> bool:
    """Whether a weight is a matrix for which a second moment of its rows is taken; not if it may have a basis."""
    rows, columns = shape[0] if len(shape) > 1 else 1, shape[1:].numel()
    return rows > 1 and 1 < columns <= MAX_COLUMNS and not is_tall(rows, columns)


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` in a type that holds sums of products of its elements: half precision overflows soon."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _patches(layer: nn.Linear | nn.Conv2d, inputs: torch.Tensor) -> torch.Tensor:
    """What the rows of the layer's matrix are multiplied with, shape (samples, positions, columns)."""
    if isinstance(layer, nn.Linear):
        return inputs.reshape(len(inputs) if inputs.ndim > 1 else 1, -1, inputs.shape[-1])
    columns = functional.unfold(
        inputs if inputs.ndim == 4 else inputs[None],
        kernel_size=layer.kernel_size,
        dilation=layer.dilation,
        padding=cast(tuple[int, ...], layer.padding),
        stride=layer.stride,
    )
    return columns.mT


def _by_sample(layer: nn.Linear | nn.Conv2d, gradient: torch.Tensor) -> torch.Tensor:
    """Gradient of the layer's output in the shape (samples, positions, rows)."""
    if isinstance(layer, nn.Linear):
        return gradient.reshape(len(gradient) if gradient.ndim > 1 else 1, -1, gradient.shape[-1])
    return (gradient if gradient.ndim == 4 else gradient[None]).flatten(2).mT


def _layers(model: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """Layers whose weight is a matrix that inputs are multiplied with, by the name of the weight.

    A weight that is computed from other parameters is none itself, and of one that several layers share each sees a
    part; what is asked of them here must not compute anything.
    """
    owned = {module: dict(module.named_parameters(recurse=False)) for module in model.modules()}
    owners = Counter(id(parameter) for own in owned.values() for parameter in own.values())
    found = {}
    for name, module in model.named_modules():
        # Classes of one's own may do anything with their inputs.
        is_plain = (isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward) or (
            isinstance(module, nn.Conv2d)
            and type(module).forward is nn.Conv2d.forward
            and module.groups == 1
            and isinstance(module.padding, tuple)
        )
        if not is_plain or parametrize.is_parametrized(module):
            continue
        own = owned[module]
        is_real = all(parameter.dtype in QUANTIZABLE for parameter in own.values())
        if is_real and "weight" in own and all(owners[id(parameter)] == 1 for parameter in own.values()):
            found[f"{name}.weight" if name else "weight"] = module
    return found
