"""`cosyjax train --config FILE[:k=v,...] --workdir DIR [--set a.b=c ...]`."""

from __future__ import annotations

import argparse
import inspect
import runpy
from pathlib import Path
from typing import Any

from cosyjax.config import override, parse_value
from cosyjax.errors import InputError, nearest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "--config", required=True, help="a file with get_config(), e.g. configs/smoke.py:stage=lm"
    )
    parser.add_argument(
        "--workdir", type=Path, required=True, help="checkpoints and metrics; resumed if it has any"
    )
    parser.add_argument(
        "--set",
        dest="assignments",
        metavar="A.B=C",
        nargs="+",
        action="extend",
        default=[],
        help="changes of the config, e.g. num_steps=20 optimizer.peak_lr=1e-4",
    )
    parser.add_argument(
        "--no-resume", action="store_true", help="start anew; the run before is moved aside"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")
    parser.add_argument(
        "--coordinator",
        help="host:port of process 0, where there are several; auto: ask the TPU VM",
    )
    parser.add_argument("--process", type=int, help="number of this process")
    parser.add_argument("--num-processes", type=int, help="how many processes there are")
    parser.add_argument(
        "--stopped-status",
        type=int,
        default=0,
        help="exit status where SIGTERM came before the last step (default 0), for a scheduler "
        "that starts anew what did not end with 0",
    )


def run(args: argparse.Namespace) -> int:
    """Trains a stage."""
    from cosyjax.train import distributed

    distributed.start(args.coordinator, args.process, args.num_processes)
    from cosyjax.infer.compute import enable_compilation_cache
    from cosyjax.train.loop import train

    enable_compilation_cache()  # a run that goes on has compiled its steps before
    config = read_config_file(args.config)
    for assignment in args.assignments:
        config = override(config, assignment)
    tell = (lambda line: None) if args.quiet else (lambda line: print(line, flush=True))
    state = train(config, args.workdir, resume=not args.no_resume, tell=tell)
    return 0 if int(state.step) >= config.num_steps else args.stopped_status


def read_config_file(words: str) -> Any:
    """Calls `get_config` of "FILE" or "FILE:key=value,...".

    Raises:
      InputError: no such file, no get_config in it, or an argument that it does not take.
    """
    name, _, rest = words.partition(":")
    path = Path(name)
    if not path.is_file():
        raise InputError(f"--config {name}: no such file")
    get_config = runpy.run_path(str(path)).get("get_config")
    if get_config is None:
        raise InputError(f"--config {name}: the file has no get_config()")
    allowed = list(inspect.signature(get_config).parameters)
    values = {}
    for part in filter(None, rest.split(",")):
        key, sep, text = part.partition("=")
        if not sep:
            raise InputError(f"--config {words}: {part!r} is not key=value")
        if key not in allowed:
            raise InputError(f"--config {name} takes no {key!r}; {nearest(key, allowed)}")
        values[key] = parse_value(text)
    return get_config(**values)
