"""DML-CSR face parsing on Ray: the only entry point.

python ray_job.py synth --out data/faces
python ray_job.py train --data data/faces --out runs/first
ray job submit --working-dir . -- python ray_job.py train --data s3://bucket/faces --out s3://bucket/runs/first
"""

import importlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from pipelines import config as configs
from pipelines.errors import OutputTakenError, RunFailedError, UserError
from pipelines.training_config import TrainConfig, TuneConfig


class Command(NamedTuple):
    """A command: its configuration and the module whose `run` does it and `summary` tells it to people."""

    config: type[configs.Config]
    module: str
    with_presets: bool = False
    writes: bool = True
    """Whether it has an output, which then gets the result too."""


COMMANDS = {
    "synth": Command(configs.SynthConfig, "pipelines.synth"),
    "ingest": Command(configs.IngestConfig, "pipelines.ingest"),
    "train": Command(TrainConfig, "pipelines.train", with_presets=True),
    "tune": Command(TuneConfig, "pipelines.tune", with_presets=True),
    "evaluate": Command(configs.EvaluateConfig, "pipelines.evaluate"),
    "relabel": Command(configs.RelabelConfig, "pipelines.relabel"),
    "predict": Command(configs.PredictConfig, "pipelines.predict"),
    "status": Command(configs.StatusConfig, "pipelines.status", writes=False),
    "import-weights": Command(configs.ImportWeightsConfig, "pipelines.import_weights"),
}


def usage() -> str:
    lines = [f"  {name:15} {(command.config.__doc__ or '').strip()}" for name, command in COMMANDS.items()]
    return "usage: ray_job.py COMMAND [options]; COMMAND --help tells its options\n\n" + "\n".join(lines)


def run(argv: Sequence[str]) -> None:
    """Runs one command and prints its result. Raises what the command raises."""
    from pipelines import options, outcome, session

    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return
    if argv[0] not in COMMANDS:
        raise UserError(f"unknown command {argv[0]!r}; there are {', '.join(COMMANDS)}")
    command = COMMANDS[argv[0]]
    flags = options.parse(argv[0], command.config, argv[1:], command.with_presets)
    if "print_config" in flags:
        print(options.resolved_yaml(command.config, flags), end="")
        return
    config = options.resolve(command.config, flags)
    session.tell_progress("%(asctime)s %(message)s")
    module = importlib.import_module(command.module)
    result: dict[str, Any] = outcome.committed(argv[0], config, module.run) if command.writes else module.run(config)
    sys.stderr.flush()
    print(json.dumps(result) if "json" in flags else module.summary(result), flush=True)


def main(argv: Sequence[str]) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong usage or bad input."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
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
    sys.exit(main(sys.argv[1:]))
