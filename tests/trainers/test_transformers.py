from __future__ import annotations

import logging
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import Dataset, SequentialSampler
from transformers import GPT2Config, GPT2LMHeadModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

import metaq.transformers
from metaq import ConfigError, EntropyRegularizer, FormatError, RegularizerConfig, load
from metaq.transformers import FILE_NAME, EntropyTrainerCallback

PAGE = Path(__file__).parents[2] / "docs/how-to/transformers.md"

EPOCHS, ROWS, BATCH = 4, 96, 16
STEPS = EPOCHS * ROWS // BATCH
CONFIG = RegularizerConfig(strength=1e-2, refresh_every=4)


class Net(nn.Module):
    def __init__(self, dtype, width=8):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, width, dtype=dtype), nn.GELU(), nn.Linear(width, 3, dtype=dtype))
        self.evaluated = []

    def forward(self, inputs, labels):
        if not self.training:
            self.evaluated.append(weights_of(self))
        logits = self.layers(inputs)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Rows(Dataset):
    def __init__(self, dtype, seed=1):
        generator = torch.Generator().manual_seed(seed)
        self.inputs = torch.randn(ROWS, 6, generator=generator).to(dtype)
        self.labels = torch.randint(0, 3, (ROWS,), generator=generator)

    def __len__(self):
        return ROWS

    def __getitem__(self, index):
        return {"inputs": self.inputs[index], "labels": self.labels[index]}


class InOrder(Trainer):
    def _get_train_sampler(self, *_):
        return SequentialSampler(self.train_dataset)


def weights_of(module):
    return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()]).clone()


def make_net(dtype=torch.float32):
    torch.manual_seed(0)
    return Net(dtype)


def make_trainer(folder, net=None, *, dtype=torch.float32, callbacks=(), evaluation=None, train=None, **options):
    defaults = {
        "num_train_epochs": EPOCHS,
        "per_device_train_batch_size": BATCH,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "logging_strategy": "epoch",
        "save_strategy": "no",
        "optim": "adamw_torch",
        "report_to": "none",
    }
    arguments = TrainingArguments(str(folder), **{**defaults, **options}, use_cpu=True, disable_tqdm=True)
    trainer = InOrder(
        net or make_net(dtype),
        arguments,
        train_dataset=train or Rows(dtype),
        eval_dataset=evaluation,
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def run(folder, config=CONFIG, *, resume=None, **options):
    trainer = make_trainer(folder, **options)
    entropy = EntropyTrainerCallback(config).attach(trainer)
    trainer.train(resume_from_checkpoint=resume)
    return trainer, entropy


def plain_loop(dtype, *, accumulate, clip):
    net = make_net(dtype)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.0)
    regularizer = EntropyRegularizer(net, CONFIG, total_steps=STEPS // accumulate).attach(optimizer)
    rows, reports = Rows(dtype), []
    for _ in range(EPOCHS):
        for start in range(0, ROWS, accumulate * BATCH):
            optimizer.zero_grad()
            for first in range(start, start + accumulate * BATCH, BATCH):
                part = slice(first, first + BATCH)
                (net(rows.inputs[part], rows.labels[part])["loss"] / accumulate).backward()
            nn.utils.clip_grad_norm_(net.parameters(), clip)
            optimizer.step()
        reports.append(regularizer.report())
    regularizer.finish()
    return net, reports


def test_a_goal_is_reached_and_resumed(tmp_path):
    def trained(folder, resume=None, **options):
        trainer = make_trainer(folder, **options)
        entropy = EntropyTrainerCallback(target_bits_per_weight=6.0).attach(trainer)
        trainer.train(resume_from_checkpoint=resume)
        return trainer, entropy

    straight, entropy = trained(tmp_path / "straight", save_strategy="epoch")
    report = entropy.save(tmp_path / "model.metaq")
    assert report.file_bytes <= 6.0 / 8 * weights_of(straight.model).numel()
    first = sorted((tmp_path / "straight").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))[0]
    resumed, _ = trained(tmp_path / "straight", resume=str(first))
    assert torch.equal(weights_of(resumed.model), weights_of(straight.model))
    with pytest.raises(ConfigError, match="no goal; give target_ratio"):
        EntropyTrainerCallback()


