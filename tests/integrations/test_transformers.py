"""The callback in the real Trainer of transformers, and in one of TRL's."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreshock
import pytest
import torch
import transformers
from foreshock.integrations.transformers import ForeshockCallback
from torch import Tensor, nn

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:'pin_memory' argument:UserWarning")

VOCABULARY, TOKENS = 50, 12


def gpt2() -> transformers.GPT2LMHeadModel:
    torch.manual_seed(0)
    tokens = {"bos_token_id": 0, "eos_token_id": 0}
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=32, use_cache=False, loss_type="ForCausalLM", **tokens
    )
    return transformers.GPT2LMHeadModel(config)


def texts(count: int = 64) -> list[dict[str, Tensor]]:
    """Sentences that count upwards, cut off at different places: micro-batches hold different numbers of labels."""
    rows = [torch.arange(start, start + TOKENS) % VOCABULARY for start in range(count)]
    labels = [torch.where(torch.arange(TOKENS) < 4 + start % 8, row, -100) for start, row in enumerate(rows)]
    return [{"input_ids": row, "labels": label} for row, label in zip(rows, labels, strict=True)]


def trainer(
    folder: Path, callback: ForeshockCallback | None, model: nn.Module | None = None, **options: Any
) -> transformers.Trainer:
    given = {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_steps": 12,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "max_grad_norm": 0.5,
        "seed": 3,
    }
    arguments = transformers.TrainingArguments(output_dir=str(folder), **{**given, **options})
    data = texts()
    callbacks = [] if callback is None else [callback]
    return transformers.Trainer(
        gpt2() if model is None else model, arguments, train_dataset=data, eval_dataset=data[:8], callbacks=callbacks
    )


def weights(made: transformers.Trainer) -> list[Tensor]:
    return [p.detach().clone() for p in made.model.parameters()]


def logged(made: transformers.Trainer, name: str) -> list[float]:
    return [entry[name] for entry in made.state.log_history if name in entry]


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
def test_every_step_is_what_the_trainer_says_and_training_is_bit_identical(
    bf16: bool, url: str, stored: Callable[[], Any], tmp_path: Path
) -> None:
    options = {"bf16": bf16, "eval_strategy": "steps", "eval_steps": 6, "run_name": "mine", "project": "ours"}
    plain = trainer(tmp_path / "plain", None, **options)
    plain.train()
    callback = ForeshockCallback(store=url, every=4)
    watched = trainer(tmp_path / "watched", callback, **options)
    watched.train()
    assert all(torch.equal(a, b) for a, b in zip(weights(plain), weights(watched), strict=True))
    assert logged(plain, "loss") == logged(watched, "loss")
    assert callback.monitor.faults.total == 0

    run, frame = stored()
    assert (run.name, run.project, run.status, run.last_step) == ("mine", "ours", "finished", 11)
    assert run.tags == ("transformers", "gpt2")
    assert run.meta["config"]["max_grad_norm"] == 0.5
    assert run.meta["model_config"]["n_layer"] == 2
    signal = {str(name): part for name, part in frame.groupby("signal")}
    assert signal["loss"]["value"].tolist() == pytest.approx(logged(watched, "loss"), rel=1e-6)
    assert signal["gradient.norm"]["value"].tolist() == pytest.approx(logged(watched, "grad_norm"), rel=1e-6)
    assert signal["gradient.norm_clipped"]["value"].max() <= 0.5
    assert signal["learning_rate"]["value"].tolist() == logged(watched, "learning_rate")
    # What it logs after its step N comes with the step of that number, the last with the last; evaluations are no steps.
    assert signal["eval_loss"]["step"].tolist() == [6, 11]
    assert signal["eval_loss"]["value"].tolist() == logged(watched, "eval_loss")
    assert sorted(set(signal["spectral_alignment.mean"]["step"])) == [0, 4, 8]
    assert set(signal["attention.max_logit"]["module"]) == {f"transformer.h.{i}.attn" for i in range(2)}


@pytest.mark.parametrize("restores", [False, True], ids=["as usual", "callbacks restored"])
def test_a_checkpoint_goes_on_with_the_run(restores: bool, url: str, stored: Callable[[], Any], tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole", None)
    whole.train()
    options = {"save_strategy": "steps", "save_steps": 7, "restore_callback_states_from_checkpoint": restores}
    first = ForeshockCallback(store=url, run="long")
    trainer(tmp_path / "parts", first, **options).train()
    checkpoint = tmp_path / "parts" / "checkpoint-7"
    saved = json.loads((checkpoint / "trainer_state.json").read_text())["stateful_callbacks"]["ForeshockCallback"]
    assert saved["args"] == {"store": url, "run": "long"}
    moved = checkpoint.rename(tmp_path / "moved")
    again = trainer(tmp_path / "again", ForeshockCallback(store=url), **options)
    again.train(resume_from_checkpoint=str(moved))
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(again), strict=True))
    run, frame = stored()
    assert (run.id, run.status) == (first.monitor.run.id, "finished")
    losses = frame[frame["signal"] == "loss"]
    assert losses["step"].tolist() == [*range(12), *range(7, 12)]
    assert losses["segment"].tolist() == [0] * 12 + [1] * 5
    assert losses["value"].tolist()[7:12] == losses["value"].tolist()[12:]
    (callback,) = (each for each in again.callback_handler.callbacks if isinstance(each, ForeshockCallback))
    # The detectors remember what the first part taught them.
    tracks = {tuple(track["key"]): track for track in callback.monitor._analysis.state_dict()["tracks"]}
    assert [step for step, _ in tracks["loss", "", -1, -1]["points"]] == list(range(12))


def test_a_checkpoint_of_an_unwatched_run_or_of_a_lost_store_gives_a_new_run_and_the_step(
    url: str, stored: Callable[[], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"save_strategy": "steps", "save_steps": 7}
    trainer(tmp_path / "parts", ForeshockCallback(store=f"sqlite:///{tmp_path / 'lost.db'}"), **options).train()
    checkpoint = tmp_path / "parts" / "checkpoint-7"
    trainer(tmp_path / "again", ForeshockCallback(store=url), **options).train(resume_from_checkpoint=str(checkpoint))
    assert "cannot be gone on with" in caplog.text
    run, frame = stored()
    assert run.status == "finished"
    assert frame[frame["signal"] == "loss"]["step"].tolist() == list(range(7, 12))
    caplog.clear()
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    del state["stateful_callbacks"]["ForeshockCallback"]
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    callback = ForeshockCallback(store=f"sqlite:///{tmp_path / 'late.db'}")
    trainer(tmp_path / "late", callback, **options).train(resume_from_checkpoint=str(checkpoint))
    assert (callback.monitor._began, callback.monitor._step) == (7, 12)
    assert "foreshock" not in caplog.text


def test_a_learning_rate_far_too_high_raises_the_alert_and_may_stop(
    url: str, alerts: Callable[[], Any], stored: Callable[[], Any], tmp_path: Path
) -> None:
    heard: list[Any] = []
    callback = ForeshockCallback(store=url, every=1, on_alert=heard.append, interventions=["stop"])
    made = trainer(
        tmp_path, callback, learning_rate=30.0, max_steps=150, max_grad_norm=0.0, optim="sgd", gradient_accumulation_steps=1
    )
    made.train()
    assert heard
    assert {"loss_degradation", "non_finite", "broken_by_update", "oversized_updates"} & set(alerts())
    assert made.state.global_step < 150
    run, _ = stored()
    assert run.status == "terminated"


def test_what_goes_wrong_in_us_stays_with_us(
    url: str, stored: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = trainer(tmp_path, None)
    plain.train()

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("planted")

    callback = ForeshockCallback(store=url)
    monkeypatch.setattr("foreshock.probes.taps.backward.BackwardLoss._add", broken)
    monkeypatch.setattr("foreshock.probes.spectral.SpectralProbe.collect", broken)
    watched = trainer(tmp_path, callback)
    watched.train()
    assert all(torch.equal(a, b) for a, b in zip(weights(plain), weights(watched), strict=True))
    assert callback.monitor.faults.total >= 2
    assert "loss" not in set(stored()[1]["signal"])
    # Not even a run that cannot begin ends the training.
    monkeypatch.setattr("foreshock.integrations.loop.watch", broken)
    trainer(tmp_path, ForeshockCallback(store=url), max_steps=2).train()
    assert "foreshock watches nothing, training goes on" in caplog.text


def test_what_is_asked_for_wrongly_is_told_before_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError, match="did you mean probes"):
        ForeshockCallback(probe="full")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="mysterious"):
        trainer(tmp_path, ForeshockCallback(store="mysterious://x")).train()
    monkeypatch.setenv("FORESHOCK_DISABLE", "1")
    callback = ForeshockCallback(store=f"sqlite:///{tmp_path / 'none.db'}")
    trainer(tmp_path, callback, max_steps=2).train()
    assert not (tmp_path / "none.db").exists()


def test_training_that_was_cut_off_is_marked_so_and_the_next_is_another_run(url: str, tmp_path: Path) -> None:
    class Failing(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                raise RuntimeError("planted")

    callback, failing = ForeshockCallback(store=url, run="it"), Failing()
    made = trainer(tmp_path, callback)
    made.add_callback(failing)
    with pytest.raises(RuntimeError, match="planted"):
        made.train()
    made.remove_callback(failing)
    made.train()
    store = foreshock.open_store(url)
    assert sorted((run.status, run.last_step) for run in store.runs()) == [("crashed", 2), ("finished", 11)]
    store.close()
    assert torch.autograd.backward.__module__ == "torch.autograd"
