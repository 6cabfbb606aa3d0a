"""Train a small decoder-only language model on text of Debian's packages, for benchmarks/frontier.py to compress.

    apt install fortunes wordnet-base python3.11-doc; pip install tokenizers
    cat $(ls /usr/share/games/fortunes/* | grep -Ev '[.](dat|u8)$') | grep -v '^%$' > fortunes.txt
    grep -h '^[0-9]' /usr/share/wordnet/data.* | sed 's/.*| //' > wordnet.txt
    find /usr/share/doc/python3.11/html/_sources -name '*.txt' | sort | xargs cat > python.txt
    python benchmarks/language_model.py --texts fortunes.txt wordnet.txt python.txt --to FOLDER
    python benchmarks/frontier.py --models language --language FOLDER --peers

The model has Llama's form and names and 13.8 million weights: byte-pair encoding of 4,096 tokens, width 384, 6 layers,
128 positions. The texts are cut into stretches of 4,096 characters; of every 40, one is held out to judge by, another
to calibrate with. Training is by AdamW with warm-up and a learning rate that falls as a cosine, in bfloat16 where the
processor has it: about half an hour on one core. Without --texts, a tiny model learns a stand-in for a minute's test.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import torch

from support.language import LanguageModel, Shape, tokens_of, windows, write
from support.results import write_json
from support.sentences import CannotRunError

STRETCH_CHARACTERS = 4096
EVERY = 40
BATCH_SIZE = 16
WARM_UP = 0.05
LEAST_RATE = 0.05
"""Over the largest learning rate, at the end."""

TINY = Shape(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=16,
)


def stretches(text: str) -> tuple[str, str, str]:
    """Text to train on, to calibrate with and to judge by."""
    cut = [text[start : start + STRETCH_CHARACTERS] for start in range(0, len(text), STRETCH_CHARACTERS)]
    kinds = (cut[EVERY // 2 :: EVERY], cut[EVERY - 1 :: EVERY])
    apart = {number for first in (EVERY // 2, EVERY - 1) for number in range(first, len(cut), EVERY)}
    training = [stretch for number, stretch in enumerate(cut) if number not in apart]
    return "".join(training), "".join(kinds[0]), "".join(kinds[1])


def prepared(texts: list[Path], folder: Path, shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens to train on and to judge by; writes tokenizer and texts."""
    try:
        from tokenizers import ByteLevelBPETokenizer
    except ImportError as error:
        raise CannotRunError("tokenizers is not installed; run: pip install tokenizers") from error
    parts = [stretches(path.read_text(encoding="utf-8", errors="replace")) for path in texts]
    training, calibration, held_out = ("".join(part) for part in zip(*parts, strict=True))
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(training.splitlines(keepends=True), vocab_size=shape.vocab_size, show_progress=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "calibration.txt").write_text(calibration, encoding="utf-8")
    (folder / "held_out.txt").write_text(held_out, encoding="utf-8")
    coded = tokenizer.encode_batch(training.splitlines(keepends=True))
    return torch.tensor([token for line in coded for token in line.ids]), tokens_of(folder, "held_out.txt")


def stand_in(shape: Shape, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of which every one is 1 to 4 above the one before, to train on and to judge by."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, 5, (20000,), generator=generator).cumsum(0) % shape.vocab_size
    return tokens[:-2000], tokens[-2000:]


def rate_at(step: int, steps: int) -> float:
    """Learning rate over its largest."""
    warm = WARM_UP * steps
    if step < warm:
        return (step + 1) / warm
    falling = 0.5 + 0.5 * math.cos(math.pi * (step - warm) / (steps - warm))
    return LEAST_RATE + (1 - LEAST_RATE) * falling


def trained(tokens: torch.Tensor, shape: Shape, *, steps: int, rate: float, seed: int) -> LanguageModel:
    """A model after so many steps; its progress on stderr."""
    torch.manual_seed(seed)
    model = LanguageModel(shape)
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, steps))
    texts = windows(tokens, shape.max_position_embeddings)
    half = torch.autocast("cpu", torch.bfloat16, enabled=torch.backends.mkldnn.is_available())
    order = torch.cat([torch.randperm(len(texts)) for _ in range(steps * BATCH_SIZE // len(texts) + 1)])
    for step, chosen in enumerate(order.split(BATCH_SIZE)[:steps]):
        with half:
            loss = model(texts[chosen, :-1], texts[chosen, 1:]).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step} of {steps}: loss {loss.item():.3f} nats a token", file=sys.stderr, flush=True)
    return model.eval()


def perplexity(model: LanguageModel, tokens: torch.Tensor) -> float:
    """Of tokens that follow within stretches of the model's length."""
    with torch.no_grad():
        texts = windows(tokens, model.shape.max_position_embeddings, 160)
        losses = torch.cat([model(some[:, :-1], some[:, 1:]) for some in texts.split(BATCH_SIZE)])
    return math.exp(float(losses.double().mean()))


def main() -> int:
    """Train, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, nargs="+", metavar="FILE", help="plain text")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="for the model, its tokenizer and the texts left out")
    parser.add_argument("--steps", type=int, help="1500, or 100 of the stand-in")
    parser.add_argument("--rate", type=float, default=1.5e-3, help="largest learning rate (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE", help="write JSON; - prints it alone on stdout")
    options = parser.parse_args()
    if (options.texts is None) != (options.to is None):
        parser.error("--texts and --to go together")
    shape = TINY if options.texts is None else Shape()
    steps = options.steps or (100 if options.texts is None else 1500)
    try:
        if options.texts is None:
            training, held_out = stand_in(shape, options.seed)
        else:
            options.to.mkdir(parents=True)
            training, held_out = prepared(options.texts, options.to, shape)
    except (CannotRunError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    model = trained(training, shape, steps=steps, rate=options.rate, seed=options.seed)
    if options.to is not None:
        write(options.to, model)
    weights = sum(parameter.numel() for parameter in model.parameters())
    found = {"weights": weights, "steps": steps, "perplexity": perplexity(model, held_out)}
    write_json(found, options.json)
    if options.json != "-":
        print(f"{weights:,} weights, {steps} steps: perplexity {found['perplexity']:.2f} on text held out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
