"""One way to claim an output, and what an interrupted command continues with."""

import threading
from typing import Literal

import pytest

from pipelines import storage
from pipelines.config.base import Config, Uri
from pipelines.config.commands import IngestConfig
from pipelines.config.training import TrainConfig, TuneConfig
from pipelines.errors import OutputTakenError
from pipelines.run import claims, lock, result_file

DATA = {"data": "digest"}


def config(out, **more):
    return TrainConfig.model_validate({"data": "/data", "out": str(out)} | more)


def claim(config, inputs=DATA, may_differ=("workers",)):
    with claims.claim_output("train", config, config.out, inputs, may_differ) as claimed:
        return claimed


def test_a_run_belongs_to_one_configuration_and_one_data_set(tmp_path):
    out = tmp_path / "run"
    assert not claim(config(out)).resumed
    assert claim(config(out)).resumed
    with pytest.raises(OutputTakenError, match=r"was begun with optimizer.lr = 0.002, not 0.1"):
        claim(config(out, optimizer={"lr": 0.1}))
    with pytest.raises(OutputTakenError, match="was made from another --data than the present content of /data"):
        claim(config(out), {"data": "another"})
    with pytest.raises(OutputTakenError, match="holds the output of `train`"):
        claims.find_claim("tune", TuneConfig(data="/data", out=str(out)), str(out), DATA)


def test_a_run_goes_on_with_its_stored_configuration(tmp_path):
    first = config(tmp_path, optimizer={"lr": 0.1}, seed=3, workers={"num_workers": 2, "decode_tasks": 3})
    assert claim(first).config == first
    again = claim(config(tmp_path)).config
    assert again == first, "what is not given now is taken from the claim, whatever the defaults are"


def test_a_claim_of_earlier_releases_names_one_source(tmp_path):
    out = str(tmp_path)
    config = IngestConfig.model_validate({"format": "helen", "source": "/faces", "out": out})
    stored = config.model_dump(mode="json", exclude={"out"})
    assert stored["source"] == ["/faces"]
    storage.write_json(
        f"{out}/claim.json", {"format_version": 2, "command": "ingest", "config": stored | {"source": "/faces"}}
    )
    assert claims.find_claim("ingest", config, out) == config
    with pytest.raises(OutputTakenError, match="was begun with source = /faces, not /faces,/more;"):
        claims.find_claim("ingest", config.model_copy(update={"source": ("/faces", "/more")}), out)


def test_a_run_may_go_on_with_other_workers(tmp_path):
    claim(config(tmp_path, workers={"num_workers": 2, "decode_tasks": 3}))
    again = claim(config(tmp_path, workers={"num_workers": 4})).config
    assert (again.workers.num_workers, again.workers.decode_tasks) == (4, 3)


class Before(Config):
    """A command's options in one release."""

    out: Uri
    size: int = 1
    kept: int = 5


class After(Before):
    """The same in the next release: an option more, another default."""

    size: int = 2
    mode: Literal["old", "new"] = "old"


def test_a_new_option_and_a_changed_default_leave_what_was_begun_before_as_it_is(tmp_path):
    out = str(tmp_path)
    with claims.claim_output("synth", Before(out=out), out):
        pass
    with claims.claim_output("synth", After(out=out), out) as (found, resumed):
        assert resumed and (found.size, found.mode, found.kept) == (1, "old", 5)
    with pytest.raises(OutputTakenError, match="mode = old, not new"):
        claims.find_claim("synth", After(out=out, mode="new"), out)
    with pytest.raises(OutputTakenError, match="size = 1, not 2"):
        claims.find_claim("synth", After(out=out, size=2), out)


def test_an_option_that_is_gone_is_one_sentence(tmp_path):
    out = str(tmp_path)
    claims.write_claim("synth", After(out=out), out)
    with pytest.raises(OutputTakenError, match=r"a configuration that this release cannot read \(mode: "):
        claims.find_claim("synth", Before(out=out), out)


def test_a_claim_of_a_later_release_names_the_versions(tmp_path):
    claim(config(tmp_path))
    content = storage.read_json(f"{tmp_path}/claim.json")
    storage.write_json(f"{tmp_path}/claim.json", content | {"format_version": 3})
    with pytest.raises(OutputTakenError, match=r"claim\.json has format version 3; this release reads 2"):
        claim(config(tmp_path))


@pytest.mark.parametrize("content", ["", "[", "[1]", "{}", '{"format_version": 2}'])
def test_a_damaged_claim_is_one_sentence(tmp_path, content):
    (tmp_path / "claim.json").write_text(content)
    with pytest.raises(OutputTakenError, match=r"claim\.json"):
        claim(config(tmp_path))


def test_files_of_somebody_else_are_never_written_to(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    for begin in (
        claims.claim_output("train", config(tmp_path), str(tmp_path), DATA),
        claims.claim_anew("predict", config(tmp_path), str(tmp_path)),
    ):
        with pytest.raises(OutputTakenError, match="is not empty"), begin:
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_what_a_driver_leaves_that_is_killed_before_its_claim_is_free(tmp_path):
    storage.write_json(f"{tmp_path}/owner.json", {"id": "0" * 32})  # damaged, so its driver counts as dead
    (tmp_path / ".claim.json.0123").write_text("half")
    assert not claim(config(tmp_path)).resumed


def test_a_command_that_begins_again_replaces_its_own_output_only(tmp_path):
    for number in (1, 2):
        with claims.claim_anew("predict", config(tmp_path, seed=number), str(tmp_path)):
            assert result_file.read(str(tmp_path))["message"] == "unfinished"
    assert storage.read_json(f"{tmp_path}/claim.json")["config"]["seed"] == 2
    with pytest.raises(OutputTakenError, match="output of `predict`"):
        claim(config(tmp_path))
    with (
        pytest.raises(OutputTakenError, match="output of `predict`"),
        claims.claim_anew("evaluate", config(tmp_path), str(tmp_path)),
    ):
        pass


def test_of_two_submits_at_once_the_loser_leaves_nothing_of_its_configuration(tmp_path):
    together, ended = threading.Barrier(2), threading.Barrier(2)
    won, lost = [], []

    def submit(seed):
        together.wait()
        try:
            with claims.claim_output("train", config(tmp_path, seed=seed), str(tmp_path), DATA):
                won.append(seed)
                ended.wait()
        except OutputTakenError:
            lost.append(seed)
            ended.wait()

    threads = [threading.Thread(target=submit, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == len(lost) == 1
    assert storage.read_json(f"{tmp_path}/claim.json")["config"]["seed"] == won[0]
    assert not storage.exists(f"{tmp_path}/{lock.OWNER}")
