"""The command line: prepare, train, resume, evaluate, ablate, export, report."""

from __future__ import annotations

import argparse
from pathlib import Path

from mnemosyne_metatrain.evaluation.commands import add_ablate, add_evaluate, add_report


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
    from mnemosyne_metatrain.training.evolve import Evolution, evolve

    plan = Evolution(
        pairs=arguments.pairs, tasks=arguments.tasks, rate=arguments.rate, sigma=arguments.sigma
    )
    evolve(
        load_config(arguments.config),
        arguments.variant,
        arguments.run,
        arguments.out,
        plan,
        arguments.seconds,
        arguments.seed,
    )


def _calibrate(arguments: argparse.Namespace) -> None:
    from mnemosyne_metatrain.evaluation.calibrate import calibrate

    ranking = calibrate(
        arguments.config,
        arguments.run,
        arguments.baselines,
        arguments.out,
        arguments.version,
        arguments.wait,
    )
    for score, name in ranking:
        print(f"{score:+.4f} {name}", flush=True)


def _export(arguments: argparse.Namespace) -> None:
    import jax

    from mnemosyne_metatrain.config import load_config
    from mnemosyne_metatrain.evaluation.calibrate import chosen_theta
    from mnemosyne_metatrain.export import export
    from mnemosyne_metatrain.optimizers.base import Theta
    from mnemosyne_metatrain.optimizers.registry import make_optimizer
    from mnemosyne_metatrain.training.checkpoint import load_checkpoint
    from mnemosyne_metatrain.training.trainer import init_population

    config = load_config(arguments.config)
    cores, iteration = load_checkpoint(arguments.run / "checkpoint.npz", init_population(config))
    index = [variant.name for variant in config.variants].index(arguments.variant)
    optimizer = make_optimizer(config.optimizer)
    facts = {"run": config.name, "variant": arguments.variant, "iterations": str(iteration)}
    if arguments.factor == 1.0 and arguments.temper == 1.0:
        pair = jax.tree.map(lambda x: x[index], (cores.average, cores.theta.fixed))
        theta = Theta(*pair)
    else:
        facts |= {"eta_factor": str(arguments.factor), "eta_temper": str(arguments.temper)}
        theta = chosen_theta(cores, index, arguments.factor, arguments.temper)
    print(export(optimizer, theta, arguments.out, arguments.out.name, facts))


def _golden(arguments: argparse.Namespace) -> None:
    from mnemosyne_metatrain.golden import write_golden

    for weights in arguments.weights:
        print(write_golden(weights, arguments.out))


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
    add_ablate(commands)
    command = commands.add_parser("evolve", help="second phase: step sizes over whole runs")
    command.add_argument("config", type=Path)
    command.add_argument("--run", type=Path, required=True, help="folder of the first phase")
    command.add_argument("--out", type=Path, required=True, help="folder of the result")
    command.add_argument("--variant", default="base")
    command.add_argument("--seconds", type=float, default=120)
    command.add_argument("--pairs", type=int, default=16)
    command.add_argument("--tasks", type=int, default=12)
    command.add_argument("--rate", type=float, default=0.01)
    command.add_argument("--sigma", type=float, default=0.03)
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(run_command=_evolve)
    command = commands.add_parser("calibrate", help="choose variant and step-size knobs, export")
    command.add_argument("config", type=Path)
    command.add_argument("--run", type=Path, required=True, help="folder of the run")
    command.add_argument("--baselines", type=Path, required=True, help="records with Adam's runs")
    command.add_argument("--out", type=Path, required=True, help="folder of the exported weights")
    command.add_argument("--version", default="0.1.0")
    command.add_argument("--wait", action="store_true", help="wait for the run to end")
    command.set_defaults(run_command=_calibrate)
    command = commands.add_parser("export", help="write weights that the daemon reads")
    command.add_argument("config", type=Path)
    command.add_argument("--run", type=Path, required=True, help="folder of the run")
    command.add_argument("--variant", default="base")
    command.add_argument("--factor", type=float, default=1.0, help="of the prior step sizes")
    command.add_argument("--temper", type=float, default=1.0, help="of the decoded log step size")
    command.add_argument("--out", type=Path, required=True, help="models/<name>/<version>")
    command.set_defaults(run_command=_export)
    command = commands.add_parser("golden", help="write golden vectors of exported weights")
    command.add_argument("weights", type=Path, nargs="+", help="models/<name>/<version>/...")
    command.add_argument("--out", type=Path, required=True, help="folder of the vectors")
    command.set_defaults(run_command=_golden)
    arguments = parser.parse_args(argv)
    arguments.run_command(arguments)


if __name__ == "__main__":
    main()
