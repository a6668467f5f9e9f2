from pathlib import Path

import pytest
import yaml

import ray_job
from dmlcsr.taxonomy import CELEBAMASK_HQ
from pipelines.config import options
from pipelines.errors import UserError
from pipelines.models import setup

PRESETS = options.preset_names()


def resolve(command, *argv):
    kind = ray_job.COMMANDS[command]
    flags = options.parse(command, kind.config, argv, kind.with_presets)
    return options.resolve(kind.config, flags)


def train(*argv):
    return resolve("train", "--data", "/d", "--out", "/o", *argv)


def test_all_promised_presets_exist():
    assert PRESETS == ["celebamask_hq", "cpu-small", "cpu-smoke", "helen", "lapa"]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_loaded_and_built(preset):
    config = train("--preset", preset)
    network = setup.build_network(config, CELEBAMASK_HQ)
    optimizer = setup.build_optimizer(network, config.optimizer)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(network.parameters()))
    assert setup.model_card(config, CELEBAMASK_HQ).preprocessing.size == config.input.size


@pytest.mark.parametrize("preset", ["celebamask_hq", "helen", "lapa"])
def test_published_presets_are_the_published_recipe(preset):
    config = train("--preset", preset)
    assert (config.model.depth, config.model.width, config.input.size) == (101, 1.0, 473)
    assert (config.optimizer.name, config.optimizer.lr, config.optimizer.momentum) == ("sgd", 1e-3, 0.9)
    assert (config.optimizer.batch_size, config.workers.num_workers) == (7, 4)
    loss = config.loss
    assert (
        loss.parsing,
        loss.binary_edge,
        loss.category_edge,
        loss.binary_edge_attention,
        loss.category_edge_attention,
    ) == (
        1,
        1,
        0.1,
        4,
        1,
    )


def test_the_defaults_of_train_are_cpu_small():
    assert train() == train("--preset", "cpu-small")


def test_flags_win_over_file_over_preset(tmp_path: Path):
    file = tmp_path / "c.yaml"
    file.write_text("seed: 5\noptimizer: {lr: 1e-2, batch_size: 3}\n")
    config = train("--preset", "lapa", "--config", str(file), "--optimizer.batch-size", "9")
    assert (config.seed, config.optimizer.lr, config.optimizer.batch_size) == (5, 0.01, 9)
    assert config.optimizer.momentum == 0.9 and config.model.depth == 101


def test_underscores_and_equals_signs_are_understood():
    assert train("--optimizer.batch_size=3").optimizer.batch_size == 3


def test_printed_configuration_is_a_configuration(tmp_path: Path):
    command = ray_job.COMMANDS["train"]
    flags = options.parse("train", command.config, ["--preset", "helen", "--seed", "3"], True)
    file = tmp_path / "c.yaml"
    file.write_text(options.resolved_yaml(command.config, flags))
    assert "data" not in yaml.safe_load(file.read_text())
    assert train("--config", str(file)) == train("--preset", "helen", "--seed", "3")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--optimizer.learning-rate", "1"], "unknown argument '--optimizer.learning-rate'"),
        (["--optimzer.lr", "1"], "did you mean '--optimizer.lr'"),
        (["--optimizer.lr", "-1"], r"--optimizer.lr: .*greater than 0"),
        (["--optimizer.lr", "fast"], r"--optimizer.lr: .*number"),
        (["--model.depth", "19"], "18, 34, 50 or 101"),
        (["--schedule.epochs", "2", "--schedule.warmup-epochs", "2"], "must be smaller than epochs"),
        (["--preset", "lappa"], "no preset 'lappa'"),
        (["--config", "/nowhere.yaml"], "cannot read /nowhere.yaml"),
        (["--data", "gopher://x/y"], "local path, file:///path or s3://"),
        (["--data", ""], "local path, file:///path or s3://"),
        (["--seed"], "expected one argument"),
        (["--optimizer.lr", "inf"], "--optimizer.lr: .*finite"),
        (["--optimizer.lr", "["], "--optimizer.lr: .*number"),
        (["--data", "file://host/x"], "file:///path"),
    ],
)
def test_wrong_usage_is_one_sentence(argv, message):
    with pytest.raises(UserError, match=message):
        train(*argv)


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "\x00", "seed: {a: 1}", "modle: {depth: 18}", "- x", "a: &a [*a]"])
def test_a_bad_configuration_file_is_one_sentence(tmp_path: Path, text: str):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        train("--config", str(file))
    assert "\n" not in str(error.value)


def test_missing_required_values_are_named():
    with pytest.raises(UserError, match="--data is required; --out is required"):
        resolve("train")


def test_text_is_taken_to_the_letter():
    assert resolve("evaluate", "--model", "/m", "--data", "/d", "--out", "/x/my run #2").out == "/x/my run #2"
    assert resolve("evaluate", "--model", "/m", "--data", "/d", "--out", "null").out is None


@pytest.mark.parametrize("text", ["optimizer:", "optimizer: null"])
def test_an_empty_section_is_as_if_it_were_not_there(tmp_path: Path, text: str):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    assert train("--config", str(file), "--optimizer.lr", "1").optimizer.lr == 1


def test_local_paths_become_absolute_and_s3_stays():
    config = resolve("evaluate", "--model", "runs/../runs/x", "--data", "s3://b/k/")
    assert Path(config.model).is_absolute() and config.model.endswith("/runs/x") and ".." not in config.model
    assert config.data == "s3://b/k"


def test_relative_paths_are_refused_inside_a_job(monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(UserError, match="relative path"):
        resolve("evaluate", "--model", "runs/x", "--data", "/d")


def test_every_value_has_a_help_text():
    for command in ray_job.COMMANDS.values():
        assert all(info.description for _, info, _ in options.leaves(command.config))
