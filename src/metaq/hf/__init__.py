"""Models of Hugging Face Transformers as one ``.metaq`` file: weights, configuration and tokenizer.

Needs ``pip install 'metaq-torch[transformers]'``. Nothing in a file is executed: the class is one of Transformers' own,
found by the configuration.
"""

from metaq.hf.calibration import calibration
from metaq.hf.enabling import disable, enable
from metaq.hf.loading import from_pretrained, load_tokenizer, restored
from metaq.hf.saving import Tokenizer, save_pretrained

__all__ = [
    "Tokenizer",
    "calibration",
    "disable",
    "enable",
    "from_pretrained",
    "load_tokenizer",
    "restored",
    "save_pretrained",
]
