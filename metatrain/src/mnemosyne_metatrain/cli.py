"""The command line: prepare, train, resume, evaluate, restore, ablate, export, report."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mnemosyne_metatrain.evaluation.commands import (
    add_ablate,
    add_evaluate,
    add_report,
    add_restore,
)

if TYPE_CHECKING:
    from mnemosyne_metatrain.config import RunConfig


def _prepare(arguments: argparse.Namespace) -> None:
    from mnemosyne_metatrain.data.cache import prepare

    for name, entry in prepare(arguments.out)["datasets"].items():
        print(f"{name:>14} {entry.get('sha256', entry.get('absent'))}  {entry.get('from', '')}")


def _train(arguments: argparse.Namespace) -> None:
    from mnemosyne_metatrain.config import load_config
    from mnemosyne_metatrain.training.trainer import Trainer

    trainer = Trainer(load_config(arguments.config), arguments.out)
    trainer.run(
        resume=arguments.command == "resume",
        until=arguments.until,
        seconds=arguments.seconds,
        minutes=arguments.minutes,
    )


def _evolve(arguments: argparse.Namespace) -> None:
    from mnemosyne_metatrain.config import load_config
    from mnemosyne_metatrain.training.evolution.evolve import evolve

    evolve(
        load_config(arguments.config),
        arguments.out,
        arguments.seconds,
        source=arguments.source,
        resume=arguments.resume,
    )


def _teach(arguments: argparse.Namespace) -> None:
    from mnemosyne_metatrain.config import load_config
    from mnemosyne_metatrain.training.teaching.teach import teach

    teach(
        load_config(arguments.config),
        arguments.out,
        arguments.seconds,
        resume=arguments.resume,
        rounds=arguments.rounds,
        source=arguments.source,
    )


def _variant(config: RunConfig, name: str | None) -> tuple[str, int]:
    """A variant's name and place; without a name the only one or the one called base.

    Raises:
        ValueError: If there is none, or several.
    """
    names = [variant.name for variant in config.variants]
    chosen = name or (names[0] if len(names) == 1 else "base")
    if chosen not in names:
        wrong = f"has no variant {chosen!r}" if name else "has several variants"
        raise ValueError(f"{config.name} {wrong}: --variant is one of {', '.join(names)}")
    return chosen, names.index(chosen)


def _export(arguments: argparse.Namespace) -> None:
    import jax

    from mnemosyne_metatrain.config import load_config
    from mnemosyne_metatrain.export import export
    from mnemosyne_metatrain.optimizers.base import Theta
    from mnemosyne_metatrain.optimizers.registry import make_optimizer
    from mnemosyne_metatrain.training.checkpoint import load_checkpoint
    from mnemosyne_metatrain.training.evolution.evolve import load_thetas
    from mnemosyne_metatrain.training.teaching.teach import taught_theta
    from mnemosyne_metatrain.training.trainer import init_population

    config = load_config(arguments.config)
    facts = {"run": config.name}
    if arguments.run is None and (arguments.taught or arguments.evolved is not None):
        raise ValueError("--taught and --evolved need --run, the folder of a run")
    if arguments.taught:
        theta = taught_theta(config, arguments.run)
    elif arguments.evolved is not None:
        index = arguments.evolved
        theta = jax.tree.map(lambda x: x[index], load_thetas(config, arguments.run))
        facts |= {"seed": str(index)}
    else:
        variant, index = _variant(config, arguments.variant)
        cores = init_population(config)
        facts |= {"variant": variant, "iterations": "0"}
        if arguments.run is not None:
            cores, iteration = load_checkpoint(arguments.run / "checkpoint.npz", cores)
            facts["iterations"] = str(iteration)
        theta = Theta(*jax.tree.map(lambda x: x[index], (cores.average, cores.theta.fixed)))
    optimizer = make_optimizer(config.optimizer)
    print(export(optimizer, theta, arguments.out, arguments.out.name, facts))


def _golden(arguments: argparse.Namespace) -> None:
    from mnemosyne_metatrain.golden import PLANS, write_golden, write_test_weights

    if arguments.test_weights:
        print(write_test_weights(arguments.test_weights, arguments.out))
    for weights in arguments.weights:
        for plan in arguments.plans.split(","):
            if plan not in PLANS:
                raise ValueError(
                    f"no such plan: {plan}; there are {', '.join(filter(None, PLANS))}"
                )
            print(write_golden(weights, arguments.out, PLANS[plan]))


def main(argv: list[str] | None = None) -> None:
    """Runs a subcommand."""
    parser = argparse.ArgumentParser(prog="mnemosyne-metatrain", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("prepare", help="make the cache of datasets from packages")
    command.add_argument("--out", type=Path, required=True, help="the cache; see MNEMOSYNE_DATA")
    command.set_defaults(run_command=_prepare)
    for name, summary in (
        ("train", "meta-train from a configuration"),
        ("resume", "go on from the checkpoint of a run"),
    ):
        command = commands.add_parser(name, help=summary)
        command.add_argument("config", type=Path)
        command.add_argument("--out", type=Path, required=True, help="folder of the run")
        command.add_argument("--until", type=int, help="last iteration of this leg")
        command.add_argument("--seconds", type=float, help="set the iterations by time instead")
        command.add_argument(
            "--minutes", type=float, help="time of this leg: it stops after a checkpoint before"
        )
        command.set_defaults(run_command=_train)
    add_evaluate(commands)
    add_report(commands)
    add_restore(commands)
    add_ablate(commands)
    command = commands.add_parser("evolve", help="meta-train by evolution over whole runs")
    command.add_argument("config", type=Path)
    command.add_argument("--out", type=Path, required=True, help="folder of the run")
    command.add_argument("--seconds", type=float, default=120, help="without compilation")
    command.add_argument("--source", type=Path, help="folder of an evolution to start from")
    command.add_argument("--resume", action="store_true", help="go on from the run's checkpoint")
    command.set_defaults(run_command=_evolve)
    command = commands.add_parser("teach", help="meta-train the decoder by pushes of its outputs")
    command.add_argument("config", type=Path)
    command.add_argument("--out", type=Path, required=True, help="folder of the run")
    command.add_argument("--seconds", type=float, default=240, help="without compilation")
    command.add_argument("--rounds", type=int, help="last round of this leg")
    command.add_argument("--source", type=Path, help="exported weights that teaching goes on from")
    command.add_argument("--resume", action="store_true", help="go on from the run's checkpoint")
    command.set_defaults(run_command=_teach)
    command = commands.add_parser("export", help="write weights that the daemon reads")
    command.add_argument("config", type=Path)
    command.add_argument("--run", type=Path, help="folder of the run; none is the start")
    command.add_argument("--variant", help="by default the only one, or base")
    command.add_argument("--evolved", type=int, help="the run is an evolution: index of its seed")
    command.add_argument("--taught", action="store_true", help="the run is one of `teach`")
    command.add_argument("--out", type=Path, required=True, help="models/<name>/<version>")
    command.set_defaults(run_command=_export)
    command = commands.add_parser("golden", help="write golden vectors of exported weights")
    command.add_argument("weights", type=Path, nargs="*", help="models/<name>/<version>/...")
    command.add_argument("--out", type=Path, required=True, help="folder of the vectors")
    command.add_argument("--plans", default="", help="of '', shapes, many, large; comma between")
    command.add_argument("--test-weights", help="write weights of this kind for tests instead")
    command.set_defaults(run_command=_golden)
    arguments = parser.parse_args(argv)
    try:
        arguments.run_command(arguments)
    except (OSError, ValueError) as error:
        # What these say names cause and cure; where it is raised is for who mends the program.
        if os.environ.get("MNEMOSYNE_DEBUG"):
            raise
        parser.exit(1, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
