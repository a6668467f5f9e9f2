"""DML-CSR face parsing on Ray: the only entry point.

python ray_job.py synth --out data/faces
python ray_job.py train --data data/faces --out runs/first
ray job submit --working-dir . -- python ray_job.py train --data s3://bucket/faces --out s3://bucket/runs/first
"""

import importlib
import json
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from pipelines.config import commands as configs
from pipelines.config.base import Config
from pipelines.config.training import TrainConfig, TuneConfig
from pipelines.errors import OutputTakenError, RunFailedError, UserError


class Command(NamedTuple):
    """A command: its configuration and the module whose `run` does it and `summary` tells it to people."""

    config: type[Config]
    module: str
    with_presets: bool = False
    writes_folder: bool = True
    """Whether it has an output, which then gets the result too."""


COMMANDS = {
    "synth": Command(configs.SynthConfig, "pipelines.ingest.synth"),
    "ingest": Command(configs.IngestConfig, "pipelines.ingest.ingest"),
    "train": Command(TrainConfig, "pipelines.training.train", with_presets=True),
    "tune": Command(TuneConfig, "pipelines.tuning.tune", with_presets=True),
    "evaluate": Command(configs.EvaluateConfig, "pipelines.inference.evaluate"),
    "relabel": Command(configs.RelabelConfig, "pipelines.relabeling.relabel"),
    "predict": Command(configs.PredictConfig, "pipelines.inference.predict"),
    "report": Command(configs.ReportConfig, "pipelines.report", writes_folder=False),
    "export": Command(configs.ExportConfig, "pipelines.models.export", writes_folder=False),
    "bench": Command(configs.BenchConfig, "pipelines.bench", writes_folder=False),
    "status": Command(configs.StatusConfig, "pipelines.status", writes_folder=False),
    "import-weights": Command(configs.ImportWeightsConfig, "pipelines.models.import_weights"),
}


PLAN = "plan"
"""Stands before another command, and tells what that would need and do."""


def usage() -> str:
    lines = [f"  {name:15} {(command.config.__doc__ or '').strip()}" for name, command in COMMANDS.items()]
    lines.append(
        f"  {PLAN:15} `plan COMMAND [options]`: what the command would need and do, and what is missing for it."
    )
    return "usage: ray_job.py COMMAND [options]; COMMAND --help tells its options\n\n" + "\n".join(lines)


def run(argv: Sequence[str]) -> None:
    """Runs one command and prints its result. Raises what the command raises."""
    from pipelines.config import options
    from pipelines.run import console

    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return
    is_plan = argv[0] == PLAN
    name, *arguments = argv[is_plan:] or [""]
    if name not in COMMANDS:
        raise UserError(f"unknown command {name!r}; there are {', '.join(COMMANDS)}, and {PLAN} before one of them")
    command = COMMANDS[name]
    flags = options.parse(name, command.config, arguments, command.with_presets)
    if "print_config" in flags:
        print(options.resolved_yaml(command.config, flags), end="")
        return
    config = options.resolve(command.config, flags)
    with console.logging_to_console("verbose" in flags):
        result, summary = planned(name, config) if is_plan else done(name, config)
    print(json.dumps(result) if "json" in flags else summary, flush=True)


def done(name: str, config: Config) -> tuple[dict[str, Any], str]:
    """Runs a command; its result for machines and for people."""
    from pipelines.run import result_file

    module = importlib.import_module(COMMANDS[name].module)
    is_committed = COMMANDS[name].writes_folder
    result: dict[str, Any] = (
        result_file.run_and_record(name, config, module.run) if is_committed else module.run(config)
    )
    return result, module.summary(result)


def planned(name: str, config: Config) -> tuple[dict[str, Any], str]:
    """The same for its plan."""
    from pipelines import plan

    result = plan.run(name, config)
    return result, plan.summary(result)


def main(argv: Sequence[str]) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong usage or bad input."""
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


if __name__ == "__main__":
    if "--verbose" not in sys.argv:
        from pipelines.run import console

        console.silence_native_code()
    sys.exit(main(sys.argv[1:]))
