"""What a run directory holds, and where."""

from dataclasses import dataclass

from pipelines import storage

INITIAL_TRIAL = "initial"
"""The name in the ledger, and below the sweep, of the run that all trials start from."""


@dataclass(frozen=True)
class RunPaths:
    """Names the places below a run directory; docs/run-directory.md shows the tree and who writes what.

    A trial of a sweep is a run directory too, `trials/<five digits>/`; the sweep holds its ledger and its weights of
    cycles.
    """

    run: str

    @property
    def claim(self) -> str:
        """Command, configuration and inputs; created before all else."""
        return storage.join(self.run, "claim.json")

    @property
    def config(self) -> str:
        """The configuration as YAML, for people and `--config`."""
        return storage.join(self.run, "config.yaml")

    @property
    def environment(self) -> str:
        """Versions of the software, and the digest of the data set."""
        return storage.join(self.run, "environment.json")

    @property
    def metrics(self) -> str:
        """One JSON object for each epoch."""
        return storage.join(self.run, "metrics.jsonl")

    @property
    def events(self) -> str:
        """The same for TensorBoard."""
        return storage.join(self.run, "tensorboard", "events.out.tfevents.0.run")

    @property
    def phases(self) -> str:
        """What the run has been doing, and since when."""
        return storage.join(self.run, "phases.json")

    @property
    def logs(self) -> str:
        """The driver's lines, a file for each attempt."""
        return storage.join(self.run, "logs")

    @property
    def result(self) -> str:
        """How the command ended."""
        return storage.join(self.run, "result.json")

    @property
    def stopped(self) -> str:
        """Exists if a sweep stopped this trial early."""
        return storage.join(self.run, "stopped.json")

    @property
    def checkpoints(self) -> str:
        """Ray Train's: the latest, and the best validated one."""
        return storage.join(self.run, "checkpoints")

    @property
    def ledger(self) -> str:
        """Records of the orchestrator, `<trial>/<kind>-<cycle>.json`."""
        return storage.join(self.run, "ledger")

    @property
    def model(self) -> str:
        """The exported best model."""
        return storage.join(self.run, "model")

    @property
    def evaluations(self) -> str:
        """A folder for each `<data>-<split>` that was scored."""
        return storage.join(self.run, "evaluation")

    @property
    def initial_run(self) -> str:
        """The run whose last epoch all trials of a sweep with `soup` start from."""
        return storage.join(self.run, INITIAL_TRIAL)

    @property
    def best_config(self) -> str:
        """The configuration of a sweep's best trial, for `train --config`."""
        return storage.join(self.run, "best.yaml")

    @property
    def trials_table(self) -> str:
        """The trials of a finished sweep with their scores."""
        return storage.join(self.run, "trials.json")

    def trial(self, number: int) -> str:
        """The run directory of a sweep's trial."""
        return storage.join(self.run, "trials", trial_name(number))

    def weights(self, trial: str, cycle: int, kind: str) -> str:
        """Where weights of a cycle go, up to `-<digest>.safetensors`."""
        return storage.join(self.run, "cycles", trial, f"{cycle:03d}-{kind}")


def trial_name(number: int) -> str:
    """The name of a sweep's trial: its number with five digits."""
    return f"{number:05d}"
