from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

from metaq import ConfigError, EntropyRegularizer, RegularizerConfig, load
from metaq.regularizer.session import TrainingSession

STEPS = 20
CONFIG = RegularizerConfig(strength=1e-2, refresh_every=3)


def make_model():
    torch.manual_seed(0)
    # No other layer could take the units in another order.
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))


def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(16, 6, generator=generator) for _ in range(STEPS)]


def loss_of(model, inputs):
    return nn.functional.cross_entropy(model(inputs), torch.arange(16) % 3)


def weights_of(model):
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()]).clone()


def trained(session, model, optimizer, steps=STEPS):
    session.regularizer.attach(optimizer)
    for inputs in batches()[:steps]:
        optimizer.zero_grad()
        loss_of(model, inputs).backward()
        optimizer.step()
    return session


def make_session(forward="quantized", steps=STEPS):
    model = make_model()
    session = TrainingSession(model, RegularizerConfig(strength=1e-2, forward=forward), total_steps=STEPS)
    return trained(session, model, torch.optim.Adam(model.parameters(), lr=1e-2), steps)


@pytest.mark.parametrize("by_name", [False, True])
def test_a_closure_gives_what_gradients_made_before_the_step_give(by_name):
    plain = make_model()
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-2)
    regularizer = EntropyRegularizer(plain, CONFIG, total_steps=STEPS).attach(optimizer)
    for inputs in batches():
        optimizer.zero_grad()
        loss_of(plain, inputs).backward()
        optimizer.step()

    model = make_model()
    closed = torch.optim.Adam(model.parameters(), lr=1e-2)
    session = TrainingSession(model, CONFIG, total_steps=STEPS)
    session.regularizer.attach(closed)
    for inputs in batches():

        def closure(inputs=inputs):
            closed.zero_grad()
            loss = loss_of(model, inputs)
            loss.backward()
            return loss

        with torch.no_grad():
            loss = closed.step(closure=closure) if by_name else closed.step(closure)
        assert loss.requires_grad
    assert torch.equal(weights_of(plain), weights_of(model))
    assert session.regularizer.report() == regularizer.report()


def test_optimisers_that_call_their_closure_often_are_refused():
    model = make_model()
    session = TrainingSession(model, CONFIG, total_steps=STEPS)
    with pytest.raises(ConfigError, match="LBFGS"):
        session.regularizer.attach(torch.optim.LBFGS(model.parameters()))
    with pytest.raises(ConfigError, match="no optimizer given"):
        session.regularizer.attach()


@pytest.mark.parametrize("forward", ["quantized", "float"])
@pytest.mark.parametrize("steps", [1, STEPS - 1])
def test_the_weights_shown_for_an_evaluation_are_those_of_the_file(forward, steps, tmp_path):
    session = make_session(forward, steps)
    before, metrics = weights_of(session.model), session.metrics()
    session.hold()
    shown = {name: tensor.clone() for name, tensor in session.model.state_dict().items()}
    assert session.metrics() == metrics
    session.hold()
    session.release()
    assert torch.equal(weights_of(session.model), before)
    session.save(tmp_path / "model.metaq")
    assert torch.equal(weights_of(session.model), before)
    restored = load(tmp_path / "model.metaq")
    assert all(torch.equal(restored[name], shown[name]) for name in shown)
    session.finish()
    assert all(torch.equal(restored[name], tensor) for name, tensor in session.model.state_dict().items())
    session.save(tmp_path / "again.metaq")
    assert (tmp_path / "again.metaq").read_bytes() == (tmp_path / "model.metaq").read_bytes()


def test_a_step_that_is_stopped_midway_leaves_quantised_weights(tmp_path):
    class Stopped(torch.optim.Optimizer):
        def step(self, _closure=None):
            for parameter in self.param_groups[0]["params"]:
                parameter.data -= 1e-2 * parameter.grad
                if session.regularizer.steps == STEPS - 1 and not finished:
                    raise KeyboardInterrupt

    finished = []
    model = make_model()
    session = TrainingSession(model, CONFIG, total_steps=STEPS)
    optimizer = Stopped(model.parameters(), {})
    with pytest.raises(KeyboardInterrupt):
        trained(session, model, optimizer)
    session.interrupt()
    session.save(tmp_path / "model.metaq")
    restored = load(tmp_path / "model.metaq")
    assert all(torch.equal(restored[name], tensor) for name, tensor in model.state_dict().items())
    finished.append(True)
    held = weights_of(model)
    optimizer.step()
    assert session.regularizer.steps == STEPS - 1
    assert not torch.equal(weights_of(model), held)


@pytest.fixture
def one_process():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process")
def test_the_state_of_a_sharded_model_is_whole_and_fits_one_that_is_not_sharded(tmp_path):
    sharded = fully_shard(make_model())
    session = TrainingSession(sharded, CONFIG, total_steps=STEPS)
    optimizer = torch.optim.Adam(sharded.parameters(), lr=1e-2)
    trained(session, sharded, optimizer, STEPS - 5)
    torch.save(session.state_dict(), tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    whole = make_model()
    other = TrainingSession(whole, CONFIG, total_steps=STEPS)
    other.load_state_dict(loaded)
    again = TrainingSession(fully_shard(make_model()), CONFIG, total_steps=STEPS)
    again.load_state_dict(loaded)
    files = []
    for number, finished in enumerate((session, other, again)):
        finished.finish()
        finished.save(tmp_path / f"{number}.metaq")
        files.append((tmp_path / f"{number}.metaq").read_bytes())
    assert files[0] == files[1] == files[2]
    restored = load(tmp_path / "0.metaq")
    assert all(torch.equal(restored[name], tensor) for name, tensor in whole.state_dict().items())


def test_weights_that_came_after_training_are_not_saved_on_its_grids(tmp_path):
    session = make_session()
    session.finish()
    session.model.load_state_dict(make_model().state_dict())
    with pytest.raises(ConfigError, match=r"0\.weight: is not as training left it"):
        session.save(tmp_path / "model.metaq")
    assert not (tmp_path / "model.metaq").exists()


def test_a_state_of_another_length_or_none_at_all_is_refused():
    session = make_session()
    other = TrainingSession(make_model(), session.regularizer.config, total_steps=STEPS + 5)
    with pytest.raises(ConfigError, match="a training of 20 steps and this one has 25"):
        other.load_state_dict(session.state_dict())
    for state in ({}, {"finished": True}, {"regularizer": {}}):
        with pytest.raises(ConfigError, match="damaged or of another version"):
            other.load_state_dict(state)
