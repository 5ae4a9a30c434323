"""What a metric means, read off its name: rules ask for meanings, because every framework spells them differently."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from functools import lru_cache

__all__ = ["Role", "is_unstable_by_nature", "role_of"]


class Role(StrEnum):
    """The meaning of a metric. The values are the words that rule files use."""

    LOSS = "loss"  # the training loss as a whole
    COMPONENT = "component"  # one part of it, unweighted
    WEIGHTED = "weighted"  # one part of it, times its weight
    WEIGHT = "weight"  # a part's weight
    VAL_LOSS = "val_loss"
    ADVERSARIAL = "adversarial"  # a GAN's or an RL agent's loss: it goes up and down by design
    GRAD_NORM = "grad_norm"
    LR = "lr"
    LOSS_SCALE = "loss_scale"  # of automatic mixed precision
    ACCURACY = "accuracy"  # any measure of quality, perplexity included
    MEMORY = "memory"
    THROUGHPUT = "throughput"
    STEP_TIME = "step_time"  # of one step or batch, in any unit
    DATA_TIME = "data_time"  # of that, the wait for data
    STAGE = "stage"  # of a curriculum
    SYSTEM = "system"
    OTHER = "other"


TRAINING = frozenset(
    {Role.LOSS, Role.COMPONENT, Role.WEIGHTED, Role.ADVERSARIAL, Role.GRAD_NORM}
)  # what an update rests on


_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def _words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NOISE = _words_of(
    "train training trainer step epoch iter iteration avg average mean running smoothed ema batch loss losses "
    "total all sum overall objective main metrics metric log logs global raw model lm mlm clm language modeling"
)
_LOSS = _words_of("loss losses nll bce mse rmse mae cost objective criterion elbo")
_LOSS_ALONE = _words_of("ce total kl precursor spectrum xent crossentropy")
_EVALUATION = _words_of("val valid validation eval evaluation test dev heldout holdout")
_QUALITY = _words_of(
    "acc accuracy f1 auc map precision recall bleu rouge wer cer chrf iou psnr ssim fid ppl perplexity"
)
_ADVERSARIAL = _words_of(
    "g d gan gen disc generator discriminator adv adversarial real fake critic actor policy value vf entropy reward "
    "surrogate advantage pg td icm intrinsic q1 q2 qf qf1 qf2 alpha scores"
)
_REINFORCEMENT = _words_of("reward rewards rew rollout policy advantage advantages discriminator generator")
_MEMORY = _words_of("memory vram rss")
_TIME = _words_of("time seconds sec secs ms wait")
_NO_TIME = _words_of("total elapsed eval remaining wall stamp timestamp epoch")
_DATA = _words_of("data dataloader dataloading loader loading input fetch")
_STEP = _words_of("step batch iter iteration")
_PER_STEP = re.compile(r"(^|[^a-z])(ms|s|sec|secs|seconds|time)(_| )?(/|per)(_| )?(it|iter|iteration|step|batch)\b")
_RATE = re.compile(
    r"(?:\b|_)(it|its|iter|iters|samples|tokens|steps|examples)(_| )?(/|per)(_| )?(s|sec|second)\b|throughput"
)


@lru_cache(maxsize=8192)
def role_of(name: str) -> Role:
    """The role of the metric ``name``.

    >>> [str(role_of(name)) for name in ("train/loss", "loss/precursor", "eval_loss", "gradient_norm", "lr-Adam")]
    ['loss', 'component', 'val_loss', 'grad_norm', 'lr']
    """
    words = _words(name)
    if name.lower().startswith("system/"):
        return Role.MEMORY if _MEMORY & set(words) else Role.SYSTEM
    return _optimizer_role(words) or _loss_role(words) or _other_role(name.lower(), words)


def is_unstable_by_nature(names: Iterable[str]) -> bool:
    """Whether a record with these metrics comes from a GAN or from reinforcement learning.

    Losses of such runs oscillate or have no level at all, so no rule may compare them with their past.
    """
    return any(role_of(name) is Role.ADVERSARIAL or _REINFORCEMENT & set(_words(name)) for name in names)


@lru_cache(maxsize=8192)
def _words(name: str) -> tuple[str, ...]:
    return tuple(word.lower() for word in _WORD.findall(name))


def _optimizer_role(words: tuple[str, ...]) -> Role | None:
    has = set(words)
    if "lr" in has or {"learning", "rate"} <= has:
        return Role.LR
    if {"loss", "scale"} <= has or {"grad", "scale"} <= has or {"amp", "scale"} <= has or "scaler" in has:
        return Role.LOSS_SCALE
    if "gnorm" in has or ("norm" in has and has & {"grad", "gradient", "grads", "gradients"}):
        return Role.GRAD_NORM
    if words and words[0] == "weighted":
        return Role.WEIGHTED
    if words and words[0] in ("weight", "weights"):
        return Role.WEIGHT
    return None


def _loss_role(words: tuple[str, ...]) -> Role | None:
    meaning = [word for word in words if word not in _NOISE and not word.isdigit()]
    if not _names_a_loss(words, meaning):
        return None
    if _EVALUATION & set(words):
        return Role.VAL_LOSS
    if _is_adversarial(words):
        return Role.ADVERSARIAL
    return Role.COMPONENT if [word for word in meaning if word not in _LOSS] else Role.LOSS


def _names_a_loss(words: tuple[str, ...], meaning: list[str]) -> bool:
    if any(word in _LOSS or word.endswith("loss") for word in words):
        return True
    return bool(words) and set(meaning or words) <= _LOSS_ALONE


def _is_adversarial(words: tuple[str, ...]) -> bool:
    plain = set(words) - ({"entropy"} if "cross" in words else set())
    return bool(_ADVERSARIAL & plain)


def _other_role(lowered: str, words: tuple[str, ...]) -> Role:
    has = set(words)
    if has & _QUALITY:
        return Role.ACCURACY
    if "stage" in has and has & {"curriculum", "stage"}:
        return Role.STAGE
    if has & _MEMORY:
        return Role.MEMORY
    if _EVALUATION & has:
        return Role.OTHER
    if _RATE.search(lowered):
        return Role.THROUGHPUT
    return _time_role(lowered, words)


def _time_role(lowered: str, words: tuple[str, ...]) -> Role:
    """Of names such as `step_time`, `ms/batch`, `time_per_iteration`, `data_time`, `perf/dataloader_wait_ms`."""
    has = set(words)
    if _PER_STEP.search(lowered):
        return Role.STEP_TIME
    if not has & _TIME or has & _NO_TIME:
        return Role.OTHER
    if has & _DATA:
        return Role.DATA_TIME
    return Role.STEP_TIME if has & _STEP else Role.OTHER
