from __future__ import annotations

import contextlib
import csv
import re
import runpy
import signal
import sys
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    Checkpoint,
    EMAWeightAveraging,
    ModelCheckpoint,
    OnExceptionCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.tuner import Tuner
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import metaq.lightning
from metaq import ConfigError, EntropyRegularizer, RegularizerConfig, load
from metaq.lightning import EntropyCallback

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks:UserWarning"),
    pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]

PAGE = Path(__file__).parents[2] / "docs/how-to/lightning.md"

EPOCHS, BATCHES, BATCH = 4, 6, 16
STEPS = EPOCHS * BATCHES
CONFIG = RegularizerConfig(strength=1e-2, refresh_every=4)


def make_net(width=8):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, width), nn.GELU(), nn.Linear(width, 3))


def make_loader():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(BATCHES * BATCH, 6, generator=generator)
    labels = torch.randint(0, 3, (BATCHES * BATCH,), generator=generator)
    return DataLoader(TensorDataset(inputs, labels), batch_size=BATCH)


class ResumableLoader:
    """The batches of an epoch, from amid it where Lightning resumes there."""

    def __init__(self):
        self.batches, self.first, self.done = list(make_loader()), 0, 0

    def __len__(self):
        return BATCHES

    def __iter__(self):
        self.done, self.first = self.first, 0
        for batch in self.batches[self.done :]:
            self.done += 1
            yield batch

    def state_dict(self):
        return {"done": self.done}

    def load_state_dict(self, state):
        self.first = state["done"]


class Learner(pl.LightningModule):
    def __init__(self, stop_at=None):
        super().__init__()
        self.net = make_net()
        self.stop_at = stop_at
        self.evaluated = []

    def training_step(self, batch, _index):
        if self.trainer.global_step == self.stop_at:
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, _index):
        if not self.trainer.sanity_checking:
            self.evaluated.append(weights_of(self.net))
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.Adam(self.net.parameters(), lr=1e-2)


class TwoOptimizers(Learner):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, _index):
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.Adam(self.net[0].parameters(), lr=1e-2), torch.optim.SGD(self.net[2].parameters(), lr=0.1)]


def weights_of(module):
    return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()]).clone()


