"""Tests of vae_jax/config/resume.py: what may change when a run is resumed."""

import json

import pytest

from tests.conftest import IMAGE_SHAPE, make_config
from vae_jax import config as configuration
from vae_jax.config import defaults, resume

NUM_STEPS = 24  # of the tiny configuration
STARTED = "2026-01-01T00:00:00+00:00"
OTHER_VALUES = {
    "data.name": "/moved/tiny",
    "data.dir": "/moved",
    "data.crop": 140,
    "data.image_size": 32,
    "data.resident": False,
    "model.remat": True,
    "optim.max_skipped_in_a_row": 5,
    "prior.sampler": "heun",
    "prior.num_sampling_steps": 7,
    "prior.temperature": 0.5,
    "train.steps_per_call": 4,
    "train.log_every_steps": 2,
    "train.eval_every_steps": 2,
    "train.patience": 3,
    "train.profile": True,
    "train.diagnose": True,
    "train.checkpoint_every_steps": 2,
    "train.keep_checkpoints": 9,
    "eval.batch_size": 2,
    "eval.seed": 3,
    "eval.use_ema": False,
    "eval.num_iw_samples": 2,
    "eval.num_iw_images": 1,
}


def save(workdir, data_hash="1" * 64, **overrides):
    config = make_config(workdir, **overrides)
    configuration.save(config, IMAGE_SHAPE, {"started": STARTED}, workdir, data_hash)
    return config


def changed_keys(workdir, **overrides):
    return configuration.changed_keys(make_config(workdir, **overrides), IMAGE_SHAPE, workdir)


@pytest.mark.parametrize("key", OTHER_VALUES)
def test_key_that_the_state_does_not_depend_on_may_change(tmp_path, key):
    config, value = save(tmp_path), OTHER_VALUES[key]
    before = configuration.flatten(config)[key]
    assert changed_keys(tmp_path, **{key: value}) == {key: [before, value]}


def test_no_other_key_may_change(tmp_path):
    config = configuration.flatten(save(tmp_path))
    decided = {*OTHER_VALUES, *resume.LENGTH, "vae_workdir", "seed"}
    for key, value in config.items():
        if key in decided:
            continue
        other = {str: "x", bool: not value, int: 77, float: 0.77, list: (77,)}[type(value)]
        with pytest.raises(ValueError, match=f"{key}: .* in the workdir, .* now"):
            changed_keys(tmp_path, **{key: other})
    with pytest.raises(ValueError, match="seed: 0 in the workdir, 1 now"):
        changed_keys(tmp_path, seed=1)
    assert {*config} == {*configuration.flatten(defaults.get_config())}


def test_whole_vae_does_not_become_a_prior(tmp_path):
    save(tmp_path)
    with pytest.raises(ValueError, match="vae_workdir:  in the workdir, elsewhere now"):
        changed_keys(tmp_path, vae_workdir="elsewhere")


def test_name_of_the_dataset_may_change_only_if_a_hash_tells_the_images(tmp_path):
    save(tmp_path, data_hash=None)
    with pytest.raises(ValueError, match="data.name: tiny in the workdir, other now"):
        changed_keys(tmp_path, data__name="other")


@pytest.mark.parametrize("decay_steps", [0, NUM_STEPS])
def test_run_is_not_made_shorter(tmp_path, decay_steps):
    save(tmp_path, optim__decay="constant")
    with pytest.raises(ValueError, match="train.num_steps = 23 is less than the 24 steps"):
        changed_keys(
            tmp_path,
            optim__decay="constant",
            optim__decay_steps=decay_steps,
            train__num_steps=NUM_STEPS - 1,
        )


def test_run_with_a_constant_learning_rate_is_made_longer_without_a_question(tmp_path):
    save(tmp_path, optim__decay="constant")
    changed = changed_keys(tmp_path, optim__decay="constant", train__num_steps=48)
    assert changed == {"train.num_steps": [NUM_STEPS, 48]}


