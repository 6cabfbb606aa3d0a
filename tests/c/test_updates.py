"""Updates in C: they come out with the bits that Python restores, and what Python refuses is refused."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from c_program import COMPILER, MEMORY, OK, Program, built, by_c
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
from metaq.tensors.quantized import Dtype, ExactTensor

IS_UPDATE, NO_UPDATE, OTHER_BASE = 8, 11, 12
"""Numbers of statuses in c/metaq.h."""

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler is installed")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return built(tmp_path_factory.mktemp("updates"), "-DMETAQ_UPDATES")


@pytest.fixture(scope="module")
def small_program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return built(tmp_path_factory.mktemp("small"), "-DMETAQ_UPDATES", "-DMETAQ_SMALL_MEMORY")


def applied(
    program: Program, pairs: Sequence[tuple[bytes, bytes]], folder: Path, way: str = "memory", *block: str
) -> list[str]:
    """What the program says of every base and its update."""
    lines = []
    for number, pair in enumerate(pairs):
        paths = [folder / f"{number}{kind}.metaq" for kind in ("base", "update")]
        for path, data in zip(paths, pair, strict=True):
            path.write_bytes(data)
        lines.append(Path("\t".join(map(str, paths))))
    return by_c(program, lines, way, *block)


def told(tensors: Iterable[ExactTensor]) -> str:
    """The line of a model."""
    line = str(OK)
    for tensor in sorted(tensors, key=lambda each: each.name.encode()):
        name, number = tensor.name.encode().hex(), list(Dtype).index(tensor.dtype)
        checksum = zlib.crc32(np.ascontiguousarray(tensor.values).tobytes())
        line += f" {name}:{number}:{','.join(map(str, tensor.shape))}:{checksum}"
    return line


def assert_restored(
    program: Program, cases: Sequence[Case], folder: Path, ways: Sequence[str] = ("memory", "rows", "callback")
) -> None:
    """Whichever way they are read."""
    pairs = [(each.base_file, each.update) for each in cases]
    for way in ways:
        for number, (line, each) in enumerate(zip(applied(program, pairs, folder, way), cases, strict=True)):
            assert line == told(each.result.values()), f"case {number}, {way}"


@pytest.mark.parametrize("coder", CODERS)
def test_quantised_tensors_come_out_to_the_bit(coder: str, small_program: Program, tmp_path: Path) -> None:
    assert_restored(small_program, list(quantized_cases(coder)), tmp_path, ["memory"])


@pytest.mark.parametrize("coder", CODERS)
def test_with_tables_of_all_they_do_too(coder: str, program: Program, tmp_path: Path) -> None:
    assert_restored(program, list(quantized_cases(coder))[::6], tmp_path, ["rows"])


@pytest.mark.parametrize("coder", CODERS)
def test_exact_tensors_and_combinations_come_out_to_the_bit(coder: str, program: Program, tmp_path: Path) -> None:
    if not program.has_zstd:
        pytest.skip("the library of Zstandard is missing")
    assert_restored(program, [*exact_cases(coder), *combined_cases(coder), *low_rank_cases()], tmp_path, ["rows"])


def test_tensors_are_kept_tied_new_removed_and_of_another_shape(program: Program, tmp_path: Path) -> None:
    assert_restored(program, [some_case()], tmp_path)


def test_the_wide_recipe_ignores_what_the_base_tells(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small, "DEEP_SYMBOLS", 0)
    monkeypatch.setattr(small, "WORTHWHILE", 0.0)
    generator = np.random.default_rng(2)
    base = {name: base_tensor(generator, name, Dtype.float32, (30, 20)) for name in "abc"}
    tensors = [
        quantized_near(generator, base[name], relation, "rows", 0, has_scales=False)
        for name, relation in zip("abc", RELATIONS, strict=True)
    ]
    assert_restored(program, [case(base, tensors, ["c"], alone=["a"])], tmp_path)


def test_rows_wider_than_what_is_told_of_a_symbol(program: Program, tmp_path: Path) -> None:
    generator = np.random.default_rng(11)
    base = {name: base_tensor(generator, name, Dtype.float16, (12, 260)) for name in "abc"}
    tensors = [quantized_near(generator, base[name], "given", "rows", 0, has_scales=False) for name in "abc"]
    assert_restored(program, [case(base, tensors, alone=["a", "c"])], tmp_path)


def test_files_that_are_carried_are_passed_over(program: Program, tmp_path: Path) -> None:
    generator = np.random.default_rng(7)
    base = {name: base_tensor(generator, name, Dtype.float16, (5, 4)) for name in ("a", "weight")}
    files = {
        name: ExactTensor(name=name, values=np.frombuffer(name.encode(), dtype=np.uint8), dtype=Dtype.uint8)
        for name in ("file:config.json", "file:old.txt")
    }
    new = ExactTensor(name="file:new.txt", values=np.arange(3, dtype=np.uint8), dtype=Dtype.uint8)
    tensor = quantized_near(generator, base["weight"], "added", "rows", 0, has_scales=False)
    facts: dict[str, str | int] = {FOLDER: 1}
    done = case(
        base | files,
        [tensor, new],
        ["weight"],
        alone=list(files),
        removed=["a"],
        metadata=facts,
        base_metadata=facts,
    )
    (line,) = applied(program, [(done.base_file, done.update)], tmp_path)
    assert line == told([new, done.result["weight"]])


def test_what_does_not_fit_is_refused(program: Program, tmp_path: Path) -> None:
    sound = some_case()
    base = sound.base_file
    other = container.encode([replace_of_zeros(each) for each in sound.base.values()])
    pairs = [
        (base, base),
        (other, sound.update),
        (base, with_facts(sound.update, base=b"abcdefgh")),
        (base, with_facts(sound.update, result=b"abcd")),
        (base, with_header(sound.update, lambda raw: raw[:2] + b"\x01\x06" + raw[5:])),
        (sound.update, base),
        (other, with_facts(sound.update, base=identity([*sound.base.values()][:1]))),
    ]
    statuses = [int(line) for line in applied(program, pairs, tmp_path)]
    assert statuses == [NO_UPDATE, OTHER_BASE, OTHER_BASE, 4, 4, IS_UPDATE, OTHER_BASE]


def replace_of_zeros(tensor: ExactTensor) -> ExactTensor:
    return ExactTensor(name=tensor.name, values=np.zeros_like(tensor.values), dtype=tensor.dtype)


def test_a_base_without_the_tensors_that_are_told_is_refused(program: Program, tmp_path: Path) -> None:
    generator = np.random.default_rng(8)
    base = {"a": base_tensor(generator, "a", Dtype.float32, (4, 4))}
    data = case(base, [quantized_near(generator, base["a"], "given", "rows", 0, has_scales=False)]).update
    strangers = [
        ExactTensor(name="a", values=np.zeros((4, 2), dtype="<f4"), dtype=Dtype.float32),
        ExactTensor(name="a", values=np.zeros((4, 4), dtype="<f2"), dtype=Dtype.float16),
        ExactTensor(name="b", values=np.zeros((4, 4), dtype="<f4"), dtype=Dtype.float32),
    ]
    pairs = [(container.encode([stranger]), with_facts(data, base=identity([stranger]))) for stranger in strangers]
    assert [int(line) for line in applied(program, pairs, tmp_path)] == [OTHER_BASE] * 3


def test_damage_is_refused(program: Program, tmp_path: Path) -> None:
    sound = some_case()
    generator = np.random.default_rng(9)
    damaged = [sound.update[:length] for length in generator.integers(0, len(sound.update), 40)]
    for bit in generator.integers(0, 8 * len(sound.update), 160):
        flipped = bytearray(sound.update)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    pairs = [(sound.base_file, data) for data in [*damaged, sound.update + b"\0"]]
    assert all(int(line.split(" ")[0]) not in (OK, MEMORY) for line in applied(program, pairs, tmp_path))


@pytest.mark.parametrize("coder", CODERS)
def test_damage_with_right_checksums_gives_the_model_or_is_refused(
    coder: str, program: Program, tmp_path: Path
) -> None:
    """Bytes of the header and the chunks are changed, and every checksum with them."""
    generator = np.random.default_rng(10)
    base = {name: base_tensor(generator, name, dtype, (6, 5)) for name, dtype in zip("abcd", QUANTIZABLE, strict=False)}
    tensors = [
        quantized_near(generator, base[name], relation, "rows", 0, has_scales=True)
        for name, relation in zip("abc", RELATIONS, strict=True)
    ]
    last = ExactTensor(name="d", values=base["d"].values + 1, dtype=base["d"].dtype)
    sound = case(base, [*tensors, last], ["c"], alone=["a"], coder=coder)
    files = [with_header(sound.update, lambda raw: mutated(raw, generator)) for _ in range(80)]
    files += [with_payloads(sound.update, lambda raw: mutated(raw, generator, is_same_size=True)) for _ in range(60)]
    expected = told(sound.result.values())
    for line in applied(program, [(sound.base_file, data) for data in files], tmp_path):
        assert line == expected or int(line.split(" ")[0]) not in (OK, MEMORY)


def test_every_size_of_the_block_is_enough_or_refused(program: Program, tmp_path: Path) -> None:
    sound = some_case()
    expected = told(sound.result.values())
    for size in (64, 1000, 20_000, 100_000, 1_000_000, 3_000_000, 8_000_000):
        (line,) = applied(program, [(sound.base_file, sound.update)], tmp_path, "memory", str(size))
        assert line == expected or int(line) == MEMORY
