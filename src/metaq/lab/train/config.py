"""Everything a training run depends on."""

from dataclasses import dataclass, replace
from typing import Literal

from metaq.compression.compressed import Goal
from metaq.config import Config, require
from metaq.lab.data.augmentation import Augmentation, CropAndFlip
from metaq.regularizer.config import RegularizerConfig

LARGEST = 1e30
"""Beyond, numbers of a training leave the range of float32."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Config):
    """The optimiser, ``"adam"`` or ``"sgd"`` with Nesterov momentum, and its learning rates.

    `learning_rate` is that during the warm-up and wherever `relative_learning_rate` is None. That one, once the entropy
    term has set in, is the learning rate over the step size of the tensor's grid, so that tensors of every scale cross
    a bucket in the same number of steps. After the share `decay_start` of all steps a cosine leads to `last_share` of
    the rate at the start. `momentum` is for ``"sgd"``, `beta2`, the decay of second moments, for ``"adam"``.
    `weight_decay` times the learning rate is the share of itself by which a weight shrinks in a step: through the
    gradient for ``"sgd"``, beside it for ``"adam"``.
    """

    name: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 2e-3
    relative_learning_rate: float | None = 8e-3
    last_share: float = 0.1
    decay_start: float = 0.6
    momentum: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "relative_learning_rate"):
            rate = getattr(self, name)
            is_rate = rate is None or 0 < rate <= LARGEST
            require(is_rate, f"optimizer.{name}: {rate} is not positive, or above {LARGEST:g}.")
        require(0 < self.last_share <= 1, f"optimizer.last_share: {self.last_share} is not in (0, 1].")
        require(0 <= self.decay_start <= 1, f"optimizer.decay_start: {self.decay_start} is not in [0, 1].")
        require(0 <= self.momentum < 1, f"optimizer.momentum: {self.momentum} is not in [0, 1).")
        require(0 < self.beta2 < 1, f"optimizer.beta2: {self.beta2} is not in (0, 1).")
        decay = self.weight_decay
        require(0 <= decay <= LARGEST, f"optimizer.weight_decay: {decay} is not between 0 and {LARGEST:g}.")


NO_GOAL = Goal()

LEAST_EPOCHS_TO_A_FIGURE = 3
"""One at least before weights are pressed, and one while they are."""


@dataclass(frozen=True, kw_only=True)
class TeacherConfig(Config):
    """A trained network whose probabilities are learned beside the labels (Hinton et al. 2015).

    The weights are in a `file` of any format that metaq reads, of the network `net`, by default the run's own. Its
    probabilities weigh `share`, the labels the rest.
    """

    file: str
    net: str | None = None
    share: float = 0.5

    def __post_init__(self) -> None:
        require(0 <= self.share <= 1, f"teacher.share: {self.share} is not between 0 and 1.")


@dataclass(frozen=True, kw_only=True)
class InitConfig(Config):
    """Weights start uniform in ``[center - radius, center + radius]``, as in the thesis."""

    center: float = -0.11
    radius: float = 1.114

    def __post_init__(self) -> None:
        require(abs(self.center) <= LARGEST, f"init.center: {self.center} is no number, or above {LARGEST:g} in size.")
        require(0 < self.radius <= LARGEST, f"init.radius: {self.radius} is not positive, or above {LARGEST:g}.")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """One training run.

    `net` is the name of a network or ``package.module:factory``, `data` that of a data set or a folder of IDX files.
    The `seed` fixes initial weights, order of images and augmentation. Weights start as the network has it, as `init`
    says, or from a file, `start`, in any format that metaq reads. A `goal` is for the file: with one,
    ``regularizer.strength`` is None; a figure that it is about is the validation accuracy, in percent.

    Photographs are cropped and mirrored, before any other augmentation; None leaves images as they are. The share of
    images left as they are grows linearly from ``augmentation.clean_fraction`` to `clean_fraction_last` at the share
    `clean_from` of the epochs: a network with few bits left is short of capacity, not of images.

    ``"bfloat16"`` computes the forward pass and its gradients in this type where that is safe, which is about twice as
    fast on processors made for it; weights and optimiser stay as they are, and so does what is measured.

    After the share `select_from` of the epochs, the epoch to keep is chosen: the one of highest validation accuracy of
    the quantised weights, on a tie the one of fewer bits. For every choice `validation_count` training images are held
    out, by default the data set's own number.
    """

    net: str = "lenet5"
    data: str = "digits"
    epochs: int = 60
    batch_size: int = 256
    optimizer: OptimizerConfig = OptimizerConfig()
    regularizer: RegularizerConfig = RegularizerConfig(strength=1e-5)
    augmentation: Augmentation | None = Augmentation()
    crop: CropAndFlip | None = None
    clean_fraction_last: float = 0.75
    clean_from: float = 1.0
    init: InitConfig | None = None
    start: str | None = None
    goal: Goal = NO_GOAL
    teacher: TeacherConfig | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    select_from: float = 0.9
    validation_count: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.epochs >= 1, f"epochs: {self.epochs} is below 1.")
        require(self.batch_size >= 1, f"batch_size: {self.batch_size} is below 1.")
        require(self.init is None or self.start is None, "start: weights come from a file or from init; give one.")
        is_driven = self.regularizer.strength is None
        require(
            is_driven == self.has_goal, "goal: give either a goal or regularizer.strength; see metaq.lab.train.aim."
        )
        accuracy = self.goal.target_value
        require(accuracy is None or 0 < accuracy <= 100, f"goal.target_value: {accuracy} is no accuracy in percent.")
        require(self.goal.keep is None, "goal.keep: is for metaq.compress; give target_value or a size.")
        require(
            self.goal.larger_is_better is not False, "goal.larger_is_better: of accuracies, larger ones are better."
        )
        require(
            not self.goal.is_quality or self.epochs >= LEAST_EPOCHS_TO_A_FIGURE,
            f"epochs: {self.epochs} leave no time to measure accuracies; give {LEAST_EPOCHS_TO_A_FIGURE} or more.",
        )
        require(0 <= self.clean_fraction_last <= 1, "clean_fraction_last: must lie between 0 and 1.")
        require(0 < self.clean_from <= 1, f"clean_from: {self.clean_from} is not in (0, 1].")
        require(0 <= self.select_from <= 1, f"select_from: {self.select_from} is not between 0 and 1.")
        require(self.validation_count is None or self.validation_count >= 1, "validation_count: must be at least 1.")
        require(0 <= self.seed < 2**63, f"seed: {self.seed} is not a whole number from 0.")

    @property
    def has_goal(self) -> bool:
        """Whether there is a goal to reach."""
        return self.goal != NO_GOAL

    @property
    def is_plain(self) -> bool:
        """Whether nothing draws weights to buckets: they stay floats, in the file too."""
        return self.regularizer.strength == 0 and self.regularizer.forward == "float"


def plain(config: TrainConfig) -> TrainConfig:
    """`config` without the entropy term and its goal: the network that a small one is compared with, or starts from."""
    return replace(
        config,
        goal=NO_GOAL,
        regularizer=replace(config.regularizer, strength=0.0, forward="float", led_by="step"),
        optimizer=replace(config.optimizer, relative_learning_rate=None),
    )


TARGETED = TrainConfig(
    optimizer=OptimizerConfig(relative_learning_rate=2.5e-2, last_share=0.04),
    regularizer=RegularizerConfig(strength=0.0, warmup=0.08),
    clean_fraction_last=0.7,
    clean_from=0.6,
)
"""What every training to a goal has in common."""

STEPS_TO_GOAL = 25_000
LEAST_LED_STEPS = 4000
"""From so many steps on λ leads: with fewer, it ruins what it presses."""

LARGE_BATCH, SMALL_BATCH = 256, 64
LEAST_STEPS_OF_LARGE_BATCHES = 40
"""An epoch of large batches has at least so many steps; with fewer images batches are small."""


def aim(config: TrainConfig, goal: Goal, *, images: int, epochs: int | None = None) -> TrainConfig:
    """`config` with a goal: λ follows from it, and epochs and batches from the number of training `images`.

    Network, data and seed are kept, and whether images are augmented. Without `epochs`, training has about
    ``STEPS_TO_GOAL`` steps. Weights that are trained already need no warm-up. What depends on the number of steps is
    as :func:`of_length` has it. Raises :class:`ConfigError` if the problem is not about bits, or there are too few
    epochs.
    """
    batch_size = LARGE_BATCH if images >= LEAST_STEPS_OF_LARGE_BATCHES * LARGE_BATCH else SMALL_BATCH
    steps_per_epoch = -(-images // batch_size)
    term = config.regularizer
    require(
        term.objective == "code_length" and term.forward == "quantized",
        'goal: needs objective="code_length" and forward="quantized"; choose another preset.',
    )
    least = LEAST_EPOCHS_TO_A_FIGURE if goal.is_quality else 1
    aimed = replace(
        config,
        goal=goal,
        batch_size=batch_size,
        epochs=max(least, round(STEPS_TO_GOAL / steps_per_epoch)) if epochs is None else epochs,
        augmentation=None if config.augmentation is None else TARGETED.augmentation,
        clean_fraction_last=TARGETED.clean_fraction_last,
        clean_from=TARGETED.clean_from,
        optimizer=replace(TARGETED.optimizer, name=config.optimizer.name),
        regularizer=replace(term, strength=None, warmup=TARGETED.regularizer.warmup if config.start is None else 0.0),
    )
    return of_length(aimed, aimed.epochs, images=images)


def of_length(config: TrainConfig, epochs: int, *, images: int) -> TrainConfig:
    """`config`, which has a goal, for a training of so many epochs with so many training `images`.

    In a long one λ keeps the bits on their path, and learning rates are relative to the step sizes; in a short one
    step sizes do, which change too much for that.
    """
    is_long = epochs * -(-images // config.batch_size) >= LEAST_LED_STEPS
    relative = TARGETED.optimizer.relative_learning_rate if is_long else None
    return replace(
        config,
        epochs=epochs,
        optimizer=replace(config.optimizer, relative_learning_rate=relative),
        regularizer=replace(config.regularizer, led_by="strength" if is_long else "step"),
    )
