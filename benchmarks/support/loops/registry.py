"""All training loops by name. A new one is a class and a place in this list."""

from __future__ import annotations

from metaq.config import near_match
from metaq.errors import ConfigError
from support.loops.base import Loop
from support.loops.others import Contrastive, Denoiser, Finetune, Gan, Siren
from support.loops.pictures import Digits, Mnist, MobileNet, ResNet, VisionTransformerLoop
from support.loops.tables import Autoencoder, Regression, Sets
from support.loops.text import Characters, Words

LOOPS: dict[str, type[Loop]] = {
    kind.name: kind
    for kind in (
        Regression,
        Autoencoder,
        Digits,
        Mnist,
        ResNet,
        MobileNet,
        VisionTransformerLoop,
        Characters,
        Words,
        Contrastive,
        Gan,
        Sets,
        Denoiser,
        Finetune,
        Siren,
    )
}


def loop(name: str) -> type[Loop]:
    """The training loop of this name; raises :class:`ConfigError` if there is none."""
    if name not in LOOPS:
        raise ConfigError(f"training loop: {name!r} is not known; {near_match(name, LOOPS)}")
    return LOOPS[name]
