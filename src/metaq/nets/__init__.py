"""Small reference networks, networks of one's own by name, and their weights."""

from metaq.nets.initialization import initialize_uniform
from metaq.nets.registry import create, names
from metaq.nets.state import load_weights

__all__ = ["create", "initialize_uniform", "load_weights", "names"]
