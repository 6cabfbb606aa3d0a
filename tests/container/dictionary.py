"""The headers of a few typical networks, which are the dictionary of the coder of header bytes.

``python tests/container/dictionary.py`` prints it. It is part of the file format: it changes only with the version.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from metaq.container.contents import Entry, Metadata
from metaq.container.fields import Parts
from metaq.tensors.grid import BucketGrid
from metaq.tensors.quantized import Dtype

Shapes = dict[str, tuple[int, ...]]

OWN_STEPS = (0.0625, 0.0313, 0.0879, 0.0444, 0.0132, 0.1006, 0.0213, 0.0715, 0.0508, 0.0269)
OWN_COUNTS = (15, 7, 31, 9, 21, 5, 11, 3, 27, 17)
METADATA: Metadata = {"data": "mnist", "net": "lenet5"}


def convolutions() -> Shapes:
    """A small convolutional network for digits."""
    shapes: Shapes = {"conv1.weight": (6, 1, 5, 5), "conv2.weight": (16, 6, 5, 5)}
    shapes |= {"fc1.weight": (120, 256), "fc2.weight": (84, 120), "fc3.weight": (10, 84)}
    return with_biases(shapes)


def residual_stage() -> Shapes:
    """Two stages of a residual network with batch normalisation."""
    shapes: Shapes = {"conv1.weight": (64, 3, 7, 7), "fc.weight": (1000, 512), "fc.bias": (1000,)}
    shapes |= normalization("bn1", 64)
    for layer, width, before in ((1, 64, 64), (2, 128, 64)):
        block = f"layer{layer}.0"
        shapes |= {f"{block}.conv1.weight": (width, before, 3, 3), f"{block}.conv2.weight": (width, width, 3, 3)}
        shapes |= normalization(f"{block}.bn1", width) | normalization(f"{block}.bn2", width)
        if width != before:
            shapes |= {f"{block}.downsample.0.weight": (width, before, 1, 1)}
            shapes |= normalization(f"{block}.downsample.1", width)
    return shapes


def transformer_block() -> Shapes:
    """Embedding and first block of a decoder."""
    block = "model.layers.0"
    shapes: Shapes = {"lm_head.weight": (32000, 2048), "model.embed_tokens.weight": (32000, 2048)}
    shapes |= {f"{block}.self_attn.{part}_proj.weight": (2048, 2048) for part in "qkvo"}
    shapes |= {f"{block}.mlp.{part}_proj.weight": (8192, 2048) for part in ("gate", "up")}
    shapes |= {f"{block}.mlp.down_proj.weight": (2048, 8192), "model.norm.weight": (2048,)}
    return shapes | {f"{block}.{part}_layernorm.weight": (2048,) for part in ("input", "post_attention")}


def encoder_layers() -> Shapes:
    """Embedding and two layers of an encoder."""
    shapes: Shapes = {
        "embeddings.word_embeddings.weight": (30522, 768),
        "embeddings.position_embeddings.weight": (512, 768),
        "embeddings.token_type_embeddings.weight": (2, 768),
        "embeddings.LayerNorm.weight": (768,),
        "pooler.dense.weight": (768, 768),
    }
    for layer in range(2):
        block = f"encoder.layer.{layer}"
        shapes |= {f"{block}.attention.self.{part}.weight": (768, 768) for part in ("query", "key", "value")}
        shapes |= {f"{block}.attention.output.dense.weight": (768, 768), f"{block}.output.LayerNorm.weight": (768,)}
        shapes |= {f"{block}.intermediate.dense.weight": (3072, 768), f"{block}.output.dense.weight": (768, 3072)}
        shapes |= {f"{block}.attention.output.LayerNorm.weight": (768,)}
    return with_biases({name: shape for name, shape in shapes.items() if "embeddings.weight" not in name}) | shapes


def with_biases(shapes: Shapes) -> Shapes:
    """`shapes` and those of a bias beside every weight."""
    return shapes | {name.replace(".weight", ".bias"): shape[:1] for name, shape in shapes.items()}


def normalization(name: str, width: int) -> Shapes:
    """Tensors of a batch normalisation."""
    shapes: Shapes = {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}
    return shapes | {f"{name}.num_batches_tracked": ()}


def header(
    shapes: Shapes, *, dtype: Dtype, has_own_grids: bool, chunk_sizes: tuple[int, ...], metadata: Metadata
) -> bytes:
    """Header of a file of such tensors: statistics are kept exactly, all else is quantised."""
    entries, inline = [], []
    for number, name in enumerate(sorted(shapes)):
        turn = number % len(OWN_STEPS) if has_own_grids else 0
        step_size, count = float(round(OWN_STEPS[turn] * 2**14) / 2**14), OWN_COUNTS[turn]
        grid: BucketGrid | None = BucketGrid(center=0.0, radius=step_size * count / 2, count=count)
        coder, kind = "small", dtype
        if "running" in name:
            coder, grid = "raw", None
        if "num_batches" in name:
            coder, grid, kind = "inline", None, Dtype.int64
            inline.append((23000 + number).to_bytes(8, "little"))
        entries.append(Entry(name=name, shape=shapes[name], dtype=kind, coder=coder, grid=grid))
    exact = [entry.restored_bytes for entry in entries if entry.coder == "raw"]
    parts = Parts(
        bases=(),
        entries=tuple(entries),
        inline=tuple(inline),
        metadata=metadata,
        coder="small",
        chunk_bits=20,
    )
    return parts.fields([*chunk_sizes, *exact])


def headers() -> Iterator[bytes]:
    """All of them, the network of the smallest header last."""
    yield header(transformer_block(), dtype=Dtype.bfloat16, has_own_grids=True, chunk_sizes=(), metadata={})
    yield header(encoder_layers(), dtype=Dtype.float32, has_own_grids=True, chunk_sizes=(), metadata={})
    yield header(residual_stage(), dtype=Dtype.float32, has_own_grids=True, chunk_sizes=(), metadata={})
    yield header(convolutions(), dtype=Dtype.float32, has_own_grids=False, chunk_sizes=(2900,), metadata=METADATA)
    yield header(convolutions(), dtype=Dtype.float32, has_own_grids=True, chunk_sizes=(2500,), metadata={})


if __name__ == "__main__":
    sys.stdout.write(b"".join(headers()).hex(" "))
