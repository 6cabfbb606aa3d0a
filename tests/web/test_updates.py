"""Updates in JavaScript: they come out with the bits that Python restores, and what Python refuses is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_files import mutated
from made_updates import (
    CODERS,
    QUANTIZABLE,
    RELATIONS,
    Case,
    base_tensor,
    case,
    combined_cases,
    exact_cases,
    low_rank_cases,
    quantized_cases,
    quantized_near,
    some_case,
    with_facts,
    with_header,
    with_payloads,
)

from metaq import container
from metaq.coding.context import small
from metaq.container.carried import FOLDER
from metaq.container.updates import identity
from metaq.errors import FormatError
from metaq.tensors.quantized import Dtype, ExactTensor, Tensor

WEB = Path(__file__).parents[2] / "web"

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


def by_javascript(lines: Sequence[Sequence[bytes]], folder: Path) -> list[dict[str, Any]]:
    """What the JavaScript decoder makes of every file and the updates that follow it."""
    paths: dict[bytes, str] = {}
    for data in (each for line in lines for each in line):
        if data not in paths:
            paths[data] = str(folder / f"{len(paths)}.metaq")
            Path(paths[data]).write_bytes(data)
    done = subprocess.run(
        ["node", str(WEB / "testing" / "apply_updates.js")],
        input="\n".join("\t".join(paths[data] for data in line) for line in lines),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(lines)
    assert all(each["error"].endswith(".") for each in found if "error" in each)
    return found


def described(tensors: Mapping[str, ExactTensor]) -> list[dict[str, Any]]:
    """The same of the tensors of a result, but for what is shared."""
    return [
        {
            "name": name,
            "dtype": tensors[name].dtype.name,
            "shape": list(tensors[name].shape),
            "sha256": hashlib.sha256(np.ascontiguousarray(tensors[name].values).tobytes()).hexdigest(),
        }
        for name in sorted(tensors, key=str.encode)
    ]


def assert_restored(cases: Sequence[Case], folder: Path) -> None:
    """JavaScript gives the result of every case, and shares the tensors that the update does not have."""
    lines = by_javascript([(each.base_file, each.update) for each in cases], folder)
    for number, (each, line) in enumerate(zip(cases, lines, strict=True)):
        assert "error" not in line, f"case {number}: {line['error']}"
        own = {tensor.name for tensor in container.decode(each.update, base=each.base).tensors}
        for tensor, expected in zip(line["tensors"], described(each.result), strict=True):
            assert tensor.pop("isShared") == (expected["name"] not in own)
            assert tensor == expected, f"case {number}"


@pytest.mark.parametrize("coder", CODERS)
def test_quantised_tensors_come_out_to_the_bit(coder: str, tmp_path: Path) -> None:
    assert_restored(list(quantized_cases(coder)), tmp_path)


def test_what_wide_rows_teach_is_shared_with_tensors_that_stand_alone(tmp_path: Path) -> None:
    generator = np.random.default_rng(11)
    base = {name: base_tensor(generator, name, Dtype.float16, (12, 260)) for name in "abc"}
    tensors = [quantized_near(generator, base[name], "given", "rows", 0, has_scales=False) for name in ("a", "b", "c")]
    assert_restored([case(base, tensors, alone=["a", "c"])], tmp_path)


def test_the_wide_recipe_ignores_what_the_base_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small, "DEEP_SYMBOLS", 0)
    monkeypatch.setattr(small, "WORTHWHILE", 0.0)
    generator = np.random.default_rng(2)
    base = {name: base_tensor(generator, name, Dtype.float32, (30, 20)) for name in "abc"}
    tensors = [
        quantized_near(generator, base[name], relation, "rows", 0, has_scales=False)
        for name, relation in zip("abc", RELATIONS, strict=True)
    ]
    assert_restored([case(base, tensors, ["c"], alone=["a"])], tmp_path)


@pytest.mark.parametrize("coder", CODERS)
def test_exact_tensors_come_out_to_the_bit(coder: str, tmp_path: Path) -> None:
    assert_restored(list(exact_cases(coder)), tmp_path)


@pytest.mark.parametrize("coder", CODERS)
def test_combinations_are_added(coder: str, tmp_path: Path) -> None:
    assert_restored(list(combined_cases(coder)), tmp_path)


def test_matrices_of_low_rank_are_added(tmp_path: Path) -> None:
    assert_restored(low_rank_cases(), tmp_path)


def test_tensors_are_kept_tied_new_removed_and_of_another_shape(tmp_path: Path) -> None:
    assert_restored([some_case()], tmp_path)


def test_a_chain_is_applied_and_each_link_but_once(tmp_path: Path) -> None:
    generator = np.random.default_rng(6)
    first = some_case()
    near = quantized_near(generator, first.result["z"], "given", "columns", 0, has_scales=False)
    second = case(first.result, [near])
    again = case(second.result, [ExactTensor(name="z", values=first.result["z"].values, dtype=Dtype.float32)])
    base = first.base_file
    done, back, twice, early, late = by_javascript(
        [
            (base, first.update, second.update),
            (base, first.update, second.update, again.update),
            (base, first.update, first.update),
            (base, second.update),
            (second.base_file, second.update, again.update, again.update),
        ],
        tmp_path,
    )
    assert [each["sha256"] for each in done["tensors"]] == [each["sha256"] for each in described(second.result)]
    assert done["metadata"] == [["step", 7]]
    assert [each["sha256"] for each in back["tensors"]] == [each["sha256"] for each in described(first.result)]
    given = identity(first.result.values()).hex()
    assert twice["error"] == f"The update has been applied already: the base is the model {given}, which it gives."
    assert f"is of the model {given}, but the base is the model {identity(first.base.values()).hex()}" in early["error"]
    assert "applied already" in late["error"]


def test_files_and_metadata_are_carried_over(tmp_path: Path) -> None:
    generator = np.random.default_rng(7)
    base = {name: base_tensor(generator, name, Dtype.float16, (5, 4)) for name in ("a", "weight")}
    files = {
        name: ExactTensor(name=name, values=np.frombuffer(name.encode(), dtype=np.uint8), dtype=Dtype.uint8)
        for name in ("file:config.json", "file:old.txt")
    }
    own = replace(files["file:config.json"], values=np.arange(3, dtype=np.uint8))
    new = replace(own, name="file:new.txt")
    tensor = quantized_near(generator, base["weight"], "added", "rows", 0, has_scales=False)
    facts: dict[str, str | int] = {FOLDER: 1, "epoch": 1, "kept": "x"}
    done = case(
        base | files,
        [tensor, own, new],
        ["weight"],
        alone=list(files),
        removed=["a"],
        metadata={FOLDER: 1, "epoch": 2},
        base_metadata=facts,
    )
    assert_restored([done], tmp_path)
    (line,) = by_javascript([(done.base_file, done.update)], tmp_path)
    assert line["metadata"] == [["epoch", 2], [FOLDER, 1], ["kept", "x"]]


def test_what_does_not_fit_is_refused_with_a_reason(tmp_path: Path) -> None:
    sound = some_case()
    base = sound.base_file
    changed = replace(sound.base["b"], values=np.ones((12, 10), dtype="<f4"))
    other = container.encode(list({**sound.base, "b": changed}.values()))
    renamed = container.encode(
        [*(each for name, each in sound.base.items() if name != "b"), replace(changed, name="c")]
    )
    found = by_javascript(
        [
            (sound.update,),
            (base, base),
            (other, sound.update),
            (renamed, sound.update),
            (base, with_facts(sound.update, result=b"abcd")),
            (base, with_facts(sound.update, base=b"abcdefgh")),
            (base, with_header(sound.update, lambda raw: raw[:2] + b"\x01\x06" + raw[5:])),
            (other, with_facts(sound.update, base=identity([*sound.base.values()][:1]))),
        ],
        tmp_path,
    )
    reasons = [
        f"is an update of the model {identity(sound.base.values()).hex()}, no model itself",
        "is no update but a model",
        "apply it to the one that it was made of",
        "apply it to the one that it was made of",
        "gives another model than it says",
        f"is of the model {b'abcdefgh'.hex()}",
        "removes tensor 6 of the base, which has 6",
        "apply it to the one that it was made of",
    ]
    for reason, line in zip(reasons, found, strict=True):
        assert reason in line["error"]


def test_a_base_without_the_tensors_that_are_told_is_refused(tmp_path: Path) -> None:
    generator = np.random.default_rng(8)
    base = {"a": base_tensor(generator, "a", Dtype.float32, (4, 4))}
    data = case(base, [quantized_near(generator, base["a"], "given", "rows", 0, has_scales=False)]).update
    strangers = [
        ExactTensor(name="a", values=np.zeros((4, 2), dtype="<f4"), dtype=Dtype.float32),
        ExactTensor(name="a", values=np.zeros((4, 4), dtype="<f2"), dtype=Dtype.float16),
        ExactTensor(name="b", values=np.zeros((4, 4), dtype="<f4"), dtype=Dtype.float32),
    ]
    lines = [(container.encode([stranger]), with_facts(data, base=identity([stranger]))) for stranger in strangers]
    for line in by_javascript(lines, tmp_path):
        assert line["error"] == "The base has no tensor a of type float32 and shape [4, 4]."


def test_damage_is_refused(tmp_path: Path) -> None:
    sound = some_case()
    generator = np.random.default_rng(9)
    damaged = [sound.update[:length] for length in generator.integers(0, len(sound.update), 40)]
    for bit in generator.integers(0, 8 * len(sound.update), 160):
        flipped = bytearray(sound.update)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    for line in by_javascript([(sound.base_file, data) for data in [*damaged, sound.update + b"\0"]], tmp_path):
        assert "error" in line


@pytest.mark.parametrize("coder", CODERS)
def test_damage_with_right_checksums_gives_the_model_or_is_refused(coder: str, tmp_path: Path) -> None:
    """Bytes of the header and the chunks are changed, and every checksum with them."""
    generator = np.random.default_rng(10)
    base = {name: base_tensor(generator, name, dtype, (6, 5)) for name, dtype in zip("abcd", QUANTIZABLE, strict=False)}
    tensors: list[Tensor] = [
        quantized_near(generator, base[name], relation, "rows", 0, has_scales=True)
        for name, relation in zip("abc", RELATIONS, strict=True)
    ]
    tensors.append(replace(base["d"], values=base["d"].values + 1))
    sound = case(base, tensors, ["c"], alone=["a"], coder=coder)
    files = [with_header(sound.update, lambda raw: mutated(raw, generator)) for _ in range(80)]
    files += [with_payloads(sound.update, lambda raw: mutated(raw, generator, is_same_size=True)) for _ in range(60)]
    expected = described(sound.result)
    for data, line in zip(files, by_javascript([(sound.base_file, data) for data in files], tmp_path), strict=True):
        if "error" in line:
            continue
        own = [{key: value for key, value in each.items() if key != "isShared"} for each in line["tensors"]]
        assert own == expected
        try:
            container.decode(data, base=base)
        except FormatError as error:
            raise AssertionError("Python alone refuses a file") from error
