"""Spaces for studies that cost nothing."""

SPACE = """
name: toy
data: {text: pydoc, tokenizer: bytes}
budget: {max_iters: 4, evaluations: 4}
parameters:
  learning_rate: {low: 1e-4, high: 1e-2, log: true, prior: 1e-3}
  weight_decay: {low: 0.0, high: 0.3}
  num_heads: {choices: [2, 3, 4], prior: 2}
  d_model: {choices: [16, 24], prior: 16}
  num_layers: 1
  d_ff: 32
  context_length: 16
  batch_size: 2
  optimizer: {choices: [adamw, sgd], prior: adamw}
  momentum: {low: 0.8, high: 0.99, when: optimizer == 'sgd'}
"""
