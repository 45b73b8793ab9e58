"""A search small enough for a test: real text, real training, a few seconds."""

SPACE = """\
name: tiny
objective: val_bpb
data: {text: pydoc, tokenizer: bytes, validation: 0.1}
budget: {tokens: 7680, evaluations: 4}
parameters:
  learning_rate: {low: 1e-4, high: 3e-2, log: true, prior: 3e-4}
  batch_size: {choices: [4, 8], prior: 8}
  dropout: {low: 0.0, high: 0.2, step: 0.05, prior: 0.1}
  optimizer: {choices: [adamw, sgd], prior: adamw}
  momentum: {low: 0.8, high: 0.99, when: optimizer == 'sgd'}
  num_layers: 1
  d_model: 16
  num_heads: 2
  d_ff: 2 * d_model
  context_length: 16
  layer_norm_epsilon: 1e-5
  eval_iters: 2
  max_new_tokens: 20
  max_save_num: 1
"""
