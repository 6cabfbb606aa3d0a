"""Coders made for quantised weights, in two profiles: ``small`` models contexts, ``fast`` uses static tables."""
