"""The files and folders of a run directory."""

from dataclasses import dataclass

from pipelines import storage
from pipelines.config.base import Split

INITIAL_TRIAL = "initial"
"""Name of the run that all trials of a sweep start from: in the ledger, and as a folder of the sweep."""


@dataclass(frozen=True)
class RunPaths:
    """The URIs of all files in a run directory; docs/run-directory.md shows the tree and what writes each file.

    A trial of a sweep has a run directory too, `trials/<five digits>/`. Its ledger and the weights of its cycles are in
    the directory of the sweep.
    """

    run: str

    @property
    def claim(self) -> str:
        """The command, its configuration and its inputs. It is the first file that a command creates."""
        return storage.join(self.run, "claim.json")

    @property
    def config(self) -> str:
        """The configuration as YAML, for readers and for `--config`."""
        return storage.join(self.run, "config.yaml")

    @property
    def environment(self) -> str:
        """Versions of the software and the digest of the data set."""
        return storage.join(self.run, "environment.json")

    @property
    def cores(self) -> str:
        """The numbers of CPUs, decode tasks and threads of each worker that were chosen for the run."""
        return storage.join(self.run, "cores.json")

    @property
    def metrics(self) -> str:
        """One JSON object for each epoch."""
        return storage.join(self.run, "metrics.jsonl")

    @property
    def events(self) -> str:
        """The metrics as TensorBoard events."""
        return storage.join(self.run, "tensorboard", "events.out.tfevents.0.run")

    @property
    def phases(self) -> str:
        """Phases of the run with the times at which they began."""
        return storage.join(self.run, "phases.json")

    @property
    def logs(self) -> str:
        """The driver's lines, a file for each attempt."""
        return storage.join(self.run, "logs")

    @property
    def result(self) -> str:
        """The exit code, message and result of the command."""
        return storage.join(self.run, "result.json")

    @property
    def stopped(self) -> str:
        """Exists only if a sweep stopped this trial early."""
        return storage.join(self.run, "stopped.json")

    @property
    def checkpoints(self) -> str:
        """The checkpoints that Ray Train keeps: the latest and the one with the best validation score."""
        return storage.join(self.run, "checkpoints")

    @property
    def ledger(self) -> str:
        """Records of the orchestrator: `<trial>/<kind>-<cycle>.json`."""
        return storage.join(self.run, "ledger")

    @property
    def model(self) -> str:
        """The exported best model."""
        return storage.join(self.run, "model")

    @property
    def evaluations(self) -> str:
        """A folder with one subfolder for each `<data>-<split>` that was evaluated."""
        return storage.join(self.run, "evaluation")

    @property
    def initial_run(self) -> str:
        """The run whose last epoch all trials of a sweep with `soup` start from."""
        return storage.join(self.run, INITIAL_TRIAL)

    @property
    def best_config(self) -> str:
        """The configuration of the best trial of a sweep, for `train --config`."""
        return storage.join(self.run, "best.yaml")

    @property
    def trials_table(self) -> str:
        """The trials of a finished sweep with their states and scores."""
        return storage.join(self.run, "trials.json")

    @property
    def all_bad_rows(self) -> str:
        """The folder of the splits that have rows that cannot be used."""
        return storage.join(self.run, "bad_rows")

    def bad_rows(self, split: Split) -> str:
        """A folder with one record for each row of a split that cannot be used."""
        return storage.join(self.all_bad_rows, split)

    def trial(self, number: int) -> str:
        """The run directory of a sweep's trial."""
        return storage.join(self.run, "trials", trial_name(number))

    def weights(self, trial: str, cycle: int, kind: str) -> str:
        """The URI of weights of a cycle without its end `-<digest>.safetensors`."""
        return storage.join(self.run, "cycles", trial, f"{cycle:03d}-{kind}")


def trial_name(number: int) -> str:
    """The name of a sweep's trial: its number with five digits."""
    return f"{number:05d}"
