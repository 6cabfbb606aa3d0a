"""What the tests run in two processes by torchrun: every check is a function; its outcome goes to a file as JSON.

torchrun --nproc-per-node 2 worker.py FOLDER
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from metaq import BucketConfig, EntropyRegularizer, FreezeConfig, MetaqError, RegularizerConfig
from metaq.lab.proximal import ProximalRegularizer
from metaq.model.sharding import local_part, whole

STEPS = 50
CONFIG = RegularizerConfig(
    strength=2e-3, refresh_every=3, warmup=0.1, freeze=FreezeConfig(start=0.4, first_threshold=0.02)
)
SPREAD = RegularizerConfig(
    objective="spread",
    strength=1e-4,
    refresh_every=2,
    grouping="global",
    buckets=BucketConfig(rule="fixed", count=9, radius=0.8),
)


def make_model() -> nn.Module:
    """Sizes that two processes cannot halve evenly, and a tensor of one row."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 9), nn.GELU(), nn.Linear(9, 5), nn.GELU(), nn.Linear(5, 1)).double()


def sharded(mesh=None) -> nn.Module:
    model = make_model()
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


class Run:
    """A model with its optimiser and regulariser, trained on its share of every batch."""

    def __init__(self, model, config=CONFIG, *, total_steps=STEPS, share=None, **goal):
        self.model = model
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        self.regularizer = EntropyRegularizer(model, config, total_steps=total_steps, **goal)
        self.regularizer.attach(self.optimizer)
        self.share = slice(None) if share is None else slice(share, None, dist.get_world_size())

    def train(self, first, last):
        for step in range(first, last):
            generator = torch.Generator().manual_seed(step)
            inputs = torch.randn(16, 7, dtype=torch.float64, generator=generator)[self.share]
            self.optimizer.zero_grad()
            (self.model(inputs) - inputs.sum(dim=1, keepdim=True).sin()).square().mean().backward()
            self.optimizer.step()
        return self

    def weights(self):
        return {name: whole(p.detach()).clone() for name, p in self.model.named_parameters()}


def alone(config=CONFIG):
    """The run of a single process."""
    return Run(make_model(), config).train(0, STEPS)


def outcome(run, expected):
    """How far a run is from the one of a single process."""
    mine = {name.removeprefix("module."): tensor for name, tensor in run.weights().items()}
    report, other = run.regularizer.report(), expected.regularizer.report()
    with run.regularizer.latent_weights(), expected.regularizer.latent_weights():
        latent, other_latent = run.weights().values(), expected.weights().values()
    return {
        "difference": max(float((mine[name] - weights).abs().max()) for name, weights in expected.weights().items()),
        "latent": max(float((a - b).abs().max()) for a, b in zip(latent, other_latent, strict=True)),
        "bits": [report.bits, other.bits],
        "phi_bits": [report.phi_bits, other.phi_bits],
        "distance": [report.distance, other.distance],
        "frozen": [report.frozen, other.frozen],
        "weights": [report.weights, other.weights],
        "grids": run.regularizer.grids() == expected.regularizer.grids(),
    }


def check_fully_shard(_folder):
    run = Run(sharded(), share=dist.get_rank()).train(0, STEPS)
    return outcome(run, alone())


def check_replicas_of_shards(_folder):
    mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicate", "shard"))
    return outcome(Run(sharded(mesh), share=dist.get_rank()).train(0, STEPS), alone())


def check_spread_objective(_folder):
    return outcome(Run(sharded(), SPREAD, share=dist.get_rank()).train(0, STEPS), alone(SPREAD))


def check_data_parallel(_folder):
    return outcome(Run(DistributedDataParallel(make_model()), share=dist.get_rank()).train(0, STEPS), alone())


def check_figures(_folder):
    """Trainings to a figure that processes see differently, and of a single process: by the mean, by its own.

    What the figures of a process differ by turns its sign from one to the next, so that it changes where they lead.
    """
    inputs = torch.randn(64, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(99))

    def trained(model, own, *, share=None, evaluates=False):
        run, looks = Run(model, None, share=share, target_value=0.6, larger_is_better=False), []

        @torch.no_grad()
        def figure():
            error = (run.model(inputs) - inputs.sum(dim=1, keepdim=True).sin()).square().mean()
            looks.append(float(error) + own * (-1) ** len(looks))
            return looks[-1]

        for first in range(0, STEPS, 2):
            run.train(first, first + 2).regularizer.observe(figure())
        run.regularizer.finish(evaluate=figure if evaluates else None)
        return torch.cat([weights.reshape(-1) for weights in run.weights().values()]).tolist()

    own = 0.3 if dist.get_rank() else -0.3
    return [
        {
            "weights": trained(DistributedDataParallel(make_model()), own, share=dist.get_rank(), evaluates=evaluates),
            "by_mean": trained(make_model(), 0.0, evaluates=evaluates),
            "by_own": trained(make_model(), own, evaluates=evaluates),
        }
        for evaluates in (False, True)
    ]


