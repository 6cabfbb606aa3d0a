"""Everything a training run depends on."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from metaq.config import Config, require
from metaq.lab.data.augmentation import Augmentation, CropAndFlip
from metaq.regularizer.config import PlanConfig, RegularizerConfig


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
        require(self.learning_rate > 0, f"optimizer.learning_rate: {self.learning_rate} is not positive.")
        relative = self.relative_learning_rate
        require(relative is None or relative > 0, f"optimizer.relative_learning_rate: {relative} is not positive.")
        require(0 < self.last_share <= 1, f"optimizer.last_share: {self.last_share} is not in (0, 1].")
        require(0 <= self.decay_start <= 1, f"optimizer.decay_start: {self.decay_start} is not in [0, 1].")
        require(0 <= self.momentum < 1, f"optimizer.momentum: {self.momentum} is not in [0, 1).")
        require(0 < self.beta2 < 1, f"optimizer.beta2: {self.beta2} is not in (0, 1).")
        decay = self.weight_decay
        require(0 <= decay < math.inf, f"optimizer.weight_decay: {decay} is not a finite number from 0 upwards.")


@dataclass(frozen=True, kw_only=True)
class GoalConfig(Config):
    """What a training is to reach; one of the two at most.

    That is a least validation `accuracy` of the quantised weights, in percent, in as small a file as possible; or a
    largest file of so many `bytes`, as accurate as possible.
    """

    accuracy: float | None = None
    bytes: int | None = None

    def __post_init__(self) -> None:
        require(self.accuracy is None or self.bytes is None, "goal: give an accuracy or a number of bytes, not both.")
        require(self.accuracy is None or 0 < self.accuracy <= 100, f"goal.accuracy: {self.accuracy} is no percentage.")
        require(self.bytes is None or self.bytes > 0, f"goal.bytes: {self.bytes} is not positive.")

    @property
    def is_given(self) -> bool:
        """Whether there is anything to reach."""
        return self.accuracy is not None or self.bytes is not None


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
        require(math.isfinite(self.center), f"init.center: {self.center} is not a finite number.")
        require(0 < self.radius < math.inf, f"init.radius: {self.radius} is not a positive finite number.")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """One training run.

    `net` is the name of a network or ``package.module:factory``, `data` that of a data set or a folder of IDX files.
    The `seed` fixes initial weights, order of images and augmentation. Weights start as the network has it, as `init`
    says, or from a file, `start`, in any format that metaq reads. A `goal` needs ``regularizer.plan``.

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
    goal: GoalConfig = GoalConfig()
    teacher: TeacherConfig | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    select_from: float = 0.9
    validation_count: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.epochs >= 1, f"epochs: {self.epochs} is below 1.")
        require(self.batch_size >= 1, f"batch_size: {self.batch_size} is below 1.")
        require(self.init is None or self.start is None, "start: weights come from a file or from init; give one.")
        planned = self.regularizer.plan is not None
        require(planned or not self.goal.is_given, "goal: needs regularizer.plan; see metaq.lab.train.aim.")
        require(0 <= self.clean_fraction_last <= 1, "clean_fraction_last: must lie between 0 and 1.")
        require(0 < self.clean_from <= 1, f"clean_from: {self.clean_from} is not in (0, 1].")
        require(0 <= self.select_from <= 1, f"select_from: {self.select_from} is not between 0 and 1.")
        require(self.validation_count is None or self.validation_count >= 1, "validation_count: must be at least 1.")
        require(0 <= self.seed < 2**63, f"seed: {self.seed} is not a whole number from 0.")

    @property
    def is_plain(self) -> bool:
        """Whether nothing draws weights to buckets: they stay floats, in the file too."""
        return self.regularizer.strength == 0 and self.regularizer.forward == "float"


def plain(config: TrainConfig) -> TrainConfig:
    """`config` without the entropy term and its goal: the network that a small one is compared with, or starts from."""
    return replace(
        config,
        goal=GoalConfig(),
        regularizer=replace(config.regularizer, strength=0.0, forward="float", plan=None),
        optimizer=replace(config.optimizer, relative_learning_rate=None),
    )


TARGETED_PLAN = PlanConfig(press=0.76, settle=0.16)

TARGETED = TrainConfig(
    optimizer=OptimizerConfig(relative_learning_rate=2.5e-2),
    regularizer=RegularizerConfig(warmup=0.08, plan=TARGETED_PLAN),
    clean_fraction_last=0.7,
    clean_from=0.6,
)
"""What every training to a goal has in common."""

STEPS_TO_GOAL = 25_000
LARGE_BATCH, SMALL_BATCH = 256, 64
LEAST_STEPS_OF_LARGE_BATCHES = 40
"""An epoch of large batches has at least so many steps; with fewer images batches are small."""


def aim(config: TrainConfig, goal: GoalConfig, *, images: int, epochs: int | None = None) -> TrainConfig:
    """`config` with a goal: λ is driven by it, and epochs and batches follow from the number of training `images`.

    Network, data and seed are kept, and whether images are augmented. Without `epochs`, training has about
    ``STEPS_TO_GOAL`` steps. Weights that are trained already need no warm-up.
    """
    batch_size = LARGE_BATCH if images >= LEAST_STEPS_OF_LARGE_BATCHES * LARGE_BATCH else SMALL_BATCH
    steps_per_epoch = -(-images // batch_size)
    plan, warmup = TARGETED_PLAN, TARGETED.regularizer.warmup
    if config.start is not None:
        plan, warmup = replace(plan, press=plan.press + warmup), 0.0
    return replace(
        config,
        goal=goal,
        batch_size=batch_size,
        epochs=max(1, round(STEPS_TO_GOAL / steps_per_epoch)) if epochs is None else epochs,
        augmentation=None if config.augmentation is None else TARGETED.augmentation,
        clean_fraction_last=TARGETED.clean_fraction_last,
        clean_from=TARGETED.clean_from,
        optimizer=replace(TARGETED.optimizer, name=config.optimizer.name),
        regularizer=replace(config.regularizer, plan=plan, warmup=warmup),
    )
