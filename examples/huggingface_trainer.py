"""Hugging Face Trainer under foreshock: one line. Trains a tiny GPT-2 with random weights on a CPU, in seconds.

    python examples/huggingface_trainer.py --store sqlite:///foreshock.db
    foreshock dashboard

Needs: pip install "foreshock[transformers]"
"""

import argparse
import sys

import torch
import transformers
from foreshock.integrations.transformers import ForeshockCallback

VOCABULARY, TOKENS = 64, 24


def model() -> transformers.GPT2LMHeadModel:
    """Make a GPT-2 of two layers."""
    sizes = {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": TOKENS}
    config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, use_cache=False, loss_type="ForCausalLM")
    return transformers.GPT2LMHeadModel(config)


def sequences(count: int) -> list[dict[str, torch.Tensor]]:
    """Make sequences that count upwards in steps of their own, which a small model learns soon."""
    rows = [(torch.arange(TOKENS) * (1 + number % 3) + number) % VOCABULARY for number in range(count)]
    return [{"input_ids": row, "labels": row} for row in rows]


def main(arguments: list[str] | None = None) -> int:
    """Train; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", help="where foreshock keeps the run; foreshock.db by default")
    parser.add_argument("--out", default="out", help="where the Trainer keeps its checkpoints")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    given = parser.parse_args(arguments)
    transformers.set_seed(0)
    settings = transformers.TrainingArguments(
        given.out,
        run_name="tiny gpt2",
        max_steps=given.steps,
        learning_rate=given.learning_rate,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        max_grad_norm=1.0,
        bf16=True,
        use_cpu=True,
        logging_steps=10,
        save_steps=20,
        report_to="none",
    )
    trainer = transformers.Trainer(
        model(),
        settings,
        train_dataset=sequences(512),
        callbacks=[ForeshockCallback(store=given.store)],  # the line
    )
    trainer.train(resume_from_checkpoint=given.resume)
    return 0


if __name__ == "__main__":
    sys.exit(main())
