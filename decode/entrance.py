"""Restore the tensors of ``.metaq`` files with numpy alone; see :func:`load`."""

from metaq.container.contents import Contents, Entry
from metaq.decode import inspect, load, stream
from metaq.errors import ConfigError, FormatError, MetaqError

__all__ = ["ConfigError", "Contents", "Entry", "FormatError", "MetaqError", "inspect", "load", "stream"]
