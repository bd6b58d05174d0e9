"""`student-trainer`: parse first, import torch afterwards, so that --help answers at once."""

from __future__ import annotations

import argparse
import itertools
import logging
import signal
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro
from pydantic import ValidationError

from protos.errors import TeacherError
from student_trainer.config import TrainConfig
from student_trainer.demo_config import DemoConfig
from student_trainer.errors import RunInterrupted, TeacherGone, TrainerError
from student_trainer.geometry_config import GeometryConfig
from student_trainer.report_config import ReportConfig
from student_trainer.run_folder import RunFolder
from student_trainer.sampler_config import Sampling
from student_trainer.settings import Settings

USAGE = """usage: student-trainer COMMAND [options]

commands:
  train     distil a student from a served teacher
  demo      start a teacher, train twice (standard and vgs-lp), write a report
  report    compare runs on one page
  geometry  measure the angles between the terms' gradients in a run's checkpoint

`student-trainer COMMAND --help` shows a command's options."""

WRONG_INPUT, FAILED = 2, 1
TEACHER_GONE = 75
"""EX_TEMPFAIL of sysexits.h: the same command with --resume may well succeed later."""
INTERRUPTED = 130
"""As a shell says it of Ctrl-C; of SIGTERM too."""


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns its exit status: 0, 1 where the run failed, 2 where settings are wrong, 75 where the
    teacher stayed away, 130 where a signal ended it.
    """
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else WRONG_INPUT
    command, *rest = arguments
    if command not in COMMANDS:
        print(f"unknown command {command!r}\n{USAGE}", file=sys.stderr)
        return WRONG_INPUT
    settings, run = COMMANDS[command]
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # As the first process of a container nothing else would end it.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        run(_read_config(command, settings, rest))
    except TeacherGone as error:
        print(f"student-trainer {command}: {error}", file=sys.stderr)
        return TEACHER_GONE
    except RunInterrupted as error:
        print(f"student-trainer {command}: {error}", file=sys.stderr)
        return INTERRUPTED
    except (TeacherError, TrainerError) as error:
        print(f"student-trainer {command}: {error}", file=sys.stderr)
        return FAILED
    except ValidationError as error:
        for wrong in error.errors():
            place = ".".join(map(str, wrong["loc"]))
            print(f"student-trainer {command}: {place}: {wrong['msg']}", file=sys.stderr)
        return WRONG_INPUT
    except (ValueError, OSError) as error:
        print(f"student-trainer {command}: {error}", file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _read_config(command: str, settings: type[Settings], arguments: list[str]) -> Any:
    """TOML first (--config), then the other options over it."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config", type=Path)
    known, rest = parser.parse_known_args(arguments)
    values = tomllib.loads(known.config.read_text()) if known.config else {}
    if settings is GeometryConfig:
        values = _of_its_run(rest) | values
    _set_kinds(values, rest)
    return tyro.cli(
        settings,
        args=rest,
        default=settings.model_validate(values),
        prog=f"student-trainer {command} [--config TOML]",
        description=f"{settings.__doc__} Options override the TOML file given with --config.",
    )


def _set_kinds(values: dict[str, Any], arguments: list[str]) -> None:
    """Put `--sampler.kind vllm` into the tables: the kind decides which other options there are."""
    for option, value in itertools.pairwise(arguments):
        if option.startswith("--") and option.endswith(".kind"):
            table = values
            for name in option[2:].split(".")[:-1]:
                table = table.setdefault(name, {})
            table["kind"] = value


def _of_its_run(arguments: list[str]) -> dict[str, Any]:
    """What the run of `--run` was started with, as far as a measurement takes it over."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--run", type=Path, default=Path())
    parser.add_argument("--sampler.kind", dest="kind")
    said = parser.parse_known_args(arguments)[0]
    settings = RunFolder(said.run).settings
    taken = ("device", "threads", "sampler", "teacher")
    values = {name: settings[name] for name in taken if name in settings}
    if said.kind and "sampler" in values:  # another kind shares but a few settings with the run's
        shared = {n: v for n, v in values["sampler"].items() if n in Sampling.model_fields}
        values["sampler"] = (
            values["sampler"] if said.kind == values["sampler"].get("kind") else shared
        )
    return values


def _quiet_progress_bars() -> None:
    """Transformers draws bars for loading and saving; in a log they are noise."""
    if not sys.stderr.isatty():
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()


def _train(config: TrainConfig) -> None:
    if not config.model or not config.data.train:
        raise ValueError(
            "say which student (--model) and which rows (--data.train), or set them in --config"
        )
    _quiet_progress_bars()
    from student_trainer.interruption import Interruption
    from student_trainer.train import train

    interruption = Interruption()
    with interruption.listening():
        print(f"student saved in {train(config, interruption)}")


def _demo(config: DemoConfig) -> None:
    _quiet_progress_bars()
    from student_trainer.demo import demo

    demo(config)


def _report(config: ReportConfig) -> None:
    from student_trainer.runs_report import runs_report

    print(f"report: {runs_report(config)}")


def _geometry(config: GeometryConfig) -> None:
    _quiet_progress_bars()
    from student_trainer.geometry_table import geometry_table
    from student_trainer.run_geometry import run_geometry

    print(geometry_table(run_geometry(config)))


COMMANDS: dict[str, tuple[type[Settings], Callable[[Any], None]]] = {
    "train": (TrainConfig, _train),
    "demo": (DemoConfig, _demo),
    "report": (ReportConfig, _report),
    "geometry": (GeometryConfig, _geometry),
}
