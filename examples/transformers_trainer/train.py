"""A tiny GPT-2 with the Trainer of transformers, without any download.

    hpsearch run --space space.yaml --trials 8 --command 'python train.py --config {config} --out {folder} \
        --max-steps {steps} --eval-steps {eval_interval} --resume {resume} --seed {seed}'

{config} is the path of a JSON file with all parameters, so that the command need not name them one by one.
"""

import argparse
import json
import pydoc_data.topics
from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

LENGTH = 32


class Bytes(Dataset):
    """Blocks of a text's bytes; the labels are the bytes themselves."""

    def __init__(self, text: bytes) -> None:
        self.blocks = torch.tensor(list(text[: len(text) // LENGTH * LENGTH])).view(-1, LENGTH)

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.blocks[index], "labels": self.blocks[index]}


class Report(TrainerCallback):
    """Prints what hpsearch reads. The Trainer evaluates, then saves; so one line for each."""

    def on_evaluate(self, args, state, control, metrics=None, **_):
        print(json.dumps({"step": state.global_step, "eval_loss": metrics["eval_loss"]}), flush=True)

    def on_save(self, args, state, control, **_):
        path = Path(args.output_dir, f"checkpoint-{state.global_step}")
        print(json.dumps({"step": state.global_step, "checkpoint": str(path)}), flush=True)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--config", type=Path, required=True)
    options.add_argument("--out", type=Path, default=Path("out"))
    options.add_argument("--max-steps", type=int, default=24)
    options.add_argument("--eval-steps", type=int, default=6)
    options.add_argument("--resume")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    searched = {name: value for name, value in json.loads(given.config.read_text()).items() if value is not None}

    text = "\n".join(pydoc_data.topics.topics.values()).encode()
    torch.manual_seed(given.seed)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=256, n_positions=LENGTH, n_embd=32, n_layer=1, n_head=2))
    arguments = TrainingArguments(
        output_dir=str(given.out),
        max_steps=given.max_steps,
        per_device_train_batch_size=8,
        eval_strategy="steps",
        eval_steps=given.eval_steps,
        save_strategy="steps",
        save_steps=given.eval_steps,
        save_total_limit=2,
        logging_steps=given.max_steps,
        seed=given.seed,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        **searched,
    )
    trainer = Trainer(
        model, arguments, train_dataset=Bytes(text[:50_000]), eval_dataset=Bytes(text[-4_000:]), callbacks=[Report()]
    )
    trainer.train(resume_from_checkpoint=given.resume)


if __name__ == "__main__":
    main()