def test_end_of_the_cosine_is_asked_about_once(tmp_path):
    save(tmp_path)
    with pytest.raises(ValueError) as caught:
        changed_keys(tmp_path, train__num_steps=48)
    for answer in (24, 48):
        assert f"--config.optim.decay_steps={answer}" in str(caught.value)
        config = make_config(tmp_path, train__num_steps=48, optim__decay_steps=answer)
        changed = configuration.changed_keys(config, IMAGE_SHAPE, tmp_path)
        assert changed == {"optim.decay_steps": [0, answer], "train.num_steps": [NUM_STEPS, 48]}
    configuration.update(config, tmp_path, configuration.history_entry(NUM_STEPS, changed))
    assert configuration.changed_keys(config, IMAGE_SHAPE, tmp_path) == {}


def test_history_keeps_every_change(tmp_path):
    save(tmp_path)
    for step, size in ((4, 16), (8, 4)):
        changed = changed_keys(tmp_path, eval__batch_size=size)
        entry = configuration.history_entry(step, changed)
        configuration.update(make_config(tmp_path, eval__batch_size=size), tmp_path, entry)
    content = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert [(e["step"], e["changed"]) for e in content["history"]] == [
        (4, {"eval.batch_size": [8, 16]}),
        (8, {"eval.batch_size": [16, 4]}),
    ]
    assert configuration.load(tmp_path).eval.batch_size == 4
    assert configuration.load_data_hash(tmp_path) == "1" * 64
    assert configuration.load_start(tmp_path) == {"started": STARTED}


# A prior on a frozen VAE


@pytest.fixture
def prior(tmp_path):
    """The workdir of a prior, that of its VAE, and its configuration."""
    vae, workdir = tmp_path / "vae", tmp_path / "prior"
    vae.mkdir()
    workdir.mkdir()
    save(vae, model__latent_shape=(6,))
    config = make_config(tmp_path, prior__name="flow", vae_workdir=str(vae))
    complete = configuration.complete(config)
    configuration.save(complete, IMAGE_SHAPE, {}, workdir, "1" * 64, STARTED)
    return workdir, vae, config


def test_prior_goes_on_without_the_run_of_its_vae(prior, tmp_path):
    workdir, vae, config = prior
    vae.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match="vae"):
        configuration.complete(config)
    complete = configuration.complete(config, workdir)
    assert complete.model.latent_shape == (6,)
    assert configuration.changed_keys(complete, IMAGE_SHAPE, workdir) == {}
    config.vae_workdir = str(tmp_path / "moved")
    changed = configuration.changed_keys(
        configuration.complete(config, workdir), IMAGE_SHAPE, workdir
    )
    assert changed == {"vae_workdir": [str(vae), str(tmp_path / "moved")]}


def test_home_directory_of_the_vae_is_expanded(prior, tmp_path, monkeypatch):
    workdir, vae, config = prior
    monkeypatch.setenv("HOME", str(tmp_path))
    config.vae_workdir = "~/vae"
    complete = configuration.complete(config, workdir)
    changed = configuration.changed_keys(complete, IMAGE_SHAPE, workdir)
    assert changed == {"vae_workdir": [str(vae), "~/vae"]}
    content = json.loads((vae / "config.json").read_text(encoding="utf-8"))
    content["provenance"]["started"] = "later"
    (vae / "config.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match="vae_workdir = '~/vae' holds a run that was started at"):
        configuration.changed_keys(complete, IMAGE_SHAPE, workdir)


def test_prior_does_not_go_on_with_another_vae(prior):
    workdir, vae, config = prior
    complete = configuration.complete(config, workdir)
    content = json.loads((vae / "config.json").read_text(encoding="utf-8"))
    content["provenance"]["started"] = "later"
    (vae / "config.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=f"started at later, .* was started at {STARTED[:10]}"):
        configuration.changed_keys(complete, IMAGE_SHAPE, workdir)


def test_images_of_the_vae_may_have_moved(data_dir, tmp_path):
    vae = tmp_path / "vae"
    vae.mkdir()
    save(vae, data__name=str(tmp_path / "old" / "tiny"))
    config = make_config(data_dir, prior__name="flow", vae_workdir=str(vae))
    assert configuration.complete(config).data.name == str(data_dir / "tiny")
    config.data.dir = str(tmp_path)
    assert configuration.complete(config).data.name == str(tmp_path / "old" / "tiny")
