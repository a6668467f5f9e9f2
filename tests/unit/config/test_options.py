import re
import tomllib
from pathlib import Path

import pytest
import yaml

import ray_job
from dmlcsr.taxonomy import CELEBAMASK_HQ
from pipelines.config import options
from pipelines.errors import UserError
from pipelines.models import setup
from tests.support.commands import ROOT

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
        (["--preset", "lappa"], "unknown preset 'lappa'"),
        (["--config", "/nowhere.yaml"], "cannot read /nowhere.yaml"),
        (["--data", "gopher://x/y"], "local path, file:///path or s3://"),
        (["--data", ""], "local path, file:///path or s3://"),
        (["--seed"], "expected one argument"),
        (["--optimizer.lr", "inf"], "--optimizer.lr: .*finite"),
        (["--optimizer.lr", "["], "--optimizer.lr: .*number"),
        (["--data", "file://host/x"], "file:///path"),
        (["--held-out-fold", "5"], "--held-out-fold: expected K/N with K from 1 to N, as 2/5 .got '5'.$"),
        (
            ["--csr.initial-run", "/w"],
            "^csr.initial_run needs csr.num_cycles above 0: it replaces the phase before the cycles$",
        ),
        (["--config", "/dev/null"], "must hold a mapping"),
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


def test_several_sources_are_named_with_commas_or_in_a_list(tmp_path: Path):
    rest = ("--format", "helen", "--out", "/out")
    assert resolve("ingest", *rest, "--source", "/a #1, s3://b/k/,/2024").source == ("/a #1", "s3://b/k", "/2024")
    (tmp_path / "c.yaml").write_text("source: ['/a,b', /c]")
    assert resolve("ingest", *rest, "--config", str(tmp_path / "c.yaml")).source == ("/a,b", "/c")
    for text, message in (("/a,/a/", "named once"), ("", "cannot use ''"), ("/a,", "cannot use ''")):
        with pytest.raises(UserError, match=message):
            resolve("ingest", *rest, "--source", text)


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


def help_of(command):
    kind = ray_job.COMMANDS[command]
    return options.build_parser(command, kind.config, kind.with_presets).format_help()


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("evaluate", "--tta [{true,false}]"),
        ("tune", "--cluster.max-cpus FLOAT"),
        ("tune", "--search.lr LOW,HIGH"),
        ("train", "--optimizer.clip-norm FLOAT"),
        ("train", "--seed INT"),
        ("train", "--teacher URI"),
        ("train", "--held-out-fold K/N"),
        ("train", "--model.depth {18,34,50,101}"),
        ("relabel", "--folds INT"),
        ("relabel", "--splits SPLIT,..."),
        ("ingest", "--splits SPLIT=SHARE,..."),
        ("ingest", "--source URI,..."),
    ],
)
def test_help_tells_what_a_value_looks_like(command, line):
    assert re.search(rf"^  {re.escape(line)}(  |$)", help_of(command), re.MULTILINE)


def test_no_value_is_just_text():
    infos = [info for command in ray_job.COMMANDS.values() for _, info, _ in options.leaves(command.config)]
    assert "TEXT" not in {options.metavar(info) for info in infos}


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), (None, "null"), (0.5, "0.5"), ((0.3, 3.0), "0.3,3.0"), (("a", "b"), "a,b"), ({"a": 1}, "a=1")],
)
def test_a_value_is_shown_as_it_is_written_on_a_command_line(value, text):
    assert options.plain(value) == text


@pytest.mark.parametrize("command", ray_job.COMMANDS)
def test_every_default_that_is_shown_is_one_that_is_accepted(command):
    config = ray_job.COMMANDS[command].config
    infos = {name: info for name, info, _ in options.leaves(config)}
    required = {name: options.choices(info) for name, info in infos.items() if info.is_required()}
    given = {name: found[0] if found else "lapa" for name, found in required.items()}
    shown = {name: options.plain(info.default) for name, info in infos.items() if name not in required}
    arguments = [f"--{name}={text}" for name, text in given.items()]
    every = [*arguments, *(f"--{name}={text}" for name, text in shown.items())]
    assert resolve(command, *every) == resolve(command, *arguments)


def test_help_tells_a_default_once():
    text = help_of("evaluate")
    assert "(default: false)" in text and "(default: False)" not in text
    assert re.search(r"beside the model\.\n", text)


def test_help_begins_with_what_is_required_and_ends_with_what_all_commands_have():
    text = help_of("train")
    assert text.startswith("usage: ray_job.py train --data URI --out URI [options]\n")
    titles = re.findall(r"^(\S.*):$", text, re.MULTILINE)
    assert titles[:3] == ["required", "options", "model"] and titles[-1] == "of every command"
    required, common = text.partition("\noptions:")[0], text.partition("of every command:")[2]
    assert re.findall(r"^  (--\S+)", required, re.MULTILINE) == ["--data", "--out"]
    flags = ["--config", "--preset", "--json", "--verbose", "--log-level", "--print-config", "-h,"]
    assert re.findall(r"^  (-\S+)", common, re.MULTILINE) == flags


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["tarin"], "unknown command 'tarin'; did you mean 'train'?"),
        (["paln", "train"], "unknown command 'paln'; did you mean 'plan'?"),
        (["plan", "tarin"], "unknown command 'tarin'; did you mean 'train'?"),
        (["plan"], "`plan` needs the command that it plans; see `ray_job.py plan --help`"),
        (["xyzzy"], "unknown command 'xyzzy'; see `ray_job.py --help`"),
    ],
)
def test_a_wrong_command_is_one_sentence(argv, message, capsys):
    assert ray_job.main(argv) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_plan_explains_itself(capsys):
    assert ray_job.main(["plan", "--help"]) == 0
    assert "usage: ray_job.py plan COMMAND [options]" in capsys.readouterr().out


def test_the_version_is_that_of_the_project(capsys):
    assert ray_job.main(["--version"]) == 0
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert capsys.readouterr().out == f"{project['version']}\n"


def test_the_overview_has_every_command_in_a_group(capsys):
    assert ray_job.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert re.findall(r"^(\S+):$", text, re.MULTILINE) == ["data", "train", "inspect", "use", "set-up"]
    assert sorted(re.findall(r"^  (\S+)", text, re.MULTILINE)) == sorted([*ray_job.COMMANDS, ray_job.PLAN])
    verbs = "Make Pack Join Copy Write Train Search Score Show Predict Export Print Measure"
    assert set(re.findall(r"^  \S+ +(\S+)", text, re.MULTILINE)) == set(verbs.split())


def test_every_command_that_reads_a_data_set_takes_bases_that_have_moved():
    configs = {name: command.config.model_fields for name, command in ray_job.COMMANDS.items()}
    assert {name for name, fields in configs.items() if "base" in fields} == {"report"} | {
        name for name, fields in configs.items() if "data" in fields
    }
    argv = ("--model", "/m", "--data", "/d", "--out", "/o", "--base", "/a,s3://b/c")
    assert resolve("relabel", *argv).base == ("/a", "s3://b/c")


def test_relabel_mends_labels_unless_told_otherwise():
    config = resolve("relabel", "--model", "/m", "--data", "/d", "--out", "/o")
    assert (config.policy, config.actors.max_actors) == ("blend", None)
