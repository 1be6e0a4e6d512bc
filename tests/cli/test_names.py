from __future__ import annotations

import pytest

from toolkit.cli.names import SettingNameError, resolve, spellings, with_group_names

KNOWN = [
    "steps",
    "objective.name",
    "objective.sigma.shift",
    "objective.sigma.mean",
    "objective.motion.tokens",
    "batches.tokens",
    "batches.size",
    "optim.name",
    "optim.lr",
    "textual.name",
    "textual.lr",
    "textual.steps",
]


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("objective.sigma.shift", "objective.sigma.shift"),
        ("sigma.shift", "objective.sigma.shift"),
        ("shift", "objective.sigma.shift"),
        ("steps", "steps"),  # a full name wins
        ("tokens", "batches.tokens"),  # fewer groups win
        ("motion.tokens", "objective.motion.tokens"),
        ("objective", "objective.name"),
        ("optim", "optim.name"),
    ],
)
def test_a_short_name_finds_its_setting(given: str, full: str) -> None:
    assert resolve(given, KNOWN) == full


def test_dash_and_underscore_are_equal() -> None:
    assert resolve("grad-clip", ["optim.grad_clip"]) == resolve("grad_clip", ["optim.grad_clip"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("lr", "stands for several settings, write one of optim.lr, textual.lr"),
        ("name", "stands for several settings, write one of objective.name, optim.name, textual.name"),
        ("sigma", "is a group of settings: objective.sigma.shift, objective.sigma.mean"),
        ("stps", "no such setting, did you mean steps?"),
        ("shfit", "no such setting, did you mean objective.sigma.shift?"),
        ("igma.shift", "no such setting, did you mean objective.sigma.shift?"),  # only whole words count
    ],
)
def test_unknown_and_ambiguous_names_are_errors(given: str, message: str) -> None:
    with pytest.raises(SettingNameError) as caught:
        resolve(given, KNOWN)
    assert str(caught.value) == message


def test_a_name_that_resembles_none_lists_all() -> None:
    with pytest.raises(
        SettingNameError, match="no such setting; the --help of the command lists all settings"
    ):
        resolve("zzzz", KNOWN)


def test_an_error_writes_names_as_asked() -> None:
    with pytest.raises(SettingNameError) as caught:
        resolve("lr", KNOWN)
    assert caught.value.message(str.upper).endswith("one of OPTIM.LR, TEXTUAL.LR")


def test_a_group_name_stands_for_its_first_field_called_name() -> None:
    assert "group" in with_group_names(["group.name", "group.size"])
    assert "group" not in with_group_names(["group.size", "group.name"])
    assert "group" not in with_group_names(["group.inner.size", "group.name"])


def test_spellings_lists_every_name_that_resolves() -> None:
    found = spellings(KNOWN)
    assert {name: found[name] for name in KNOWN} == {name: name for name in KNOWN}
    assert found["sigma.shift"] == found["shift"] == "objective.sigma.shift"
    assert found["objective"] == "objective.name"
    assert not {"lr", "name", "sigma"} & found.keys()
    assert all(resolve(short, KNOWN) == full for short, full in found.items())


TRAIN = [
    "data", "out", "model", "steps", "batch_size", "sample_prompts", "save_every", "adapter.rank",
    "adapter.alpha", "optim.lr", "optim.warmup", "optim.schedule", "optim.grad_clip", "objective.sigma.shift",
    "memory.checkpointing", "memory.precision", "watch.sample_steps", "collaboration.alpha",
]  # fmt: skip
GENERATE = ["prompt", "out", "lora", "model", "steps", "guidance_scale", "shift", "collaboration.alpha"]


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("learning-rate", "optim.lr"),
        ("max_train_steps", "steps"),
        ("max_steps", "steps"),
        ("train_steps", "steps"),
        ("num_inference_steps", "watch.sample_steps"),
        ("lora_rank", "adapter.rank"),
        ("network_dim", "adapter.rank"),
        ("lora_alpha", "adapter.alpha"),
        ("network_alpha", "adapter.alpha"),
        ("train_batch_size", "batch_size"),
        ("flow_shift", "objective.sigma.shift"),
        ("discrete_flow_shift", "objective.sigma.shift"),
        ("output_dir", "out"),
        ("pretrained_model_name_or_path", "model"),
        ("validation_prompt", "sample_prompts"),
        ("validation_prompts", "sample_prompts"),
        ("checkpointing_steps", "save_every"),
        ("save_steps", "save_every"),
        ("gradient_checkpointing", "memory.checkpointing"),
        ("mixed_precision", "memory.precision"),
        ("max_grad_norm", "optim.grad_clip"),
        ("lr_scheduler", "optim.schedule"),
        ("lr_warmup_steps", "optim.warmup"),
    ],
)
def test_other_trainers_names(given: str, full: str) -> None:
    assert resolve(given, TRAIN) == full
    assert spellings(TRAIN)[given.replace("-", "_")] == full


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("num_inference_steps", "steps"),
        ("cfg", "guidance_scale"),
        ("cfg_scale", "guidance_scale"),
        ("lora_weights", "lora"),
        ("network_weights", "lora"),
    ],
)
def test_other_samplers_names(given: str, full: str) -> None:
    assert resolve(given, GENERATE) == full


@pytest.mark.parametrize("given", ["max_train_steps", "lora_alpha", "num_train_epochs"])
def test_a_verb_that_samples_has_no_training_names(given: str) -> None:
    with pytest.raises(SettingNameError, match="no such setting"):
        resolve(given, GENERATE)


def test_a_setting_wins_over_a_synonym() -> None:
    assert resolve("max_steps", [*TRAIN, "max_steps"]) == "max_steps"
    assert resolve("max_steps", [*TRAIN, "watch.max_steps"]) == "watch.max_steps"


def test_a_synonym_of_an_ambiguous_name_is_ambiguous() -> None:
    with pytest.raises(SettingNameError, match=r"write one of optim\.lr, textual\.lr"):
        resolve("learning_rate", [*TRAIN, "textual.lr"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("gradient_accumulation", "castmix has no gradient accumulation, use a larger batch_size"),
        ("gradient-accumulation-steps", "castmix has no gradient accumulation, use a larger batch_size"),
        ("num_train_epochs", "castmix counts steps, not epochs, use steps"),
        (
            "resume_from_checkpoint",
            "castmix resumes on its own, run the same command with the same out",
        ),
    ],
)
def test_settings_castmix_lacks_are_explained(given: str, message: str) -> None:
    with pytest.raises(SettingNameError) as caught:
        resolve(given, TRAIN)
    assert str(caught.value) == message
