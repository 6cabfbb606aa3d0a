"""Peak memory of a model folder there and back, beside the size of its largest tensor.

    python benchmarks/streaming.py --largest 512 --total 2048 [--options='--coder fast']

A sharded folder of random float32 matrices is made: one, as tall as an embedding, of `--largest` MiB, an integer tensor
of that size, which is kept exactly, and smaller ones until there are `--total` MiB. `metaq compress` and
`metaq decompress` run as processes of their own. Some minutes on two cores for the sizes above.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import torch
from safetensors.torch import save_file

from support.commands import CommandError, describe_use, run_metaq, used
from support.results import write_json

MIB = 1 << 20
FLOAT_BYTES = 4
ALLOWED_MIB = 1024
"""Memory that is allowed beside the largest tensor."""


def write_folder(folder: Path, largest: int, total: int, generator: torch.Generator) -> int:
    """Write the folder; returns the number of its tensors. Sizes are in MiB."""
    count = largest * MIB // FLOAT_BYTES
    columns = max(1 << (count.bit_length() // 2 - 4), 64)
    mix = torch.randn(columns, columns, generator=generator) * torch.logspace(0, -2, columns)[:, None]
    shards: list[dict[str, torch.Tensor]] = [
        {"embed.weight": torch.randn(count // columns, columns, generator=generator) @ mix},
        {"mask": torch.randint(-(1 << 31), 1 << 31, (count,), generator=generator).to(torch.int32)},
    ]
    for number in range(max(total - 2 * largest, 0) * 4 // largest):
        rows = count // 4 // columns
        shards.append({f"layer.{number}.weight": 0.02 * torch.randn(rows, columns, generator=generator)})
    weight_map = {}
    for number, held in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(held, folder / name)
        weight_map |= dict.fromkeys(held, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return len(weight_map)


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        folder, file, restored = (Path(place) / name for name in ("model", "model.metaq", "restored"))
        folder.mkdir()
        generator = torch.Generator().manual_seed(options.seed)
        number = write_folder(folder, options.largest, options.total, generator)
        packed = run_metaq(["compress", str(folder), "-o", str(file), *shlex.split(options.options)])
        unpacked = run_metaq(["decompress", str(file), "-o", str(restored)])
    return {
        "options": options.options,
        "tensors": number,
        "float_bytes": packed["float_bytes"],
        "bytes": packed["bytes"],
        "largest_mib": options.largest,
        "allowed_mib": options.largest + ALLOWED_MIB,
        "compress": used(packed),
        "decompress": used(unpacked),
    }


def describe(found: dict[str, Any], log: TextIO) -> None:
    """A few lines."""
    print(
        f"{found['float_bytes']:,} bytes in {found['tensors']} tensors, the largest of {found['largest_mib']} MiB, "
        f"became {found['bytes']:,} bytes; {found['allowed_mib']:,} MiB of memory are allowed.",
        file=log,
    )
    for command in ("compress", "decompress"):
        print(describe_use(command, found[command]), file=log)


def plot(found: dict[str, Any], path: Path) -> None:
    """Bars of memory."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    bars: Sequence[tuple[str, float]] = [
        ("largest tensor", found["largest_mib"]),
        *((name, found[name]["peak_mib"] or 0) for name in ("compress", "decompress")),
        ("allowed", found["allowed_mib"]),
    ]
    figure, axes = plt.subplots(figsize=(6, 2.5), layout="constrained")
    axes.barh([name for name, _ in bars], [size for _, size in bars])
    axes.set_xlabel("MiB")
    figure.savefig(path)


def main() -> int:
    """Measure, print, write JSON and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=16, metavar="MIB", help="size of the largest tensors")
    parser.add_argument("--total", type=int, default=64, metavar="MIB", help="size of all tensors, about")
    parser.add_argument("--options", default="--coder fast", help="options of metaq compress")
    parser.add_argument(
        "--folder", type=Path, help="where there is room for it all twice; default: for temporary files"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE", help="write JSON; - prints it alone on stdout")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="PNG to write")
    options = parser.parse_args()
    log = sys.stderr if options.json == "-" else sys.stdout
    try:
        found = measured(options)
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    describe(found, log)
    write_json(found, options.json)
    if options.plot:
        plot(found, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
