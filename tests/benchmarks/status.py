"""What `status` costs for a large sweep on object storage: 200 trials of 20 cycles each.

python -m tests.benchmarks.status        about a minute

Starts the real S3 server, writes what such a sweep leaves, and prints the seconds that `status` and the end of one
trial take to read, with the number of their requests. `without_copies` is `status` of a ledger of release 0.1, which
has no copies of the records of a trial.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cluster.object_store import client, object_store
from pipelines import status, storage
from pipelines.config.commands import StatusConfig
from pipelines.config.training import TuneConfig
from pipelines.regulation.ledger import COPY, Ledger, TrialEnd
from pipelines.run.claims import Claim
from pipelines.run.paths import RunPaths, trial_name
from pipelines.run.states import State
from pipelines.training import train
from pipelines.tuning import search, trials
from tests.benchmarks.orchestrator import CYCLES, TRIALS, records

RUN = "s3://benchmark/sweep"


def objects(config: TuneConfig) -> Iterator[tuple[str, bytes]]:
    """Yields URI and content of all that `status` may read of the sweep."""
    paths = RunPaths(config.out)
    yield paths.claim, _json(Claim(command="tune", config=config.model_dump(mode="json", exclude={"out"})).model_dump())
    epochs = [{"epoch": epoch, "time": 0.0, "val_mean_f1": 0.5} for epoch in range(1, config.num_epochs + 1)]
    for number in range(TRIALS):
        name, trial = trial_name(number), RunPaths(paths.trial(number))
        values = search.trial_config(config, trial.run, search.sample_values(config, number))
        values_ = values.model_dump(mode="json", exclude={"out"})
        yield trial.claim, _json(Claim(command="train", config=values_).model_dump())
        yield trial.metrics, "".join(json.dumps(record) + "\n" for record in epochs).encode()
        yield trial.result, _json({"command": "train", "exit_code": 0, "message": "done", "result": {}})
        yield trial.phases, _json({"phases": [{"kind": "exporting", "cycle": None, "began": 0.0}]})
        texts = {}
        for record in (*records(name), TrialEnd(trial=name, state=State.FINISHED)):
            texts[record.name] = record.model_dump_json()
            yield storage.join(paths.ledger, record.name), texts[record.name].encode()
        yield storage.join(paths.ledger, name, COPY), _json(texts)


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def measured(work: Callable[[], object]) -> dict[str, float]:
    """Seconds and number of requests of one call."""
    requests: list[str] = []
    fs, _ = storage.filesystem(RUN)
    events = fs.s3.meta.events
    events.register("before-call.s3", lambda model, **_: requests.append(model.name), unique_id="count")
    begin = time.perf_counter()
    work()
    seconds = time.perf_counter() - begin
    events.unregister("before-call.s3", unique_id="count")
    return {"s": round(seconds, 2), "requests": len(requests)}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, object_store(Path(folder) / "objects") as store:
        os.environ.update(store.environment)
        client(store.environment).mkdir("benchmark")
        config = TuneConfig.model_validate(
            {"data": "/data", "out": RUN, "num_trials": TRIALS, "csr": {"num_cycles": CYCLES, "cycle_epochs": 1}}
        )
        fs, _ = storage.filesystem(RUN)
        fs.pipe({uri.removeprefix("s3://"): data for uri, data in objects(config)})

        def check() -> None:
            found = status.run(StatusConfig(run=RUN))
            assert [len(trial["ensembles"]) for trial in found["trials"].values()] == TRIALS * [CYCLES + 1]

        result = {
            "status": measured(check),
            "end_of_a_trial": measured(lambda: train.best_ensemble(Ledger(RUN, "00007"), "00007")),
            "table_of_trials": measured(lambda: _table(config)),
        }
        fs.rm([f"{RUN}/ledger/{trial_name(number)}/{COPY}".removeprefix("s3://") for number in range(TRIALS)])
        sys.stdout.write(json.dumps(result | {"without_copies": measured(check)}) + "\n")


def _table(config: TuneConfig) -> None:
    with trials.prefetched(config):
        assert len(trials.trial_summaries(config)) == TRIALS


if __name__ == "__main__":
    main()
