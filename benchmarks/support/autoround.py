"""AutoRound (PyPI package auto-round) on the language model, where it is installed with transformers.

Cheng and others, "Optimize weight rounding via signed gradient descent for the quantization of LLMs" (2024): rounding
and ranges of groups of columns are trained block by block. Its layers are stored as GPTQ's (support/gptq.py), and what
it leaves alone, embedding and head, as q4_K.
"""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

import torch

from support import peers
from support.case import Case
from support.language import LanguageModel, write

BATCH_SIZE = 8
ITERATIONS = 200
"""Its own choice."""

SETTINGS = ((4, 128), (3, 32), (2, 32))
"""Bits and columns of a group."""


def can_run(case: Case) -> bool:
    """Whether the packages are there and the model is one of Llama's form."""
    installed = all(importlib.util.find_spec(name) is not None for name in ("auto_round", "transformers"))
    return installed and isinstance(case.model, LanguageModel)


def applied(case: Case, bits: int, group: int) -> tuple[dict[str, torch.Tensor], int]:
    """The weights that it restores, and its bytes."""
    from auto_round import AutoRound
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    assert isinstance(case.model, LanguageModel)
    texts = torch.cat([batch for batch in case.calibration if isinstance(batch, torch.Tensor)])
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), case.model)
        model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    AutoRound(
        model,
        PreTrainedTokenizerFast(tokenizer_object=no_tokenizer()),
        bits=bits,
        group_size=group,
        sym=False,
        iters=ITERATIONS,
        nsamples=len(texts),
        seqlen=texts.shape[1],
        dataset=list(texts.split(BATCH_SIZE)),
        batch_size=BATCH_SIZE,
        device_map="cpu",
        enable_torch_compile=False,
        amp=False,
    ).quantize()
    streams = peers.Streams(bits=bits)
    restored = {}
    for name, module in model.named_modules():
        if hasattr(module, "scale"):
            steps, zeros = (values.float().repeat_interleave(group, dim=1) for values in (module.scale, module.zp))
            streams.integers.append((module.weight / steps + zeros).round().byte().numpy())
            streams.scales += [module.scale.half().numpy().tobytes(), module.zp.byte().numpy().tobytes()]
            restored[f"{name}.weight"] = module.weight.detach().clone()
    others = {name: tensor for name, tensor in case.state.items() if name not in restored}
    rest, size = peers.applied(peers.named("q4_K"), others)
    return {name: {**rest, **restored}[name] for name in case.state}, size + streams.size_bytes()


def no_tokenizer() -> object:
    """One that it asks for and never uses: inputs are tokens already."""
    from tokenizers import Tokenizer, models

    return Tokenizer(models.BPE())