def make_trainer(folder, *callbacks, epochs=EPOCHS, **options):
    defaults = {"logger": False, "enable_checkpointing": any(isinstance(c, Checkpoint) for c in callbacks)}
    return pl.Trainer(
        **{**defaults, **options},
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        default_root_dir=folder,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def every_epoch(folder):
    return ModelCheckpoint(dirpath=folder, filename="{epoch}", save_top_k=-1)


def fit(folder, config=CONFIG, *, learner=None, entropy=None, callbacks=(), ckpt_path=None, validation=None, **options):
    learner = learner or Learner()
    entropy = entropy or EntropyCallback(config, submodule="net")
    trainer = make_trainer(folder, entropy, *callbacks, **options)
    trainer.fit(learner, ResumableLoader(), validation, ckpt_path=ckpt_path)
    return learner, entropy, trainer


def plain_loop(config=CONFIG, *, accumulate=1, clip=None, autocast=False):
    net = make_net()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    regularizer = EntropyRegularizer(net, config, total_steps=STEPS // accumulate).attach(optimizer)
    reports = []
    for _ in range(EPOCHS):
        for index, (inputs, labels) in enumerate(make_loader()):
            with torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext():
                loss = nn.functional.cross_entropy(net(inputs), labels) / accumulate
            loss.backward()
            if (index + 1) % accumulate == 0:
                if clip is not None:
                    nn.utils.clip_grad_norm_(net.parameters(), clip)
                optimizer.step()
                optimizer.zero_grad()
        reports.append(regularizer.report())
    regularizer.finish()
    return net, reports


def test_a_goal_is_reached_as_in_a_plain_loop(tmp_path):
    net = make_net()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    regularizer = EntropyRegularizer(net, total_steps=STEPS, target_bits_per_weight=6.0).attach(optimizer)
    for _ in range(EPOCHS):
        for inputs, labels in make_loader():
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(inputs), labels).backward()
            optimizer.step()
    regularizer.finish()
    learner, entropy, _ = fit(tmp_path, entropy=EntropyCallback(target_bits_per_weight=6.0, submodule="net"))
    assert torch.equal(weights_of(learner.net), weights_of(net))
    report = entropy.save(tmp_path / "model.metaq")
    assert report.file_bytes <= 6.0 / 8 * weights_of(net).numel()
    with pytest.raises(ConfigError, match="no goal; give target_ratio"):
        EntropyCallback()


def test_a_monitored_figure_is_the_goal(tmp_path):
    goal = {"target_value": 1.1, "monitor": "val_loss", "mode": "min"}
    entropy = EntropyCallback(**goal, submodule="net")
    learner, _, trainer = fit(tmp_path, entropy=entropy, validation=make_loader(), epochs=12)
    with torch.no_grad():
        losses = [nn.functional.cross_entropy(learner.net(inputs), labels) for inputs, labels in make_loader()]
    assert float(torch.stack(losses).mean()) <= 1.1
    assert trainer.callback_metrics["val_loss"] > 0
    assert entropy.save(tmp_path / "model.metaq").file_bytes < 4 * weights_of(learner.net).numel()


def test_a_figure_needs_its_metric(tmp_path):
    for options, told in [
        ({"max_drop": 1.0, "mode": "max"}, "monitor: names the metric"),
        ({"max_drop": 1.0, "monitor": "acc"}, "mode: says whether"),
        ({"target_ratio": 20, "mode": "max"}, "mode: says whether"),
        ({"target_ratio": 8.0, "monitor": "acc"}, "give both or neither"),
        ({"max_drop": 1.0, "monitor": "acc", "mode": "max", "evaluate_quantized": False}, "evaluate_quantized"),
        ({"max_drop": 1.0, "monitor": "acc", "mode": "more"}, "neither 'min' nor 'max'"),
    ]:
        with pytest.raises(ConfigError, match=told):
            EntropyCallback(**options)
    entropy = EntropyCallback(max_drop=1.0, monitor="val_los", mode="min", submodule="net")
    with pytest.raises(ConfigError, match=r"'val_los' was not logged; did you mean 'val_loss'"):
        fit(tmp_path, entropy=entropy, validation=make_loader())


def test_without_validation_the_metric_is_that_of_training(tmp_path):
    class Logging(Learner):
        def training_step(self, batch, index):
            loss = super().training_step(batch, index)
            self.log("train_loss", loss, on_epoch=True, on_step=False)
            return loss

    entropy = EntropyCallback(target_value=2.0, monitor="train_loss", mode="min", submodule="net")
    fit(tmp_path, learner=Logging(), entropy=entropy, epochs=12)
    assert entropy.regularizer.finished
    assert entropy.save(tmp_path / "model.metaq").file_bytes < 4 * weights_of(make_net()).numel()


def test_a_trainer_that_does_not_know_its_length_still_reaches_the_goal(tmp_path):
    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer, _module):
            trainer.should_stop = trainer.current_epoch == 10

    entropy = EntropyCallback(target_bits_per_weight=6.0, submodule="net")
    learner, _, _ = fit(tmp_path, entropy=entropy, callbacks=[Stop()], epochs=-1)
    assert entropy.regularizer.total_steps is None
    assert entropy.save(tmp_path / "model.metaq").file_bytes <= 6.0 / 8 * weights_of(learner.net).numel()


@pytest.mark.parametrize(
    ("options", "as_plain"),
    [
        ({}, {}),
        ({"accumulate_grad_batches": 2, "gradient_clip_val": 0.1}, {"accumulate": 2, "clip": 0.1}),
        ({"precision": "bf16-mixed"}, {"autocast": True}),
    ],
)
def test_the_result_is_that_of_a_plain_loop(tmp_path, options, as_plain):
    net, reports = plain_loop(**as_plain)
    learner, entropy, _ = fit(tmp_path, **options)
    assert torch.equal(weights_of(learner.net), weights_of(net))
    assert entropy.regularizer.steps == STEPS // as_plain.get("accumulate", 1)
    assert reports[-1].bits < 0.9 * reports[0].bits
    entropy.save(tmp_path / "model.metaq")
    restored = load(tmp_path / "model.metaq")
    assert all(torch.equal(restored[name], tensor) for name, tensor in net.state_dict().items())
    assert set(entropy.grids()) == set(restored)


@pytest.mark.parametrize("forward", ["quantized", "float"])
def test_a_resumed_fit_ends_as_one_that_went_through(tmp_path, forward):
    config = RegularizerConfig(strength=1e-2, refresh_every=4, forward=forward)
    whole, entropy, _ = fit(tmp_path, config, callbacks=[every_epoch(tmp_path)])
    for epoch in (0, 2):
        resumed, again, trainer = fit(tmp_path, config, ckpt_path=tmp_path / f"epoch={epoch}.ckpt")
        assert trainer.global_step == STEPS
        assert torch.equal(weights_of(resumed), weights_of(whole))
        assert again.regularizer.report() == entropy.regularizer.report()


