"""Networks and their files in, folders of C99 for microcontrollers out."""

from metaq.firmware.writing import Written, export, require_place

__all__ = ["Written", "export", "require_place"]
