"""Configurations inherit for real, and a key that doesn't exist is an error that says where and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from denovo.config import CONFIGS, ConfigError, load_config
from denovo.curriculum import Curriculum, Stage, curriculum_scale
from denovo.losses import GaussianGrid, GaussianKernel, HardMinHuber, Log1pPpm, ScaledL1
from denovo.spectra import Difficulty

NEW_LOSSES = {"losses": {"spectrum": {"kind": "gaussian_kernel"}, "precursor": {"kind": "scaled_l1"}}}


@pytest.fixture
def write(tmp_path: Path):
    def write_config(text: str, name: str = "mine.yaml") -> Path:
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        return file

    return write_config


def all_names() -> list[str]:
    return sorted(file.relative_to(CONFIGS).with_suffix("").as_posix() for file in CONFIGS.rglob("*.yaml"))


@pytest.mark.parametrize("name", all_names())
def test_every_shipped_configuration_loads(name: str) -> None:
    """And reaches its auxiliary losses before it ends."""
    config = load_config(name)
    entry = config.stages().entry_of_auxiliary_losses()
    assert entry is not None
    assert entry < config.training.max_steps
    assert config.name == name.rsplit("/", maxsplit=1)[-1]


def test_a_file_inherits_what_it_does_not_say() -> None:
    """gaussian_test extends optimized_extended extends base: 5,000 steps, everything else as in the full run."""
    full, test = load_config("optimized_extended"), load_config("gaussian_test")
    assert (full.training.max_steps, test.training.max_steps) == (30_000, 5_000)
    assert test.model == full.model
    assert test.curriculum == full.curriculum
    assert test.training.batch_size == full.training.batch_size
    assert isinstance(test.losses.spectrum, GaussianKernel)
    assert isinstance(full.losses.spectrum, HardMinHuber)


def test_one_value_of_one_stage_can_be_changed() -> None:
    explosion, milder = load_config("recipes/explosion"), load_config("recipes/precursor_x100")
    assert explosion.curriculum["stage_3"].precursor_loss_weight == 0.2
    assert explosion.curriculum["stage_3"].spectra == milder.curriculum["stage_3"].spectra
    assert explosion.training.clip_norm is None


def test_the_plans_own_file_works_as_it_stands(write) -> None:
    """It says only training.max_steps and use_compile; the losses are the script's."""
    config = load_config(
        write("training:\n  max_steps: 5000\n  use_compile: false\n", "gaussian_test.yaml"), defaults=NEW_LOSSES
    )
    assert config.training.max_steps == 5000
    assert isinstance(config.losses.precursor, ScaledL1)


def test_the_scripts_losses_reach_a_file_that_extends_another(write) -> None:
    """Else the treatment would silently not be applied."""
    file = write(f"extends: {CONFIGS / 'optimized_extended.yaml'}\n")
    assert isinstance(load_config(file, defaults=NEW_LOSSES).losses.spectrum, GaussianKernel)


def test_losses_that_a_file_names_win_over_the_scripts() -> None:
    assert load_config("recipes/precursor_x100", defaults=NEW_LOSSES).losses.precursor == Log1pPpm(100, 100)


def test_another_kind_of_loss_brings_its_own_keys(write) -> None:
    """Delta and scale of the loss below don't leak into it."""
    config = load_config(write("losses:\n  spectrum: {kind: gaussian_grid, sigma: 0.1}\n"))
    assert config.losses.spectrum == GaussianGrid(sigma=0.1)


def test_overrides_have_the_last_word() -> None:
    config = load_config("tiny", overrides=["training.max_steps=7", "seed=3", "training.clip_norm=null"])
    assert (config.training.max_steps, config.seed, config.training.clip_norm) == (7, 3, None)


def test_a_number_may_be_written_as_people_write_it(write) -> None:
    """YAML 1.1 reads 1e-3 as a text."""
    assert load_config(write("training:\n  learning_rate: 1e-3\n")).training.learning_rate == 0.001


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "training:\n  max_step: 5",
            r"mine\.yaml:2: .*training\.max_step\. Did you mean max_steps\?.*warmup",
        ),
        ("trainng: {}", r"mine\.yaml:1: unknown key trainng.*Allowed here: name, seed, model, losses"),
        (
            "\ncurriculum:\n  stage_3:\n    weight: 1",
            r"mine\.yaml:4: .*curriculum\.stage_3\.weight.*loss_weight",
        ),
        ("losses:\n  spectrum:\n    sigma: 0.1", r"mine\.yaml:3: .*losses\.spectrum\.sigma.*kind, delta, scale"),
        ("losses:\n  spectrum: {kind: gauss}", r"mine\.yaml:2: .*'gauss'.*hard_min_huber, gaussian_kernel"),
        ("training:\n  max_steps: five", r"mine\.yaml:2: training\.max_steps: Expected `int`"),
        ("training:\n  batch_size: 0", r"mine\.yaml:2: training\.batch_size: Expected `int` >= 1"),
        ("training: 5", r"mine\.yaml:1: training: Expected `object`"),
        ("training:\n  curriculum_scale: 1.0e-9", r"both start at step 0"),
        ("curriculum:\n  stage_1: {start: 10}", r"must start at step 0"),
        ("extends: elsewhere.yaml", r"mine\.yaml:1: extends 'elsewhere\.yaml', but there is no file"),
        ("extends: mine.yaml", r"mine\.yaml extends itself"),
        ("- a list", r"mine\.yaml:1: a configuration is a mapping"),
        ("training: [\n", r"mine\.yaml:\d: not YAML"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_what_is_allowed(write, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write(text))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.maxsteps=5", "--set training.maxsteps=5: unknown key"),
        ("max_steps", "write section.key=value"),
        ("seed=[", "is not YAML"),
    ],
)
def test_a_mistaken_override_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("tiny", overrides=[override])


def test_a_missing_configuration_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no configuration nope.*gaussian_test.*recipes/clamp"):
        load_config("nope")


# --- the curriculum -----------------------------------------------------------------------------------------------


def stages(*starts: int) -> list[Stage]:
    return [Stage(f"stage at {start}", start, Difficulty(7, 10), precursor_loss_weight=start / 1e6) for start in starts]


def test_auto_keeps_the_stages_shares_of_the_run() -> None:
    """The 5k sanity check enters the auxiliary losses at 3,333; at scale 1 it would never reach them."""
    assert curriculum_scale("auto", 5000) == pytest.approx(1 / 6)
    assert curriculum_scale(1.0, 5000) == 1.0
    assert load_config("gaussian_test").stages().entry_of_auxiliary_losses() == 3333
    literal = load_config("gaussian_test", overrides=["training.curriculum_scale=1"]).stages()
    assert literal.entry_of_auxiliary_losses() == 20_000


def test_a_stage_begins_at_its_scaled_step() -> None:
    curriculum = Curriculum.of(stages(20_000, 0, 8_000), 0.1)
    assert [curriculum.number_at(step) for step in (0, 799, 800, 1999, 2000, 10**9)] == [1, 1, 2, 2, 3, 3]
    assert [step for step in range(3000) if curriculum.begins_at(step)] == [0, 800, 2000]
    assert curriculum.at(2500).title == "stage at 20000"
    assert curriculum.entry_of_auxiliary_losses() == 800


def test_without_auxiliary_losses_there_is_no_entry() -> None:
    assert Curriculum.of(stages(0), 1.0).entry_of_auxiliary_losses() is None
