"""slm: from raw text to a small language model that answers, with every step checked."""

__version__ = "0.1.0"