def check_one_all_reduce(_folder):
    """Numbers in every all-reduce of a step of the regulariser."""
    run = Run(sharded(), share=dist.get_rank()).train(0, 10)
    calls, original = [], dist.all_reduce
    for parameter in run.model.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def counting(tensor, *arguments, **options):
        calls[-1].append(tensor.numel())
        return original(tensor, *arguments, **options)

    dist.all_reduce = counting
    try:
        for _ in range(6):
            calls.append([])
            run.optimizer.step()
    finally:
        dist.all_reduce = original
    return {"calls": calls, "groups": 5, "buckets": CONFIG.buckets.count}


def check_same_file(folder):
    """Files of the same weights: of one process, of two that share the weights, and of two that replicate them."""
    expected, files = alone(), {"one": None, "sharded": sharded(), "replicated": DistributedDataParallel(make_model())}
    grids, weights = expected.regularizer.grids(), list(expected.weights().values())
    for name, model in files.items():
        regularizer = expected.regularizer
        if model is not None:
            regularizer = EntropyRegularizer(model, CONFIG, total_steps=STEPS)
            for parameter, values in zip(model.parameters(), weights, strict=True):
                start = dist.get_rank() * -(-len(values) // 2) if name == "sharded" else 0
                local = local_part(parameter.detach())
                local.copy_(values[start : start + len(local)])
            regularizer.finish(grids)
        if model is not None or dist.get_rank() == 0:
            files[name] = regularizer.save(folder / f"{name}.metaq").file_bytes
        dist.barrier()
    return {"bytes": [size or (folder / "one.metaq").stat().st_size for size in files.values()]}


def check_unwritable_file(folder):
    """The sentences that every process gets."""
    found = []
    for model in (sharded(), DistributedDataParallel(make_model())):
        try:
            Run(model).regularizer.save(folder / "missing" / "model.metaq")
        except MetaqError as error:
            found.append(str(error))
    return {"errors": found}


def check_resuming(folder):
    """Half a run, saved, and the other half from the checkpoint, sharded and in a single process."""
    whole_run = Run(sharded(), share=dist.get_rank()).train(0, STEPS)
    half = Run(sharded(), share=dist.get_rank()).train(0, 29)
    stateful = {"model": half.model.state_dict(), "regularizer": half.regularizer, "optimizer": adam_state(half)}
    dcp.save(stateful, checkpoint_id=folder / "checkpoint")
    torch.manual_seed(9)
    resumed = Run(sharded(), share=dist.get_rank())
    step_once(resumed)
    state = {"model": resumed.model.state_dict(), "optimizer": adam_state(resumed)}
    dcp.load({**state, "regularizer": resumed.regularizer}, checkpoint_id=folder / "checkpoint")
    resumed.train(29, STEPS)
    return outcome(resumed, whole_run)


def check_resuming_alone(folder):
    """The checkpoint of two processes, gone on with in one."""
    run = Run(make_model())
    step_once(run)
    state = {"model": run.model.state_dict(), "optimizer": adam_state(run)}
    loaded = {**state, "regularizer": run.regularizer}
    dcp.load(loaded, checkpoint_id=folder / "checkpoint", no_dist=True)
    return outcome(run.train(29, STEPS), alone())


def adam_state(run):
    """Moments by name, the very tensors that the optimiser works on."""
    names = [name for name, _ in run.model.named_parameters()]
    return {name: run.optimizer.state[p] for name, p in zip(names, run.model.parameters(), strict=True)}


def step_once(run):
    """Let Adam make its state, with gradients of zero."""
    run.regularizer.detach()
    for parameter in run.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    run.optimizer.step()
    run.regularizer.attach(run.optimizer)


def check_disagreement(_folder):
    """The sentences for a process that has another configuration, or other tensors."""
    found = []
    for wrap in (sharded, lambda: DistributedDataParallel(make_model())):
        config = RegularizerConfig(strength=1e-3 * (1 + dist.get_rank()))
        exclude = ("0.bias",) if dist.get_rank() else ()
        for other in (config, RegularizerConfig(strength=1e-5, exclude=exclude)):
            try:
                EntropyRegularizer(wrap(), other, total_steps=5)
            except MetaqError as error:
                found.append(str(error))
    return {"errors": found}


def check_refusals(_folder):
    """What does not work with sharded parameters."""
    found = []
    for kind, config in (
        (EntropyRegularizer, RegularizerConfig(strength=1e-5, rate_model="context")),
        (ProximalRegularizer, RegularizerConfig(strength=1e-5, forward="float")),
    ):
        try:
            kind(sharded(), config, total_steps=5)
        except MetaqError as error:
            found.append(str(error))
    return {"errors": found}


def check_divergence(_folder):
    """A weight of one process becomes NaN: all stop with the same sentence, none waits for ever."""
    run = Run(sharded(), share=dist.get_rank()).train(0, 10)
    if dist.get_rank() == 1:
        next(run.model.parameters()).to_local().detach().fill_(torch.nan)
        run.regularizer._latent.tensors()[0].fill_(torch.nan)
    try:
        run.train(10, 20)
    except MetaqError as error:
        return {"error": str(error)}
    return {}


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            found = check(folder)
            (folder / f"{name}.{dist.get_rank()}.json").write_text(json.dumps(found))
            dist.barrier()
    dist.destroy_process_group()
    time.sleep(0.5)  # Lets gloo finish, as in examples/task.py.


if __name__ == "__main__":
    main(Path(sys.argv[1]))
