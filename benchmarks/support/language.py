"""A decoder-only language model of Llama's form, as benchmarks/language_model.py trains it.

Its folder has the names of Hugging Face's: config.json, model.safetensors, tokenizer.json. Beside them lie the texts
that training has not seen, calibration.txt and held_out.txt.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from support.sentences import CannotRunError

ROTATION_BASE = 10000.0


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes, by Hugging Face's names."""

    vocab_size: int = 4096
    hidden_size: int = 384
    intermediate_size: int = 1024
    num_hidden_layers: int = 6
    num_attention_heads: int = 6
    max_position_embeddings: int = 128


class Attention(nn.Module):
    """Causal attention with rotated queries and keys."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.hidden_size
        self.heads = shape.num_attention_heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, hidden: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
        """From (texts, positions, width) to the same."""
        queries, keys, values = (
            project(hidden).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        found = functional.scaled_dot_product_attention(
            rotated(queries, rotation), rotated(keys, rotation), values, is_causal=True
        )
        return self.o_proj(found.transpose(1, 2).flatten(2))


def rotated(vectors: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """Vectors (texts, heads, positions, size) whose halves are turned by the angles (positions, size / 2)."""
    first, second = vectors.chunk(2, dim=3)
    cosine, sine = rotation.cos().to(vectors), rotation.sin().to(vectors)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=3)


class GatedLayers(nn.Module):
    """Two layers with a gate."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """From (…, width) to the same."""
        return self.down_proj(functional.silu(self.gate_proj(hidden)) * self.up_proj(hidden))


class Block(nn.Module):
    """Attention and layers, each added to what goes in."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = GatedLayers(shape)
        self.input_layernorm = nn.RMSNorm(shape.hidden_size, eps=1e-6)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden_size, eps=1e-6)

    def forward(self, hidden: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
        """From (texts, positions, width) to the same."""
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), rotation)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class Decoder(nn.Module):
    """From tokens to what the head sees."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.num_hidden_layers))
        self.norm = nn.RMSNorm(shape.hidden_size, eps=1e-6)
        self.head_size = shape.hidden_size // shape.num_attention_heads

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """From (texts, positions) to (texts, positions, width)."""
        halves = torch.arange(0, self.head_size, 2, device=tokens.device)
        frequencies = ROTATION_BASE ** (-halves / self.head_size)
        rotation = torch.arange(tokens.shape[1], device=tokens.device)[:, None] * frequencies
        hidden = self.embed_tokens(tokens)
        for layer in self.layers:
            hidden = layer(hidden, rotation)
        return self.norm(hidden)


class LanguageModel(nn.Module):
    """Logits of the next token."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Decoder(shape)
        self.lm_head = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: torch.Tensor, following: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (texts, positions, vocabulary), or losses in nats of the tokens `following`, (texts, positions)."""
        logits = self.lm_head(self.model(tokens))
        if following is None:
            return logits
        return functional.cross_entropy(logits.float().movedim(2, 1), following, reduction="none")


def write(folder: Path, model: LanguageModel) -> None:
    """Write weights and configuration."""
    written = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "rms_norm_eps": 1e-6,
        "rope_theta": ROTATION_BASE,
        "tie_word_embeddings": False,
        **asdict(model.shape),
    }
    (folder / "config.json").write_text(json.dumps(written, indent=1), encoding="utf-8")
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})


def read(folder: Path) -> LanguageModel:
    """The model in a folder."""
    try:
        known = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        state = load_file(folder / "model.safetensors")
    except OSError as error:
        raise CannotRunError(f"{folder}: holds no model ({error}); make it by benchmarks/language_model.py.") from error
    model = LanguageModel(Shape(**{name: known[name] for name in asdict(Shape())}))
    model.load_state_dict(state)
    return model.eval()


def windows(tokens: torch.Tensor, length: int, count: int | None = None) -> torch.Tensor:
    """Consecutive stretches of length + 1 tokens, each of which begins with the last of that before, evenly chosen."""
    found = tokens.unfold(0, length + 1, length)
    if count is None or count >= len(found):
        return found
    return found[torch.linspace(0, len(found) - 1, count).long()]


def tokens_of(folder: Path, name: str) -> torch.Tensor:
    """Tokens of one of the texts of a folder."""
    return torch.tensor(tokenizer_of(folder).encode((folder / name).read_text(encoding="utf-8")).ids)


def tokenizer_of(folder: Path) -> Any:
    """Its tokenizer."""
    if importlib.util.find_spec("tokenizers") is None:
        raise CannotRunError("tokenizers is not installed; run: pip install tokenizers")
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json"))
