"""The command line that both training scripts share."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import holter
from denovo.config import Config, ConfigError, load_config
from denovo.train import Trainer, train

OUTPUTS = Path(__file__).resolve().parents[1] / "outputs"


def main(
    description: str,
    default_config: str,
    losses: Mapping[str, Any] | None = None,
    arguments: Sequence[str] | None = None,
) -> None:
    """Read the configuration, start the monitor, train.

    Args:
        description: of the script, for ``--help``.
        default_config: trained without ``--config``.
        losses: the script's loss family; a configuration that names losses of its own has the last word.
        arguments: of the command line; None reads ``sys.argv``.
    """
    parser = _parser(description, default_config)
    options = parser.parse_args(arguments)
    try:
        config = load_config(
            options.config,
            defaults={"losses": losses} if losses else None,
            overrides=_overrides(options),
        )
    except ConfigError as error:
        parser.error(str(error))
    _announce(config)
    trainer = Trainer(config)
    try:
        with holter.init(
            project="denovo", name=config.name, config=_record(trainer), planned_steps=config.training.max_steps
        ) as run:
            train(trainer, run, checkpoints=options.output)
    except KeyboardInterrupt:
        raise SystemExit(130) from None  # as a shell reports an interrupted program; no traceback for a Ctrl-C


def _parser(description: str, default_config: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--config", default=default_config, help="a file, or a name below configs/ (default: %(default)s)"
    )
    parser.add_argument("--max_steps", "--max-steps", type=int, help="steps to train, instead of the configuration's")
    parser.add_argument("--seed", type=int, help="of the weights and the training data")
    parser.add_argument("--name", help="of the run, instead of the configuration's")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="for example losses.spectrum.sigma=0.1"
    )
    parser.add_argument(
        "--output", type=Path, default=OUTPUTS, help="folder for checkpoints (default: examples/denovo/outputs)"
    )
    return parser


def _overrides(options: argparse.Namespace) -> list[str]:
    named = {"training.max_steps": options.max_steps, "seed": options.seed, "name": options.name}
    return [*(f"{key}={value}" for key, value in named.items() if value is not None), *options.set]


def _announce(config: Config) -> None:
    """Say what is about to be trained, so that a treatment that was not applied is seen at once."""
    curriculum = config.stages()
    entry = curriculum.entry_of_auxiliary_losses()
    enters = f"from step {entry}" if entry is not None and entry < config.training.max_steps else "never in this run"
    print(f"{config.name}: {config.training.max_steps} steps, seed {config.seed}")
    print(f"Spectrum:  {config.losses.spectrum}")
    print(f"Precursor: {config.losses.precursor}")
    print(f"Auxiliary losses enter {enters}")


def _record(trainer: Trainer) -> dict[str, Any]:
    """What the run's record says: the whole configuration, and what two runs must share to be comparable."""
    return trainer.config.as_dict() | {
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "stage_starts": list(trainer.curriculum.starts),
        "validation_sets": {name: batch.fingerprint() for name, batch in trainer.validation.items()},
    }
