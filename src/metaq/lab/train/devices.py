"""Where a training runs."""

from __future__ import annotations

import torch

from metaq.config import require
from metaq.errors import ConfigError

CPU = torch.device("cpu")
KINDS = ("cpu", "cuda")


def device_named(name: str) -> torch.device:
    """The device that `name` stands for: ``cpu``, ``cuda``, or ``cuda:1`` for the second of several.

    Raises :class:`ConfigError` if it is none of these, or this machine does not have it.

    Examples
    --------
    >>> device_named("cpu")
    device(type='cpu')
    """
    advice = f"choose one of: {', '.join(KINDS)}, {KINDS[1]}:NUMBER."
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r}: is not known; {advice}") from error
    require(device.type in KINDS, f"device {name!r}: training does not run there; {advice}")
    if device.type == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        require((device.index or 0) < found, f"device {name!r}: PyTorch finds {found} such devices on this machine.")
    return device
