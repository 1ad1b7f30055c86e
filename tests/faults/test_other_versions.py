"""config.json of an older or newer version of the program, or damaged."""

import copy
import json
import pathlib
import re
import shutil

import pytest

from tests.conftest import REPOSITORY, make_config
from tests.faults.conftest import OVERRIDES, assert_ended_as, assert_one_line
from vae_jax import config as configuration
from vae_jax import doctor, evaluation, experiment, training
from vae_jax.errors import UserError

# Runs of earlier versions of this repository.
COMMITTED = sorted(REPOSITORY.glob("workdir/**/config.json"))
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def run(undisturbed, tmp_path) -> pathlib.Path:
    """A copy of the complete run without its last checkpoint."""
    workdir = shutil.copytree(undisturbed, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "24")
    return workdir


def edit(workdir: pathlib.Path, change) -> None:
    path = workdir / configuration.CONFIG_FILE
    content = json.loads(path.read_text())
    content["provenance"]["git_commit"] = COMMIT
    change(content)
    path.write_text(json.dumps(content))


def remove_added_keys(content: dict) -> None:
    for key in configuration.ADDED_KEYS:
        *section, name = key.split(".")
        parent = content["config"][section[0]] if section else content["config"]
        del parent[name]
    assert content["config"].pop("prior") == {}
    del content[configuration.DATA_HASH]


@pytest.fixture(params=["training", "evaluation", "diagnosis"])
def use(request, data_dir):
    """What can be done with a workdir, in this process, which takes less time than a command."""

    def train(workdir: pathlib.Path) -> None:
        config = make_config(data_dir, **OVERRIDES)
        training.train_and_evaluate(config, workdir, evaluation.validate)

    uses = {"training": train, "evaluation": evaluation.run, "diagnosis": doctor.diagnose_workdir}
    return uses[request.param]


def set_key(key: str, value):
    def change(content: dict) -> None:
        section, name = key.split(".")
        content["config"].setdefault(section, {})[name] = value

    return change


def test_run_that_lacks_every_added_key_goes_on(runs, undisturbed, run):
    edit(run, remove_added_keys)
    completed = runs.train(run)
    assert completed.returncode == 0, completed.stderr
    # Such versions stored no hash of the images either.
    message = f"{run / 'config.json'} was written by an earlier version, without a hash"
    assert completed.stderr.count(message) == 1
    assert_ended_as(run, undisturbed)


def test_key_of_a_newer_version_is_named_with_the_commit(runs, run):
    edit(run, set_key("likelihood.temperature", 3))
    message = (
        f"{run / 'config.json'} was written by another version of this program, with keys "
        "that this version does not know: likelihood.temperature. The run was started at commit "
        f"{COMMIT}: "
    )
    for command, script in ((runs.train, "train.py"), (runs.evaluate, "evaluate.py")):
        assert_one_line(command(run), script, message)


def test_unknown_section_is_named(run, use):
    edit(run, set_key("teacher.name", 3))
    with pytest.raises(UserError, match=r"does not know: teacher\.name\. The run was started at"):
        use(run)


def test_missing_key_that_no_version_added_is_named(run, use):
    def remove(content: dict) -> None:
        del content["config"]["kl"]["weight"]
        content["provenance"]["git_commit"] = None

    edit(run, remove)
    message = r"that this version needs: kl\.weight\. The run was started at commit \(not rec"
    with pytest.raises(UserError, match=message):
        use(run)


def test_torn_config_file_is_named(run, use):
    path = run / configuration.CONFIG_FILE
    path.write_text(path.read_text()[:100])
    with pytest.raises(UserError, match=rf"^{re.escape(str(path))} is damaged \(.*put back a copy"):
        use(run)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda p: str(p.parent.relative_to(REPOSITORY)))
def test_config_of_a_committed_run_loads(path):
    old = json.loads(path.read_text())["config"]
    config = configuration.load(path.parent)
    experiment.validate(config)
    flat, loaded = configuration.flatten(old), configuration.flatten(config)
    assert {key: loaded[key] for key in flat} == flat
    assert {k: v for k, v in loaded.items() if k not in flat} == {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in configuration.ADDED_KEYS.items()
        if key not in flat
    }
    image_shape = configuration.load_image_shape(path.parent)
    configuration.check_unchanged(copy.deepcopy(config), image_shape, path.parent)


def test_some_committed_run_is_of_an_earlier_version():
    assert any(
        configuration.flatten(json.loads(path.read_text())["config"]).keys()
        < configuration.flatten(configuration.load(path.parent)).keys()
        for path in COMMITTED
    )
