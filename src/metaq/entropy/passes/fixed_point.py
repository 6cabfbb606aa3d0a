"""Counts and sums of fractions in one 64-bit integer.

The place of a weight inside its cell is kept in units of 2^-32 steps, so that sums are exact, do not depend on their
order, and one integer addition serves count and sum.
"""

UNIT_BITS = 32
"""A step has 2^UNIT_BITS units."""

COUNT_SHIFT = 47
"""Bits of a slot below its count."""

SLOT_CAPACITY = 1 << (COUNT_SHIFT - UNIT_BITS)
"""Weights a slot can take before its sum of units may reach the bits of its count."""