def test_a_fit_resumed_amid_an_epoch_ends_as_one_that_went_through(tmp_path):
    checkpoints = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=5, save_top_k=-1)
    whole, _, _ = fit(tmp_path, callbacks=[checkpoints], accumulate_grad_batches=2)
    resumed, _, _ = fit(tmp_path, ckpt_path=tmp_path / "step=5.ckpt", accumulate_grad_batches=2)
    assert torch.equal(weights_of(resumed), weights_of(whole))


@pytest.mark.parametrize("forward", ["quantized", "float"])
def test_validation_sees_the_weights_of_the_file_and_changes_nothing(tmp_path, forward):
    config = RegularizerConfig(strength=1e-2, refresh_every=4, forward=forward)
    unseen, _, _ = fit(tmp_path, config)
    learner, entropy, trainer = fit(tmp_path, config, validation=make_loader())
    assert torch.equal(weights_of(learner), weights_of(unseen))
    assert torch.equal(learner.evaluated[-1], weights_of(learner))
    assert all(len(weights[:48].unique()) < 30 for weights in learner.evaluated)
    trainer.test(learner, make_loader(), verbose=False)
    assert torch.equal(learner.evaluated[-1], weights_of(learner))
    assert entropy.regularizer.report().distance < 1e-6


def test_the_weights_of_the_training_can_be_validated_instead(tmp_path):
    learner = Learner()
    entropy = EntropyCallback(
        RegularizerConfig(strength=1e-5, forward="float"), submodule="net", evaluate_quantized=False
    )
    make_trainer(tmp_path, entropy, epochs=1).fit(learner, make_loader(), make_loader())
    assert all(len(weights[:48].unique()) == 48 for weights in learner.evaluated)


