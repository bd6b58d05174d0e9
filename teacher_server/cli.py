"""`teacher-server`: parse first, import torch afterwards, so that --help answers at once."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import tyro
from pydantic import ValidationError

from teacher_server.config import ServeConfig

USAGE = """usage: teacher-server COMMAND [options]

commands:
  serve     score students' responses over gRPC
  doctor    say what is wrong between here and a teacher
  token     make a token for a client
  score     score a data set's responses by a served teacher
  report    show what a data set's scores say, as one HTML file
  select    keep the rows of scored data that are worth training on

`teacher-server COMMAND --help` shows a command's options."""

WRONG_INPUT, FAILED = 2, 1


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns its exit status: 2 where the command line or configuration is wrong, 1 where the engine
    died or the doctor found something, else 0. `score` has more of them: see teacher_server/scoring/command.py.
    """
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else WRONG_INPUT
    command, *rest = arguments
    if command not in COMMANDS:
        print(f"unknown command {command!r}\n{USAGE}", file=sys.stderr)
        return WRONG_INPUT
    try:
        return COMMANDS[command](rest)
    except ValidationError as error:
        for wrong in error.errors():
            place = ".".join(map(str, wrong["loc"]))
            print(f"teacher-server {command}: {place}: {wrong['msg']}", file=sys.stderr)
        return WRONG_INPUT
    except (ValueError, OSError) as error:
        print(f"teacher-server {command}: {error}", file=sys.stderr)
        return WRONG_INPUT


def _serve(arguments: list[str]) -> int:
    config = _read_config(arguments)
    if not config.model:
        raise ValueError("no model given; say --model FOLDER_OR_HUB_ID or set it in the TOML file")
    return _run_serve(config)


def _doctor(arguments: list[str]) -> int:
    from teacher_server.doctor import DoctorConfig, examine

    config = tyro.cli(
        DoctorConfig,
        args=arguments,
        prog="teacher-server doctor",
        description="Say what is wrong between here and a teacher.",
    )
    return FAILED if examine(config) else 0


def _token(arguments: list[str]) -> int:
    from teacher_server.client_file import new_token

    parser = argparse.ArgumentParser(
        prog="teacher-server token",
        description="Make a token. It is shown once: the clients file keeps its hash alone.",
    )
    parser.add_argument("name", help="of the client, as it will stand in logs and metrics")
    name = parser.parse_args(arguments).name
    token, digest = new_token()
    print(f"# the client's token:\n{token}\n")
    print(
        f'# for --server.clients-file:\n[clients.{json.dumps(name, ensure_ascii=False)}]\ntoken_sha256 = "{digest}"'
    )
    return 0


def _score(arguments: list[str]) -> int:
    from teacher_server.scoring.config import ScoreConfig

    config = tyro.cli(
        ScoreConfig,
        args=arguments,
        prog="teacher-server score",
        description="Score a data set's responses by a served teacher: the visual dependency of every token.",
    )
    from teacher_server.scoring.command import score

    return score(config)


def _select(arguments: list[str]) -> int:
    from teacher_server.scoring.config import SelectConfig

    config = tyro.cli(
        SelectConfig,
        args=arguments,
        prog="teacher-server select",
        description="Keep the rows of scored data that are worth training on, as one Parquet file.",
    )
    from teacher_server.scoring.command import select

    return select(config)


def _report(arguments: list[str]) -> int:
    from teacher_server.scoring.report import ReportConfig, write_report

    config = tyro.cli(
        ReportConfig,
        args=arguments,
        prog="teacher-server report",
        description="Show what a data set's scores say, as one HTML file that opens from disk.",
    )
    print(f"open {write_report(config)}")
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "serve": _serve,
    "doctor": _doctor,
    "token": _token,
    "score": _score,
    "report": _report,
    "select": _select,
}


def _read_config(arguments: list[str]) -> ServeConfig:
    """TOML first (--config), then the other options over it. The kind of engine decides which options there are."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--engine.kind", dest="engine")
    known, rest = parser.parse_known_args(arguments)
    values = tomllib.loads(known.config.read_text()) if known.config else {}
    engine = values.setdefault("engine", {})
    if known.engine is not None:
        if engine.get("kind", known.engine) != known.engine:
            raise ValueError(
                f"{known.config} has settings for the {engine['kind']} engine, the command line asks for "
                f"{known.engine}; write a file for it"
            )
        engine["kind"] = known.engine
    return tyro.cli(
        tyro.conf.AvoidSubcommands[ServeConfig],
        args=rest,
        default=ServeConfig.model_validate(values),
        prog="teacher-server serve [--config TOML]",
        description="Serve a teacher over gRPC. Options override the TOML file given with --config.",
    )


def _run_serve(config: ServeConfig) -> int:
    logging.basicConfig(
        level=config.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    if not sys.stderr.isatty():  # in a log, bars for loading are noise
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
    from teacher_server.serve import EngineDied, serve

    try:
        serve(config)
    except EngineDied as error:
        print(f"teacher-server serve: {error}", file=sys.stderr)
        return FAILED
    return 0
