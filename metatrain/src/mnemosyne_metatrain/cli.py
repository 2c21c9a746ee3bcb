"""The command line: train, resume, evaluate, ablate, export, report."""

from __future__ import annotations

import argparse
from pathlib import Path


def _train(arguments: argparse.Namespace) -> None:
    from mnemosyne_metatrain.config import load_config
    from mnemosyne_metatrain.training.trainer import Trainer

    trainer = Trainer(load_config(arguments.config), arguments.out)
    trainer.run(resume=arguments.command == "resume", until=arguments.until)


def main(argv: list[str] | None = None) -> None:
    """Runs a subcommand."""
    parser = argparse.ArgumentParser(prog="mnemosyne-metatrain", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, summary in (
        ("train", "meta-train from a configuration"),
        ("resume", "go on from the checkpoint of a run"),
    ):
        command = commands.add_parser(name, help=summary)
        command.add_argument("config", type=Path)
        command.add_argument("--out", type=Path, required=True, help="folder of the run")
        command.add_argument("--until", type=int, help="last iteration of this leg")
        command.set_defaults(run=_train)
    arguments = parser.parse_args(argv)
    arguments.run(arguments)


if __name__ == "__main__":
    main()