@pytest.mark.parametrize("target", [1.0, 1.1])
@pytest.mark.parametrize("named_by", ["callback", "arguments"])
def test_a_metric_is_the_goal(tmp_path, named_by, target):
    options = {"num_train_epochs": 12, "eval_strategy": "epoch", "evaluation": Rows(torch.float32)}
    named = {"metric_for_best_model": "loss", "greater_is_better": False}
    if named_by == "arguments":
        options |= {**named, "save_strategy": "epoch", "load_best_model_at_end": True}
    trainer = make_trainer(tmp_path, **options)
    entropy = EntropyTrainerCallback(target_value=target, **(named if named_by == "callback" else {})).attach(trainer)
    trainer.train()
    assert entropy.regularizer.finished
    assert trainer.evaluate()["eval_loss"] <= target
    assert entropy.save(tmp_path / "model.metaq").file_bytes < 4 * weights_of(trainer.model).numel()


def test_a_figure_needs_its_metric(tmp_path):
    trainer = make_trainer(tmp_path)
    EntropyTrainerCallback(max_drop=1.0).attach(trainer)
    with pytest.raises(ConfigError, match="say which metric max_drop or target_value are about"):
        trainer.train()
    trainer = make_trainer(tmp_path, eval_strategy="epoch", evaluation=Rows(torch.float32))
    named = {"metric_for_best_model": "los", "greater_is_better": False}
    EntropyTrainerCallback(max_drop=1.0, **named).attach(trainer)
    with pytest.raises(ConfigError, match=r"'eval_los' was not evaluated; did you mean 'eval_loss'"):
        trainer.train()


def test_a_goal_of_quality_without_evaluations_is_refused(tmp_path):
    callback = EntropyTrainerCallback(max_drop=0.1, metric_for_best_model="loss", greater_is_better=False)
    trainer = make_trainer(tmp_path, callbacks=[callback])
    with pytest.raises(ConfigError, match=r'eval_strategy: .* give "epoch" or "steps"'):
        trainer.train()


