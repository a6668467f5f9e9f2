"""DML-CSR face parsing on Ray: the entry point of every command.

If the package is installed, `dmlcsr` does the same as `python ray_job.py`. `python -m cluster.local` and
`python -m cluster.demo` start clusters on which the commands can be tried.

python ray_job.py synth --out data/faces
python ray_job.py train --data data/faces --out runs/first
ray job submit --working-dir . -- python ray_job.py train --data s3://bucket/faces --out s3://bucket/runs/first
"""

import importlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, NoReturn

from pipelines.config import commands as configs
from pipelines.config.base import Config
from pipelines.config.training import TrainConfig, TuneConfig
from pipelines.errors import OutputTakenError, RunFailedError, UserError

VERSION = "0.2.0"
"""The version in pyproject.toml. A job cannot query it, because its working directory is not an installed package."""


class Command(NamedTuple):
    """A command. `run(config)` in `module` executes it and returns a JSON-able dict; `summary(result)` formats it."""

    group: str
    config: type[Config]
    module: str
    with_presets: bool = False
    writes_folder: bool = True
    """True if `--out` is a folder, which then also receives result.json; `inspect`, `report`, `export`, `bench` write a
    file."""


COMMANDS = {
    "synth": Command("data", configs.SynthConfig, "pipelines.ingest.synth"),
    "ingest": Command("data", configs.IngestConfig, "pipelines.ingest.ingest"),
    "merge": Command("data", configs.MergeConfig, "pipelines.data.merge"),
    "copy": Command("data", configs.CopyConfig, "pipelines.data.copy"),
    "relabel": Command("data", configs.RelabelConfig, "pipelines.relabeling.relabel"),
    "train": Command("train", TrainConfig, "pipelines.training.train", with_presets=True),
    "tune": Command("train", TuneConfig, "pipelines.tuning.tune", with_presets=True),
    "evaluate": Command("inspect", configs.EvaluateConfig, "pipelines.inference.evaluate"),
    "inspect": Command("inspect", configs.InspectConfig, "pipelines.inspection.inspect", writes_folder=False),
    "report": Command("inspect", configs.ReportConfig, "pipelines.report", writes_folder=False),
    "status": Command("inspect", configs.StatusConfig, "pipelines.status", writes_folder=False),
    "predict": Command("use", configs.PredictConfig, "pipelines.inference.predict"),
    "export": Command("use", configs.ExportConfig, "pipelines.models.export", writes_folder=False),
    "import-weights": Command("set-up", configs.ImportWeightsConfig, "pipelines.models.import_weights"),
    "bench": Command("set-up", configs.BenchConfig, "pipelines.bench", writes_folder=False),
}


PLAN = "plan"
"""The word before another command that plans that command in place of running it."""
PLAN_HELP = "Print what a command would need and do, and what is missing for it, without running it."
HELP = ("-h", "--help")


def usage() -> str:
    """The text of `--help`: every command in its group."""
    lines = ["usage: ray_job.py COMMAND [options]; COMMAND --help lists its options, --version prints the version"]
    helps = {name: (command.group, command.config.__doc__ or "") for name, command in COMMANDS.items()}
    helps[PLAN] = ("set-up", PLAN_HELP)
    for group in dict.fromkeys(group for group, _ in helps.values()):
        lines += ["", f"{group}:", *(f"  {name:15} {text}" for name, (of, text) in helps.items() if of == group)]
    return "\n".join(lines)


def plan_usage() -> str:
    """The text of `plan --help`."""
    from pipelines.config import options

    example = "python ray_job.py plan train --preset cpu-small --data faces --out run"
    return (
        f"usage: ray_job.py {PLAN} COMMAND [options]\n\n{PLAN_HELP}\n\n"
        f"Write `{PLAN}` before a command and its options, as in `{example}`.\n"
        f"It takes one more option, `--images-per-second FLOAT`: {options.RATE_HELP}."
    )


def run(argv: Sequence[str]) -> None:
    """Runs one command and prints its result. Raises what the command raises."""
    from pipelines import storage
    from pipelines.config import options
    from pipelines.run import console

    if not argv or argv[0] in HELP:
        print(usage())
        return
    if argv[0] == "--version":
        print(VERSION)
        return
    is_plan = argv[0] == PLAN
    name, *arguments = argv[is_plan:] or [""]
    if is_plan and name in HELP:
        print(plan_usage())
        return
    command = _command(name, is_plan)
    flags = options.parse(name, command.config, arguments, command.with_presets, is_plan)
    if "print_config" in flags:
        print(options.resolved_yaml(command.config, flags), end="")
        return
    storage.doubt_endpoint()
    config = options.resolve(command.config, flags)
    if "log_level" in flags:
        os.environ[console.LOG_LEVEL] = flags.log_level
    with console.logging_to_console("verbose" in flags):
        if is_plan:
            result, summary = planned(name, config, vars(flags).get("images_per_second"))
        else:
            result, summary = done(name, config)
    print(json.dumps(result) if "json" in flags else summary, flush=True)


def _command(name: str, is_plan: bool) -> Command:
    """The command of that name. Raises UserError, which names the nearest command, if there is none."""
    from pipelines.config import options

    if name in COMMANDS:
        return COMMANDS[name]
    if is_plan and not name:
        raise UserError(f"`{PLAN}` needs the command that it plans; see `ray_job.py {PLAN} --help`")
    known = COMMANDS if is_plan else [*COMMANDS, PLAN]
    meant = options.nearest(name, known) or "; see `ray_job.py --help`"
    raise UserError(f"unknown command {name!r}{meant}")


def done(name: str, config: Config) -> tuple[Mapping[str, Any], str]:
    """Runs a command. Returns its result as a dict and as a text for a terminal."""
    from pipelines.run import result_file

    module = importlib.import_module(COMMANDS[name].module)
    is_committed = COMMANDS[name].writes_folder
    result: Mapping[str, Any] = (
        result_file.run_and_record(name, config, module.run) if is_committed else module.run(config)
    )
    return result, module.summary(result)


def planned(name: str, config: Config, rate: str | None) -> tuple[Mapping[str, Any], str]:
    """Plans a command of `rate` images per second. Returns its plan as a dict and as a text for a terminal."""
    from pipelines import plan

    result = plan.run(name, config, plan.images_per_second(rate))
    return result, plan.summary(result)


def main(argv: Sequence[str]) -> int:
    """Returns the exit code: 0 done, 1 failed, 2 wrong usage or bad input, 130 interrupted by Ctrl-C."""
    try:
        run(argv)
    except (UserError, OutputTakenError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunFailedError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130
    return 0


def command_line() -> NoReturn:
    """Runs the command in `sys.argv` and exits with its exit code. Entry point of `dmlcsr` and `python ray_job.py`."""
    from pipelines.run import console

    with nullcontext() if "--verbose" in sys.argv else console.native_output_kept():
        sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    command_line()
