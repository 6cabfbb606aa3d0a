from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metaq import container
from metaq.compression.compressed import Goal
from metaq.container.metadata import rewrite, rewritten
from metaq.errors import FormatError
from metaq.report import facts
from metaq.tensors.quantized import Dtype, ExactTensor

ROOT = Path(__file__).parents[2]
FILES = sorted([*(ROOT / "models").glob("*.metaq"), *(ROOT / "tests" / "golden").glob("*.metaq")])
SOME = {"test": "98.12", "goal": "20x", "kept": "0.9988", "command": "compress --target-ratio 20"}


def held(data):
    return [(tensor.name, np.asarray(tensor.restore()).tobytes()) for tensor in container.decode(data).tensors]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_other_metadata_leave_every_tensor_and_the_same_leave_every_byte(path, tmp_path):
    data = path.read_bytes()
    before = dict(container.describe(data).metadata)
    assert rewritten(data, before) == data
    made = rewritten(data, {**before, **SOME, "x": 3, "y": 0.5})
    assert container.decode(made).metadata == {**before, **SOME, "x": 3, "y": 0.5}
    assert held(made) == held(data)
    assert rewritten(made, before) == data
    copy = tmp_path / "m.metaq"
    copy.write_bytes(data)
    assert rewrite(copy, {**before, "x": 3}) == copy.stat().st_size
    assert copy.read_bytes() == rewritten(data, {**before, "x": 3})


def test_a_file_of_a_kilobyte_does_not_grow():
    data = (ROOT / "models" / "lenet5-mnist.metaq").read_bytes()
    assert facts.added(data, SOME) == data


def large(count):
    tensor = ExactTensor(
        name="w", values=np.random.default_rng(0).normal(size=count).astype(np.float32), dtype=Dtype.float32
    )
    return container.encode([tensor])


@pytest.mark.parametrize("count", [500, 1000, 2000, 4000, 40_000])
def test_facts_take_their_share_and_no_more(count):
    data = large(count)
    made = facts.added(data, SOME)
    assert len(made) <= len(data) * (1 + facts.LARGEST_SHARE)
    if count == 40_000:
        assert container.describe(made).metadata == SOME


@pytest.mark.parametrize("fact", [{"test": "98.12"}, {"goal": "20x"}, {"kept": "0.9988"}])
def test_a_fact_takes_a_few_bytes(fact):
    data = (ROOT / "models" / "lenet300-mnist.metaq").read_bytes()
    made = rewritten(data, {**container.describe(data).metadata, **fact})
    assert len(made) - len(data) <= 15


def test_a_file_stays_within_its_goal():
    data = large(40_000)
    assert facts.added(data, SOME, limit_bytes=len(data)) == data
    made = facts.added(data, SOME, limit_bytes=len(data) + 25)
    assert len(data) < len(made) <= len(data) + 25


def test_old_facts_are_replaced_and_other_metadata_stay():
    data = container.encode(container.decode(large(40_000)).tensors, metadata={"net": "mine", "test": "1.00"})
    assert container.describe(facts.added(data, {"test": "98.12"})).metadata == {"net": "mine", "test": "98.12"}


@pytest.mark.parametrize(
    ("goal", "short", "told"),
    [
        ({"target_bytes": 9000}, "9000 B", "at most 9,000 bytes"),
        ({"target_ratio": 20.0}, "20x", "at least 20 times smaller"),
        ({"target_bits_per_weight": 1.5}, "1.5 bit", "at most 1.5 bits per weight"),
        ({"max_drop": 0.25}, "-0.25", "at most 0.25 points of accuracy lost"),
        ({"target_value": 98.5}, "98.5%", "an accuracy of at least 98.5 %"),
        ({"keep": 0.999}, "keep 0.999", "at least 0.999 of the outputs kept"),
    ],
)
def test_goals_are_told_as_they_were_given(goal, short, told):
    assert facts.goal_fact(Goal(**goal)) == {"goal": short}
    assert facts.goal_told({"goal": short}) == told


def test_without_a_goal_there_is_no_fact():
    assert facts.goal_fact(Goal()) == {}
    assert facts.goal_told({"goal": "<b>20x"}) is None
    assert facts.goal_told({}) is None


def test_accuracies_say_which_images_they_are_of():
    known = {"data": "mnist", **facts.accuracy_fact(98.123, "test", before=98.3)}
    after, before = facts.accuracies_told(known)
    assert (after.percent, before.percent) == (98.12, 98.30)
    assert after.images == before.images == "the test images of mnist"
    bound, before = facts.accuracies_told(facts.accuracy_fact(97.0, facts.BOUND, before=98.0))
    assert bound.what == "a lower bound for these weights, on a test set"
    assert before.what == "float weights, on images that did not calibrate"
    assert facts.accuracies_told(facts.accuracy_fact(97.0, "test"))[1] is None


@pytest.mark.parametrize("value", ["98", "98.1", 5, "98.12 %", "<b>", "1000.00", "198.12"])
def test_metadata_of_another_form_are_no_accuracy(value):
    assert facts.accuracies_told({"test": value}) == (None, None)


def test_how_much_is_kept_has_as_many_places_as_tell_it_from_one():
    assert facts.kept_fact(0.5) == {"kept": "0.500"}
    assert facts.kept_told(facts.kept_fact(0.99987654)) == "0.99988"
    assert facts.kept_told({"kept": "1.5 of 2"}) is None


def test_a_command_from_a_file_is_quoted_word_by_word():
    told = facts.command_told({"command": "compress --exclude '$(ls)' ; rm -r ~"}, "my model.metaq")
    assert told == "metaq compress MODEL -o 'my model.metaq' --exclude '$(ls)' ';' rm -r '~'"
    assert facts.command_told({"command": "rm -r /"}, "m.metaq") is None
    assert facts.command_told({"command": "compress 'a"}, "m.metaq") is None
    assert facts.command_told({}, "m.metaq") is None


def test_what_is_told_beforehand_fits_the_file_that_is_expected():
    known = {**facts.goal_fact(Goal(target_bytes=1000)), "command": "compress --target-bytes 1000"}
    sizes = {"float_bytes": 400_000_000, "weights": 100_000_000}
    assert facts.beforehand(known, Goal(target_bytes=1000), **sizes) == {}
    assert facts.beforehand(known, Goal(target_bytes=10_000), **sizes) == {"goal": "1000 B"}
    assert facts.beforehand(known, Goal(), **sizes) == known


def test_a_foreign_file_is_refused(tmp_path):
    path = tmp_path / "m.metaq"
    path.write_bytes(b"something else")
    with pytest.raises(FormatError):
        rewrite(path, {})