def test_metrics_are_logged_and_can_be_monitored(tmp_path):
    best = ModelCheckpoint(dirpath=tmp_path, monitor="bits_per_weight", filename="best")
    entropy = EntropyCallback(CONFIG, submodule="net", log_every_n_steps=4)
    logger = CSVLogger(tmp_path, name="log", version=0)
    trainer = make_trainer(tmp_path, entropy, best, logger=logger, log_every_n_steps=1000)
    trainer.fit(Learner(), make_loader())
    _, reports = plain_loop()
    with (tmp_path / "log" / "version_0" / "metrics.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["bits_per_weight"]]
    ends = [float(row["bits_per_weight"]) for row in rows if row["epoch"]]
    assert ends == pytest.approx([report.bits_per_weight for report in reports], rel=1e-6)
    assert [int(row["step"]) for row in rows if not row["epoch"]] == list(range(4, STEPS + 1, 4))
    for name in ("bits", "phi_bits", "distance", "frozen", "strength"):
        assert all(row[name] for row in rows)
    assert float(best.best_model_score) == pytest.approx(min(ends))


def test_the_model_of_a_checkpoint_is_tested_and_saved_as_it_was_then(tmp_path):
    fit(tmp_path, callbacks=[every_epoch(tmp_path)])
    learner, entropy, trainer = fit(tmp_path)
    last = weights_of(learner)
    trainer.test(learner, make_loader(), ckpt_path=tmp_path / "epoch=1.ckpt", verbose=False)
    entropy.save(tmp_path / "then.metaq")
    assert not torch.equal(learner.evaluated[-1], last)
    learner.net.load_state_dict(load(tmp_path / "then.metaq"))
    assert torch.equal(weights_of(learner.net), learner.evaluated[-1])

    apart = EntropyCallback(CONFIG, submodule="net")
    make_trainer(tmp_path, apart).validate(Learner(), make_loader(), ckpt_path=tmp_path / "epoch=1.ckpt", verbose=False)
    apart.save(tmp_path / "apart.metaq")
    assert (tmp_path / "apart.metaq").read_bytes() == (tmp_path / "then.metaq").read_bytes()


@pytest.fixture
def interruptible():
    """Lightning ignores further interrupts from the first one on."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.filterwarnings("ignore:.*was called without a model. The last model of:UserWarning")
@pytest.mark.filterwarnings("ignore:.*is set, but there is no last checkpoint available:UserWarning")
@pytest.mark.usefixtures("interruptible")
def test_an_interruption_leaves_weights_that_can_be_saved_and_resumed(tmp_path):
    learner = Learner(stop_at=15)
    entropy = EntropyCallback(CONFIG, submodule="net")
    trainer = make_trainer(tmp_path, entropy, OnExceptionCheckpoint(tmp_path))
    with pytest.raises(SystemExit):
        trainer.fit(learner, ResumableLoader())
    assert entropy.regularizer.steps == 15
    assert len(weights_of(learner)[:48].unique()) < 30
    entropy.save(tmp_path / "model.metaq")
    assert load(tmp_path / "model.metaq")
    trainer.optimizers[0].step()
    assert entropy.regularizer.steps == 15
    _, resumed, _ = fit(tmp_path, ckpt_path=tmp_path / "on_exception.ckpt")
    assert resumed.regularizer.steps > 20
    assert resumed.regularizer.report().distance < 1e-6


def test_a_callback_can_be_used_again(tmp_path):
    first, entropy, _ = fit(tmp_path)
    second = Learner()
    make_trainer(tmp_path, entropy).fit(second, make_loader())
    assert torch.equal(weights_of(first), weights_of(second))
    trainer = make_trainer(tmp_path, entropy, epochs=2)
    trainer.fit(second, make_loader())
    trainer.fit_loop.max_epochs = 5
    trainer.fit(second, make_loader())
    assert entropy.regularizer.total_steps == entropy.regularizer.steps == 3 * BATCHES
    assert trainer.global_step == 5 * BATCHES


def test_a_training_that_had_ended_can_be_opened_again(tmp_path):
    learner, entropy, trainer = fit(tmp_path)
    entropy.save(tmp_path / "model.metaq")
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    again, opened, _ = fit(tmp_path, ckpt_path=tmp_path / "end.ckpt")
    assert torch.equal(weights_of(again), weights_of(learner))
    opened.save(tmp_path / "again.metaq")
    assert (tmp_path / "again.metaq").read_bytes() == (tmp_path / "model.metaq").read_bytes()
    anew, _, _ = fit(tmp_path, learner=Learner(), entropy=opened)
    assert torch.equal(weights_of(anew), weights_of(learner))


def test_checkpoints_that_cannot_be_resumed_from_are_refused(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.fit(Learner(), make_loader())
    trainer.save_checkpoint(tmp_path / "without.ckpt")
    with pytest.raises(ConfigError, match=r"without\.ckpt: holds no state of EntropyCallback"):
        fit(tmp_path, ckpt_path=tmp_path / "without.ckpt", epochs=8)
    entropy = EntropyCallback(CONFIG, submodule="net", total_steps=2 * STEPS)
    trainer = make_trainer(tmp_path, entropy)
    trainer.fit(Learner(), make_loader())
    trainer.save_checkpoint(tmp_path / "finished.ckpt")
    with pytest.raises(ConfigError, match=r"finished\.ckpt: was written after its training had ended"):
        fit(tmp_path, ckpt_path=tmp_path / "finished.ckpt", epochs=2 * EPOCHS)
    fit(tmp_path, callbacks=[every_epoch(tmp_path)])
    with pytest.raises(ConfigError, match="a training of 24 steps and this one has 30"):
        fit(tmp_path, ckpt_path=tmp_path / "epoch=1.ckpt", epochs=5)


def test_what_cannot_be_trained_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="total_steps: strength changes over it"):
        fit(tmp_path, epochs=-1)
    with pytest.raises(ConfigError, match="no part 'nets'; did you mean 'net'"):
        make_trainer(tmp_path, EntropyCallback(CONFIG, submodule="nets")).fit(Learner(), make_loader())
    with pytest.raises(ConfigError, match="nothing was trained or loaded yet"):
        EntropyCallback(CONFIG).save(tmp_path / "model.metaq")
    with pytest.raises(ConfigError, match="log_every_n_steps"):
        EntropyCallback(log_every_n_steps=0)
    with pytest.raises(ConfigError, match="total_steps"):
        EntropyCallback(total_steps=0)


def test_a_module_without_an_optimizer_is_refused(tmp_path):
    learner = TwoOptimizers()
    learner.configure_optimizers = lambda: []
    with pytest.raises(ConfigError, match="configure_optimizers: gives no optimizer"):
        fit(tmp_path, learner=learner)


def test_several_optimizers_are_taken_in_manual_optimization(tmp_path):
    net = make_net()
    optimizers = [torch.optim.Adam(net[0].parameters(), lr=1e-2), torch.optim.SGD(net[2].parameters(), lr=0.1)]
    regularizer = EntropyRegularizer(net, CONFIG, total_steps=STEPS).attach(*optimizers)
    for _ in range(EPOCHS):
        for inputs, labels in make_loader():
            for optimizer in optimizers:
                optimizer.zero_grad()
            nn.functional.cross_entropy(net(inputs), labels).backward()
            for optimizer in optimizers:
                optimizer.step()
    regularizer.finish()
    learner, entropy, _ = fit(tmp_path, learner=TwoOptimizers(), callbacks=[every_epoch(tmp_path)])
    assert torch.equal(weights_of(learner), weights_of(net))
    assert entropy.regularizer.steps == STEPS
    resumed, _, _ = fit(tmp_path, learner=TwoOptimizers(), ckpt_path=tmp_path / "epoch=1.ckpt")
    assert torch.equal(weights_of(resumed), weights_of(net))


def test_the_program_of_its_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"```python\n(import lightning.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "program.py").write_text(program)
    learner = Learner()
    learner.net = make_net(width=256)
    runpy.run_path("program.py", init_globals={"module": learner, "loader": make_loader(), "epochs": 2})
    restored = load(tmp_path / "model.metaq")
    assert all(torch.equal(restored[name], tensor) for name, tensor in learner.state_dict().items())


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[lightning\]'"):
        runpy.run_path(metaq.lightning.__file__)


class WithBackbone(Learner):
    def __init__(self):
        super().__init__()
        self.net = nn.ModuleDict({"backbone": make_net(), "head": nn.Linear(3, 3)})
        self.backbone = self.net["backbone"]

    def training_step(self, batch, _index):
        return nn.functional.cross_entropy(self.net["head"](self.backbone(batch[0])), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=1e-2)


@pytest.mark.parametrize("unfreezing", [{}, {"submodule": "net"}])
@pytest.mark.parametrize("goal", [{"config": CONFIG}, {"target_bits_per_weight": 9.0}])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_backbone_that_is_unfrozen_later_takes_part(tmp_path, unfreezing, goal, is_first):
    learner = WithBackbone()
    entropy = EntropyCallback(**goal, **unfreezing)
    finetuning = BackboneFinetuning(unfreeze_backbone_at_epoch=2, verbose=False)
    callbacks = (entropy, finetuning) if is_first else (finetuning, entropy)
    trainer = make_trainer(tmp_path, *callbacks)
    before = learner.backbone[0].weight.detach().clone()
    trainer.fit(learner, make_loader())
    assert learner.backbone[0].weight.requires_grad
    report = entropy.save(tmp_path / "model.metaq")
    assert report.coverage.share == 1.0
    assert float((learner.backbone[0].weight.detach() - before).abs().mean()) > 5e-3


def test_a_backbone_that_waits_stays_frozen(tmp_path):
    learner, entropy = WithBackbone(), EntropyCallback(CONFIG)
    finetuning = BackboneFinetuning(unfreeze_backbone_at_epoch=EPOCHS, verbose=False)
    make_trainer(tmp_path, entropy, finetuning).fit(learner, make_loader())
    assert not any(parameter.requires_grad for parameter in learner.backbone.parameters())
    assert entropy.save(tmp_path / "model.metaq").coverage.share == 1.0


def test_a_search_for_a_learning_rate_leaves_nothing_behind(tmp_path):
    learner, entropy = Learner(), EntropyCallback(CONFIG, submodule="net")
    learner.lr = 1e-2
    trainer = make_trainer(tmp_path, entropy)
    Tuner(trainer).lr_find(learner, make_loader(), num_training=20, update_attr=False)
    trainer.fit(learner, make_loader())
    assert entropy.regularizer.steps == STEPS
    assert torch.equal(weights_of(learner.net), weights_of(plain_loop()[0]))


class Wide(Learner):
    def __init__(self):
        super().__init__()
        self.net = make_net(64)


class Normalised(Learner):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 3))


def averaging(kind):
    if kind == "swa":
        return StochasticWeightAveraging(1e-2, swa_epoch_start=1)
    return EMAWeightAveraging(decay=0.9)


@pytest.mark.filterwarnings("ignore:Swapping scheduler:UserWarning")
@pytest.mark.parametrize("kind", ["ema", "swa"])
@pytest.mark.parametrize(
    ("make_learner", "goal"),
    [
        (Learner, {"config": CONFIG}),
        (Normalised, {"config": CONFIG}),
        (Wide, {"target_bits_per_weight": 6.0}),
        (Normalised, {"target_bits_per_weight": 6.0}),
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_averages_are_packed_in_whatever_order_callbacks_stand(tmp_path, kind, make_learner, goal, is_first):
    learner, entropy, average = make_learner(), EntropyCallback(**goal, submodule="net"), averaging(kind)
    callbacks = (entropy, average) if is_first else (average, entropy)
    trainer = make_trainer(tmp_path, *callbacks)
    trainer.fit(learner, make_loader(), make_loader())
    held = weights_of(learner.net)
    inside = average._average_model.net if kind == "swa" else average._average_model.module.net
    wanted = weights_of(inside)
    grids = entropy.regularizer.grids()
    steps = torch.cat([torch.full((p.numel(),), grids[name].step_size) for name, p in learner.net.named_parameters()])
    # The last choice for a goal moves some weights to cheaper buckets.
    assert float(((held - wanted) / steps).square().mean().sqrt()) < (0.5 if "config" in goal else 0.6)
    assert entropy.regularizer.total_steps == STEPS
    report = entropy.save(tmp_path / "model.metaq")
    restored = make_learner().net
    restored.load_state_dict(load(tmp_path / "model.metaq"))
    inputs = torch.randn(20, 6)
    torch.testing.assert_close(restored.eval()(inputs), learner.net.eval()(inputs), atol=2e-2, rtol=2e-2)
    if "config" not in goal:
        weights = sum(tensor.numel() for tensor in restored.state_dict().values())
        assert 8 * report.file_bytes <= goal["target_bits_per_weight"] * weights


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("evaluate_quantized", [True, False])
def test_averages_are_validated_as_the_file_would_hold_them(tmp_path, is_first, evaluate_quantized):
    class Looking(EMAWeightAveraging):
        seen = ()

        def on_validation_epoch_end(self, trainer, pl_module):
            if not trainer.sanity_checking:
                self.seen = (*self.seen, weights_of(pl_module.net))
            super().on_validation_epoch_end(trainer, pl_module)

    config = RegularizerConfig(strength=1e-4, refresh_every=4)
    entropy = EntropyCallback(config, submodule="net", evaluate_quantized=evaluate_quantized)
    learner, average = Learner(), Looking(decay=0.9)
    callbacks = (entropy, average) if is_first else (average, entropy)
    trainer = make_trainer(tmp_path, *callbacks)
    for _ in range(2):
        average.seen, learner.evaluated = (), []
        trainer.fit_loop.max_epochs = trainer.current_epoch + EPOCHS
        trainer.fit(learner, make_loader(), make_loader())
        assert len(average.seen) == EPOCHS
        # Averages are given back as they were, and lie between the steps of a grid.
        shown = learner.evaluated[BATCHES - 1 :: BATCHES]
        for held, inside in zip(shown, average.seen, strict=True):
            assert torch.equal(held, inside) != evaluate_quantized
        assert torch.equal(shown[-1], weights_of(learner.net)) == evaluate_quantized


@pytest.mark.filterwarnings("ignore:.*WeightAveraging callback, but loading:UserWarning")
def test_averages_of_a_checkpoint_are_tested_and_packed_and_training_goes_on(tmp_path):
    config = RegularizerConfig(strength=1e-4, refresh_every=4)
    straight, _, _ = fit(tmp_path, config, callbacks=(averaging("ema"), every_epoch(tmp_path)))
    path = tmp_path / "epoch=2.ckpt"
    resumed, _, _ = fit(tmp_path, config, callbacks=(averaging("ema"),), ckpt_path=path)
    assert torch.equal(weights_of(resumed.net), weights_of(straight.net))

    state = torch.load(path, weights_only=False)["state_dict"]
    learner, entropy = Learner(), EntropyCallback(config, submodule="net")
    make_trainer(tmp_path, entropy).test(learner, make_loader(), ckpt_path=path, verbose=False)
    grids = entropy.grids()
    for name, weight in learner.net.named_parameters():
        places = (weight.detach() - state[f"net.{name}"]) / grids[name].step_size
        assert float(places.abs().max()) < 0.51
    assert torch.equal(learner.evaluated[-1], weights_of(learner.net))
    entropy.save(tmp_path / "model.metaq")
    restored = load(tmp_path / "model.metaq")
    assert all(torch.equal(restored[name], weight) for name, weight in learner.net.state_dict().items())