@pytest.mark.parametrize("goal", [{"target_ratio": 8.0}, {"config": CONFIG}])
@pytest.mark.parametrize("named", [{"metric_for_best_model": "loss"}, {"greater_is_better": False}])
def test_a_metric_without_a_goal_of_a_figure_is_refused(goal, named):
    with pytest.raises(ConfigError, match="greater_is_better: are about max_drop or target_value"):
        EntropyTrainerCallback(**goal, **named)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_result_is_that_of_a_plain_loop(tmp_path, dtype, accumulate):
    net, reports = plain_loop(dtype, accumulate=accumulate, clip=0.1)
    trainer, entropy = run(tmp_path, dtype=dtype, gradient_accumulation_steps=accumulate, max_grad_norm=0.1)
    assert torch.equal(weights_of(trainer.model), weights_of(net))
    logged = [entry for entry in trainer.state.log_history if "bits_per_weight" in entry]
    assert [entry["bits_per_weight"] for entry in logged] == [report.bits_per_weight for report in reports]
    assert [entry["distance"] for entry in logged] == [report.distance for report in reports]
    assert {"bits", "phi_bits", "frozen", "strength", "loss", "epoch"} <= set(logged[0])
    assert reports[-1].bits < 0.9 * reports[0].bits
    entropy.save(tmp_path / "model.metaq")
    restored = load(tmp_path / "model.metaq")
    assert all(torch.equal(restored[name], tensor) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("forward", ["quantized", "float"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_training_ends_as_one_that_went_through(tmp_path, forward, accumulate):
    config = RegularizerConfig(strength=1e-2, refresh_every=4, forward=forward)
    options = {"gradient_accumulation_steps": accumulate, "save_strategy": "steps", "save_steps": 5}
    whole, entropy = run(tmp_path, config, **options)
    for step in (5, 10):
        resumed, again = run(tmp_path, config, resume=str(tmp_path / f"checkpoint-{step}"), **options)
        assert resumed.state.global_step == STEPS // accumulate
        assert torch.equal(weights_of(resumed.model), weights_of(whole.model))
        assert again.regularizer.report() == entropy.regularizer.report()


def test_a_callback_among_others_gives_the_same(tmp_path, caplog):
    whole, _ = run(tmp_path / "attached")
    entropy = EntropyTrainerCallback(CONFIG)
    trainer = make_trainer(tmp_path / "given", callbacks=[entropy])
    trainer.train()
    assert torch.equal(weights_of(trainer.model), weights_of(whole.model))
    numbers = [[entry["bits_per_weight"] for entry in t.state.log_history if "loss" in entry] for t in (whole, trainer)]
    assert numbers[0] == numbers[1]
    assert not caplog.records


def test_loggers_get_the_metrics(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="metaq"):
        trainer, entropy = run(tmp_path / "attached", report_to="tensorboard")
        assert not caplog.records
        make_trainer(tmp_path / "given", callbacks=[EntropyTrainerCallback(CONFIG)], report_to="tensorboard").train()
    assert "will not reach tensorboard; use EntropyTrainerCallback(…).attach(trainer)" in caplog.text
    (events,) = (tmp_path / "attached" / "runs").glob("*/events*")
    written = EventAccumulator(str(events)).Reload().Scalars("train/bits_per_weight")
    logged = [entry["bits_per_weight"] for entry in trainer.state.log_history if "loss" in entry]
    assert [scalar.value for scalar in written] == pytest.approx(logged, rel=1e-6)
    assert entropy.attach(trainer) is entropy
    assert sum(callback is entropy for callback in trainer.callback_handler.callbacks) == 1


@pytest.mark.parametrize("forward", ["quantized", "float"])
@pytest.mark.parametrize("sets", [1, 2])
def test_evaluation_sees_the_weights_of_the_file_and_changes_nothing(tmp_path, forward, sets):
    config = RegularizerConfig(strength=1e-2, refresh_every=4, forward=forward)
    options = {"save_strategy": "epoch", "logging_strategy": "steps", "logging_steps": 3}
    unseen, _ = run(tmp_path / "unseen", config, **options)
    evaluation = Rows(torch.float32) if sets == 1 else {"a": Rows(torch.float32), "b": Rows(torch.float32, 2)}
    seen, _ = run(
        tmp_path / "seen", config, evaluation=evaluation, eval_strategy="epoch", eval_on_start=True, **options
    )
    assert torch.equal(weights_of(seen.model), weights_of(unseen.model))
    for step in range(6, STEPS + 1, 6):
        paths = [tmp_path / name / f"checkpoint-{step}" / "model.safetensors" for name in ("seen", "unseen")]
        assert paths[0].read_bytes() == paths[1].read_bytes()
    assert all(len(weights[:48].unique()) < 30 for weights in seen.model.evaluated)
    assert torch.equal(seen.model.evaluated[-1], weights_of(seen.model))
    metrics = [[entry.get("distance") for entry in t.state.log_history if "loss" in entry] for t in (seen, unseen)]
    assert metrics[0] == metrics[1]


def with_best(folder, **options):
    config = RegularizerConfig(strength=3e-2, refresh_every=4)
    return run(
        folder,
        config,
        evaluation=Rows(torch.float32),
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=True,
        **options,
    )


@pytest.mark.parametrize("only_model", [False, True])
def test_the_best_model_is_saved_as_it_was_evaluated(tmp_path, only_model):
    trainer, entropy = with_best(tmp_path, save_only_model=only_model)
    best = trainer.state.best_global_step
    assert best < STEPS
    evaluated = trainer.model.evaluated[(best // 6 - 1) * len(trainer.model.evaluated) // EPOCHS]
    assert torch.equal(weights_of(trainer.model), evaluated)
    entropy.save(tmp_path / "model.metaq")
    restored = load(tmp_path / "model.metaq")
    assert all(torch.equal(restored[name], tensor) for name, tensor in trainer.model.state_dict().items())
    assert set(entropy.grids()) == set(restored)


def test_checkpoints_that_cannot_be_resumed_from_are_refused(tmp_path):
    make_trainer(tmp_path / "without", save_strategy="epoch").train()
    with pytest.raises(FormatError, match="written without EntropyTrainerCallback"):
        run(tmp_path / "without", resume=True, num_train_epochs=EPOCHS + 1)
    run(tmp_path / "model", save_strategy="epoch", save_only_model=True)
    with pytest.raises(ConfigError, match="save_only_model"):
        run(tmp_path / "model", resume=str(tmp_path / "model" / "checkpoint-12"))
    run(tmp_path / "whole", save_strategy="epoch")
    with pytest.raises(ConfigError, match="a training of 24 steps and this one has 30"):
        run(tmp_path / "whole", resume=str(tmp_path / "whole" / "checkpoint-12"), num_train_epochs=EPOCHS + 1)
    path = tmp_path / "whole" / "checkpoint-12" / FILE_NAME
    data = path.read_bytes()
    for damaged in (b"", data[: len(data) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(FormatError, match=f"{FILE_NAME}: is damaged"):
            run(tmp_path / "whole", resume=str(path.parent))
    torch.save({"weights": 0}, path)
    with pytest.raises(FormatError, match="of another version of metaq"):
        run(tmp_path / "whole", resume=str(path.parent))


def test_a_checkpoint_of_another_folder_is_named_to_both(tmp_path):
    whole, _ = run(tmp_path / "one", save_strategy="epoch")
    run(tmp_path / "two", RegularizerConfig(strength=1e-3), save_strategy="epoch")
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "one" / "checkpoint-12", elsewhere)
    with pytest.raises(ConfigError, match="belongs to other weights"):
        run(tmp_path / "two", resume=str(elsewhere))
    with pytest.raises(FormatError, match="no such file"):
        run(tmp_path / "three", resume=str(elsewhere))
    trainer = make_trainer(tmp_path / "two")
    EntropyTrainerCallback(CONFIG, resume_from_checkpoint=elsewhere).attach(trainer)
    trainer.train(resume_from_checkpoint=str(elsewhere))
    assert torch.equal(weights_of(trainer.model), weights_of(whole.model))
    trainer = make_trainer(tmp_path / "two")
    EntropyTrainerCallback(CONFIG, resume_from_checkpoint=elsewhere).attach(trainer)
    with pytest.raises(ConfigError, match="but the trainer starts anew"):
        trainer.train()


class Interrupt(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        del args, control, kwargs
        if state.global_step == 15:
            raise KeyboardInterrupt


def test_after_an_interruption_training_can_be_finished_or_begun_anew(tmp_path):
    trainer = make_trainer(tmp_path, callbacks=[Interrupt()])
    entropy = EntropyTrainerCallback(CONFIG).attach(trainer)
    with pytest.raises(ConfigError, match="nothing was trained or loaded yet"):
        entropy.save(tmp_path / "model.metaq")
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert entropy.regularizer.steps == 15
    entropy.finish()
    assert entropy.regularizer.report().distance < 1e-6
    entropy.save(tmp_path / "model.metaq")
    assert load(tmp_path / "model.metaq")
    trainer.remove_callback(Interrupt)
    trainer.train()
    assert entropy.regularizer.steps == STEPS


class Tokens(Dataset):
    def __len__(self):
        return 32

    def __getitem__(self, index):
        tokens = (torch.arange(8) * (index % 4 + 1)) % 20
        return {"input_ids": tokens, "labels": tokens}


def test_a_language_model_with_tied_weights_is_restored_from_its_file(tmp_path):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=8, n_embd=16, n_layer=1, n_head=2))
    options = {"train": Tokens(), "num_train_epochs": 8, "save_strategy": "epoch"}
    _, entropy = run(tmp_path, RegularizerConfig(strength=1e-3), net=model, **options)
    entropy.save(tmp_path / "model.metaq")
    restored = load(tmp_path / "model.metaq")
    assert all(torch.equal(restored[name], tensor) for name, tensor in model.state_dict().items())
    whole = weights_of(model)
    resumed, _ = run(
        tmp_path, RegularizerConfig(strength=1e-3), resume=str(tmp_path / "checkpoint-8"), net=model, **options
    )
    assert torch.equal(weights_of(resumed.model), whole)


def test_the_program_of_its_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"```python\n(from transformers.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "program.py").write_text(program)
    names = {"model": Net(torch.float32, width=256), "dataset": Rows(torch.float32)}
    names["arguments"] = TrainingArguments("out", num_train_epochs=2, use_cpu=True, report_to="none")
    runpy.run_path("program.py", init_globals=names)
    restored = load(tmp_path / "model.metaq")
    assert all(torch.equal(restored[name], tensor) for name, tensor in names["model"].state_dict().items())


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[transformers\]'"):
        runpy.run_path(metaq.transformers.__file__)
