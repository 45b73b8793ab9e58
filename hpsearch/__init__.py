"""hpsearch: hyperparameter search for compact transformer language models."""

__version__ = "0.1.0"
