"""A small GPT on characters, in one script. By itself it trains one configuration:

    python train.py --learning-rate 1e-3

and it is tuned, paused and resumed as it is:

    hpsearch run --space space.yaml --trials 12 --command 'python train.py --learning-rate {learning_rate} \
        --n-layer {n_layer} --n-embd {n_embd} --n-head {n_head} --dropout {dropout} \
        --max-iters {steps} --eval-interval {eval_interval} --out-dir {folder} --resume {resume} --seed {seed}'

All that hpsearch needs of it is the JSON line at each evaluation.
"""

import argparse
import json
import pydoc_data.topics
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

BLOCK_SIZE, BATCH_SIZE, EVAL_BATCHES = 32, 16, 8


class Block(nn.Module):
    def __init__(self, n_embd: int, n_head: int, dropout: float) -> None:
        super().__init__()
        self.n_head, self.dropout = n_head, dropout
        self.norm1, self.norm2 = nn.LayerNorm(n_embd), nn.LayerNorm(n_embd)
        self.qkv, self.out = nn.Linear(n_embd, 3 * n_embd), nn.Linear(n_embd, n_embd)
        self.mlp = nn.Sequential(nn.Linear(n_embd, 4 * n_embd), nn.GELU(), nn.Linear(4 * n_embd, n_embd), nn.Dropout(dropout))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, time, width = x.shape
        q, k, v = (
            part.view(batch, time, self.n_head, width // self.n_head).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).split(width, dim=2)
        )
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, time, width))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    def __init__(self, vocab_size: int, n_layer: int, n_embd: int, n_head: int, dropout: float) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocab_size, n_embd), nn.Embedding(BLOCK_SIZE, n_embd)
        self.blocks = nn.Sequential(*(Block(n_embd, n_head, dropout) for _ in range(n_layer)))
        self.norm, self.head = nn.LayerNorm(n_embd), nn.Linear(n_embd, vocab_size, bias=False)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        h = self.blocks(self.tokens(x) + self.places(torch.arange(x.shape[1])))
        return functional.cross_entropy(self.head(self.norm(h)).flatten(0, 1), y.flatten())


def batches(data: torch.Tensor, count: int, generator: torch.Generator) -> list[tuple[torch.Tensor, torch.Tensor]]:
    starts = torch.randint(len(data) - BLOCK_SIZE - 1, (count, BATCH_SIZE), generator=generator)
    return [
        (torch.stack([data[s : s + BLOCK_SIZE] for s in row]), torch.stack([data[s + 1 : s + BLOCK_SIZE + 1] for s in row]))
        for row in starts
    ]


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--learning-rate", type=float, default=1e-3)
    options.add_argument("--n-layer", type=int, default=2)
    options.add_argument("--n-embd", type=int, default=32)
    options.add_argument("--n-head", type=int, default=2)
    options.add_argument("--dropout", type=float, default=0.0)
    options.add_argument("--max-iters", type=int, default=60)
    options.add_argument("--eval-interval", type=int, default=10)
    options.add_argument("--out-dir", type=Path, default=Path("out"))
    options.add_argument("--resume", type=Path)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    given.out_dir.mkdir(parents=True, exist_ok=True)

    text = "\n".join(pydoc_data.topics.topics.values())  # Python's own documentation: it is inside every Python.
    vocabulary = sorted(set(text))
    data = torch.tensor([vocabulary.index(letter) for letter in text[:100_000]])
    train, held_out = data[:-10_000], data[-10_000:]

    torch.manual_seed(given.seed)
    model = GPT(len(vocabulary), given.n_layer, given.n_embd, given.n_head, given.dropout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=given.learning_rate)
    start = 0
    if given.resume:
        saved = torch.load(given.resume, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        start = saved["step"]

    for step in range(start + 1, given.max_iters + 1):
        # From the seed and the step: a run that was paused reads on where it was.
        generator = torch.Generator().manual_seed(1_000_003 * given.seed + step)
        torch.manual_seed(1_000_003 * given.seed + step)
        ((x, y),) = batches(train, 1, generator)
        loss = model(x, y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % given.eval_interval == 0 or step == given.max_iters:
            model.eval()
            with torch.no_grad():
                measured = [model(x, y) for x, y in batches(held_out, EVAL_BATCHES, torch.Generator().manual_seed(0))]
            model.train()
            path = given.out_dir / f"step-{step}.pt"
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(state, path.with_suffix(".tmp"))
            path.with_suffix(".tmp").replace(path)  # Whole or not there.
            value = torch.stack(measured).mean().item()
            print(json.dumps({"step": step, "val_loss": value, "train_loss": loss.item(), "checkpoint": str(path)}))


if __name__ == "__main__":
    main()
