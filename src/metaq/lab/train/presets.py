"""Trainings by name; :mod:`metaq.lab.registry` lists them."""

from dataclasses import replace
from pkgutil import resolve_name

from metaq.config import near_match, require
from metaq.lab.data.augmentation import CropAndFlip
from metaq.lab.registry import PRESETS
from metaq.lab.train.config import InitConfig, OptimizerConfig, TrainConfig, plain
from metaq.regularizer.config import BucketConfig, FreezeConfig, RegularizerConfig

LENET5_MNIST = TrainConfig(data="mnist", epochs=100, regularizer=RegularizerConfig(strength=1.3e-5))
LENET300_MNIST = TrainConfig(net="lenet300", data="mnist", epochs=60)

LENET5_DIGITS = TrainConfig(
    data="digits",
    epochs=200,
    batch_size=64,
    optimizer=OptimizerConfig(relative_learning_rate=1.6e-2),
    regularizer=RegularizerConfig(strength=2.5e-5),
)
LENET300_DIGITS = replace(LENET5_DIGITS, net="lenet300")

RESNET20_CIFAR10 = TrainConfig(
    net="resnet20",
    data="cifar10",
    epochs=200,
    batch_size=128,
    regularizer=RegularizerConfig(strength=3e-7, exclude=("*norm*",)),
    augmentation=None,
    crop=CropAndFlip(),
)
"""Batch normalisation takes no part: where a scale jumps from bucket to bucket, a whole channel is disturbed."""

RESNET20_CIFAR10_FLOAT = plain(
    replace(
        RESNET20_CIFAR10,
        optimizer=OptimizerConfig(
            name="sgd", learning_rate=0.1, weight_decay=5e-4, decay_start=0.0, last_share=1e-3, momentum=0.9
        ),
    )
)
VGG11_CIFAR10 = replace(RESNET20_CIFAR10, net="vgg11", regularizer=replace(RESNET20_CIFAR10.regularizer, strength=1e-8))
VGG11_CIFAR10_FLOAT = replace(
    RESNET20_CIFAR10_FLOAT, net="vgg11", optimizer=replace(RESNET20_CIFAR10_FLOAT.optimizer, learning_rate=0.02)
)

THESIS = TrainConfig(
    net="lenet5",
    data="mnist",
    epochs=144,
    batch_size=64,
    optimizer=OptimizerConfig(learning_rate=7e-4, relative_learning_rate=None, last_share=1.0, beta2=0.999),
    regularizer=RegularizerConfig(
        objective="spread",
        strength=0.0015,
        alpha=0.533,
        grouping="global",
        buckets=BucketConfig(rule="fixed", count=6, center=-0.11, radius=1.114),
        forward="float",
        warmup=0.0,
        ramp=0.0,
        decay_end=1.0,
        refresh_every=1,
        freeze=FreezeConfig(start=1.0),
    ),
    augmentation=None,
    clean_fraction_last=1.0,
    init=InitConfig(),
)
THESIS_DIGITS = replace(THESIS, data="digits")


def preset(name: str) -> TrainConfig:
    """The preset called `name`; raises :class:`ConfigError` with the near match if there is none."""
    require(name in PRESETS, f"--preset {name}: there is no such preset; {near_match(name, PRESETS)}")
    config: TrainConfig = resolve_name(PRESETS[name])
    return config
