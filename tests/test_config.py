from __future__ import annotations

import pytest

from metaq.config import near_match
from metaq.errors import ConfigError
from metaq.lab.data import Augmentation, CropAndFlip
from metaq.lab.registry import PRESETS
from metaq.lab.train import preset
from metaq.lab.train.config import InitConfig, TrainConfig
from metaq.regularizer.config import FreezeConfig, RegularizerConfig


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_survive_json(name):
    assert TrainConfig.from_json(preset(name).to_json()) == preset(name)


def test_overrides_reach_every_depth_and_type():
    config = TrainConfig().override(
        [
            "epochs=3",
            "optimizer.learning_rate=0.5",
            "regularizer.freeze.start=1",
            "regularizer.include=conv*,fc1.weight",
            "select_from=0.5",
            "regularizer.objective=spread",
            "validation_count=none",
            "augmentation.scale=0.2",
            "init.radius=0.5",
            "crop.flips=false",
        ]
    )
    assert config.epochs == 3
    assert config.optimizer.learning_rate == 0.5
    assert config.regularizer.freeze.start == 1.0
    assert config.regularizer.include == ("conv*", "fc1.weight")
    assert config.select_from == 0.5
    assert config.regularizer.objective == "spread"
    assert config.validation_count is None
    assert config.augmentation == Augmentation(scale=0.2)
    assert config.crop == CropAndFlip(flips=False)
    assert config.init == InitConfig(radius=0.5)
    assert config.override(["augmentation=none"]).augmentation is None


@pytest.mark.parametrize(
    ("assignment", "named"),
    [
        ("epoch=3", "did you mean 'epochs'"),
        ("regularizer.strenght=1", "did you mean 'strength'"),
        ("epochs", "key=value"),
        ("epochs=many", "whole number"),
        ("optimizer.learning_rate=fast", "a number"),
        ("regularizer.objective=code-length", "did you mean 'code_length'"),
        ("regularizer=1", "name one of its options"),
        ("epochs.more=1", "no options of its own"),
        ("epochs=0", "epochs"),
        ("regularizer.buckets.count=1", "count"),
        ("regularizer.buckets.radius=-1", "radius"),
        ("regularizer.buckets.count=254", "odd"),
        ("seed=-1", "seed"),
        ("init.radius=1e300", "radius"),
        ("init.center=1e300", "center"),
        ("optimizer.learning_rate=1e300", "learning_rate"),
        ("optimizer.relative_learning_rate=inf", "relative_learning_rate"),
        ("optimizer.weight_decay=1e300", "weight_decay"),
    ],
)
def test_wrong_overrides_say_what_is_wrong(assignment, named):
    with pytest.raises(ConfigError, match=named):
        TrainConfig().override([assignment])


def test_unknown_preset_gets_the_near_match():
    with pytest.raises(ConfigError, match="lenet5-mnist"):
        preset("lenet5-minst")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"unknown": 1}', '{"epochs": "3"}', '{"regularizer": 3}', '{"epochs": true}']
)
def test_damaged_json_is_refused(text):
    with pytest.raises(ConfigError):
        TrainConfig.from_json(text)


def test_validation_of_single_fields():
    for wrong in ({"alpha": 1.5}, {"strength": -1.0}, {"warmup": 1.0}, {"ramp": 0.95}, {"hysteresis": 1.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            RegularizerConfig(**wrong)
    with pytest.raises(ConfigError, match="last_threshold"):
        FreezeConfig(first_threshold=0.1, last_threshold=0.2)


def test_configs_are_values():
    assert RegularizerConfig() == RegularizerConfig()
    assert len({RegularizerConfig(), RegularizerConfig()}) == 1


def test_where_there_is_no_word_none_is_offered():
    assert near_match("one", []) == "there is none."
