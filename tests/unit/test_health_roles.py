"""Metrics are found by their meaning, however a framework spells them."""

from __future__ import annotations

import pytest

from holter.health import Role, role_of
from holter.health.patterns import Selector, matches
from holter.health.roles import is_unstable_by_nature


@pytest.mark.parametrize(
    ("role", "names"),
    [
        (
            Role.LOSS,
            "loss train/loss train_loss loss/total total_loss trainLoss avg_train_loss train_loss_step Training_loss",
        ),
        (Role.COMPONENT, "loss/ce loss/precursor loss/spectrum reconstruction_loss train/box_loss loss_q0 kl_loss"),
        (Role.WEIGHTED, "weighted/ce weighted/precursor"),
        (Role.WEIGHT, "weight/spectrum"),
        (Role.VAL_LOSS, "val_loss eval_loss val/easy/loss validation_loss valid_loss test_loss val/box_loss"),
        (Role.ADVERSARIAL, "loss_G_GAN loss_D policy_gradient_loss value_loss entropy_loss actor_loss train/vf_loss"),
        (Role.GRAD_NORM, "grad_norm gradient_norm train/grad_norm gnorm gradNorm grad_norm/encoder"),
        (Role.LR, "lr learning_rate lr-Adam train/learning_rate lr/pg0"),
        (Role.LOSS_SCALE, "loss_scale grad_scale amp/scaler"),
        (Role.ACCURACY, "train/token_acc val/easy/token_acc accuracy eval_bleu ppl val_auc eval_wer"),
        (Role.MEMORY, "system/gpu0/memory_used_gb system/process_memory cuda/memory_allocated"),
        (Role.STAGE, "curriculum/stage"),
        (Role.THROUGHPUT, "perf/it_per_s samples_per_second tokens/s it/s"),
        (Role.SYSTEM, "system/cpu_percent"),
        (Role.STEP_TIME, "perf/step_time watch/step_time ms/batch step_time_ms iter_time seconds_per_step step_sec"),
        (Role.DATA_TIME, "data_time perf/data_time dataloader_wait_ms"),
        (Role.OTHER, "epoch max_logit reward kl ema_alpha num_tokens precursor_mz total_time eval_step_time"),
    ],
)
def test_names_of_real_logs(role: Role, names: str) -> None:
    found = {name: role_of(name) for name in names.split()}
    if role is Role.OTHER:
        found.pop("kl")  # alone it is a part of a loss
    assert set(found.values()) == {role}, found


def test_cross_entropy_is_no_entropy_bonus() -> None:
    assert role_of("cross_entropy_loss") is Role.COMPONENT
    assert role_of("entropy_loss") is Role.ADVERSARIAL


def test_the_plans_own_words_are_losses() -> None:
    """`Total: 3.3 | CE: 3.3 | Spectrum: 0.0 | Precursor: NaN`"""
    assert [role_of(name) for name in ("Total", "CE", "Spectrum", "Precursor")] == [
        Role.LOSS,
        Role.COMPONENT,
        Role.COMPONENT,
        Role.COMPONENT,
    ]


def test_gans_and_agents_are_recognised_by_what_they_log() -> None:
    assert is_unstable_by_nature(["loss", "rewards/mean"])
    assert is_unstable_by_nature(["loss_G", "loss_cycle"])
    assert not is_unstable_by_nature(["loss/total", "loss/ce", "grad_norm", "train/token_acc"])


def test_patterns_go_across_slashes_and_ignore_case() -> None:
    assert matches("*precursor*", "Weighted/Precursor")
    assert not matches("precursor", "loss/precursor")


def test_a_selector_keeps_the_index_of_the_pattern_that_chose() -> None:
    selector = Selector(("weighted/*", "loss/*"), (Role.WEIGHTED, Role.COMPONENT), ("*ce",))
    names = ("loss/ce", "loss/precursor", "weighted/precursor", "grad_norm")
    selection = selector.select(names, [role_of(name) for name in names])
    assert (selection.columns, selection.ranks) == ((1, 2), (1, 0))
