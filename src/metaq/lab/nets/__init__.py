"""Small reference networks, networks of one's own by name, and their weights."""

from metaq.lab.nets.registry import create, input_shape
from metaq.lab.nets.weights import initialize_uniform, load_weights

__all__ = ["create", "initialize_uniform", "input_shape", "load_weights"]
