"""Small reference networks, networks of one's own by name, and their weights."""

from metaq.nets.initialization import initialize_uniform
from metaq.nets.registry import create, input_shape, names
from metaq.nets.state import load_weights

__all__ = ["create", "initialize_uniform", "input_shape", "load_weights", "names"]
