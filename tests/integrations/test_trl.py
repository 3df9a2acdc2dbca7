"""TRL's trainers are Trainers: the callback in a supervised fine-tuning, with a tokenizer made here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from foreshock.integrations.transformers import ForeshockCallback
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

WORDS = ["<pad>", "<eos>", "<unk>", "the", "sea", "is", "calm", "today", "and", "so", "am", "i"]


def fine_tuned(folder: Path, callback: ForeshockCallback | None) -> Any:
    import datasets
    import trl

    model = WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>")
    words = Tokenizer(model)
    words.pre_tokenizer = Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    torch.manual_seed(0)
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    wide = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(vocab_size=len(WORDS), max_position_embeddings=32, use_cache=False, **wide, **ids)
    data = datasets.Dataset.from_dict({"text": [" ".join(WORDS[3 : 5 + start % 7]) for start in range(32)]})
    given = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 6, "learning_rate": 1e-2}
    quiet = {"report_to": "none", "use_cpu": True, "bf16": False, "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1}
    trainer = trl.SFTTrainer(
        transformers.LlamaForCausalLM(config),
        trl.SFTConfig(output_dir=str(folder), max_length=16, **given, **quiet),
        train_dataset=data,
        processing_class=tokenizer,
        callbacks=[] if callback is None else [callback],
    )
    trainer.train()
    return trainer


def test_supervised_fine_tuning(url: str, stored: Callable[[], Any], tmp_path: Path) -> None:
    plain = fine_tuned(tmp_path / "plain", None)
    watched = fine_tuned(tmp_path / "watched", ForeshockCallback(store=url, every=2))
    assert all(torch.equal(a, b) for a, b in zip(plain.model.parameters(), watched.model.parameters(), strict=True))
    run, frame = stored()
    assert (run.status, run.last_step) == ("finished", 5)
    signal = {str(name): part["value"].tolist() for name, part in frame.groupby("signal")}
    history = [entry for entry in watched.state.log_history if "loss" in entry]
    assert signal["loss"] == pytest.approx([entry["loss"] for entry in history], rel=1e-6)
    assert signal["gradient.norm"] == pytest.approx([entry["grad_norm"] for entry in history], rel=1e-6)
    assert signal["mean_token_accuracy"]
    assert "model.layers.1.self_attn" in set(frame[frame["signal"] == "attention.max_logit"]["module"])
