"""A number on its way from a device to the host, which goes on working meanwhile."""

from __future__ import annotations

import torch


class HostCopy:
    """Copies a float64 scalar without waiting."""

    def __init__(self, value: torch.Tensor) -> None:
        is_remote = value.is_cuda
        self._value = torch.empty((), dtype=torch.float64, pin_memory=is_remote)
        self._value.copy_(value, non_blocking=True)
        self._arrival = torch.cuda.current_stream(value.device).record_event() if is_remote else None

    def value(self) -> float:
        """The number; waits for it if it has not arrived."""
        if self._arrival is not None:
            self._arrival.synchronize()
        return float(self._value)
