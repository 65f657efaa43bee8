"""Models from folders and from the hub, and conditional networks."""

import json
import shutil

import huggingface_hub
import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDPMPipeline, DDPMScheduler, UNet2DModel
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors.torch import load_file, save_file

import dpdiff
from dpdiff import models
from dpdiff.errors import InputError
from dpdiff.noise import NoiseSchedule


def small(**settings):
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        **settings,
    ).eval()


@pytest.fixture
def network():
    return small()


@pytest.fixture
def flat(tmp_path, network):
    """A folder as of the hub's oldest DDPMs: the network at the root, its scheduler beside it."""
    folder = tmp_path / "flat"
    network.save_pretrained(folder)
    DDPMScheduler(20, variance_type="fixed_large", clip_sample=False).save_pretrained(folder)
    return folder


def test_a_flat_folder_is_read_like_a_pipeline(tmp_path, flat, network):
    pipeline = tmp_path / "pipeline"
    network.save_pretrained(pipeline / "unet")
    DDPMScheduler(20, variance_type="fixed_large", clip_sample=False).save_pretrained(
        pipeline / "scheduler"
    )
    one, other = dpdiff.load(flat), dpdiff.load(pipeline)
    assert one.fingerprint == other.fingerprint
    assert (one.variance, one.clip, one.noise.T) == ("large", False, 20)


def test_from_the_hub_only_configs_and_safetensors_are_fetched(tmp_path, flat, monkeypatch):
    (flat / "modeling.py").write_text("raise SystemExit('executed')")
    asked = []

    def snapshot_download(name, *, allow_patterns, ignore_patterns):
        asked.append(name)
        target = tmp_path / "cache"
        target.mkdir()
        for pattern in allow_patterns:
            for path in flat.glob(pattern):
                shutil.copy(path, target)
        return str(target)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert dpdiff.load("someone/model").fingerprint == dpdiff.load(flat).fingerprint
    assert asked == ["someone/model"]
    assert not (tmp_path / "cache" / "modeling.py").exists()


@pytest.mark.parametrize("kind", [LocalEntryNotFoundError, RepositoryNotFoundError])
def test_a_hub_that_does_not_answer_is_an_input_error(monkeypatch, kind):
    def snapshot_download(name, **_):
        raise kind.__new__(kind, "no such thing")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(InputError, match=r"someone/model.*no folder here"):
        dpdiff.load("someone/model")


def test_a_hub_model_without_safetensors_is_refused(tmp_path, flat, monkeypatch):
    (flat / "diffusion_pytorch_model.safetensors").unlink()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(flat))
    with pytest.raises(InputError, match="safetensors"):
        dpdiff.load("someone/model")


def test_a_mistyped_path_does_not_ask_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("asked"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    for path in ("models/typo", str(tmp_path / "typo")):
        with pytest.raises(InputError, match="there is no model"):
            dpdiff.load(path)


def conditioned(**conditions):
    network = dpdiff.Conditioned(small(num_class_embeds=10), **conditions)
    return dpdiff.Denoiser(network, NoiseSchedule.cosine(20), shape=(1, 8, 8))


def test_a_class_label_is_given_to_every_example():
    network = small(num_class_embeds=10)
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    index, steps = torch.tensor([1, 5, 9]), np.array([2, 6, 10])
    with torch.inference_mode():
        direct = network(x, index, class_labels=torch.tensor([7, 7, 7])).sample
        output, _ = conditioned(class_labels=7).network_output(x, steps)
        again, _ = conditioned(class_labels=torch.tensor(7)).network_output(x, steps)
    torch.testing.assert_close(output, direct)
    torch.testing.assert_close(again, direct)
    assert (direct - network(x, index, class_labels=torch.tensor([6, 6, 6])).sample).std() > 0.01


def test_embeddings_and_settings_reach_the_network_as_they_should():
    class Attending(torch.nn.Module):
        def forward(self, x, index, embedding, guided, note=None):
            assert guided is True
            assert note is None
            assert embedding.shape == (len(x), 5, 2)
            return x * embedding.mean((1, 2))[:, None]

    embedding = torch.arange(10.0).reshape(5, 2)
    network = dpdiff.Conditioned(Attending(), embedding=embedding, guided=True, note=None)
    x = torch.ones(3, 4)
    assert torch.equal(network(x, torch.zeros(3)), x * 4.5)


def test_each_condition_is_a_model_of_its_own():
    prints = {conditioned(class_labels=k).fingerprint for k in (3, 4)}
    assert len(prints) == 2
    assert conditioned(class_labels=3).fingerprint in prints  # and the same one again


def test_a_conditioned_model_goes_through_the_main_job():
    images = np.random.default_rng(0).integers(0, 256, (4, 1, 8, 8), dtype=np.uint8)
    denoiser = conditioned(class_labels=3)
    costs = dpdiff.measure(denoiser, images, per_step=128, progress=False)
    schedule = dpdiff.solve(costs).schedule(4)
    assert dpdiff.sample(denoiser, schedule, n=2, progress=False).isfinite().all()
    other = conditioned(class_labels=4)
    with pytest.raises(InputError, match="measure it first"):
        other.with_variance("optimal", costs)


def test_levels_of_a_folder_are_those_it_tells(flat):
    assert dpdiff.load(flat).levels == 256
    (flat / "dpdiff.json").write_text(json.dumps({"levels": 17}))
    assert dpdiff.load(flat).levels == 17


@pytest.mark.parametrize(
    ("name", "value"),
    [("thresholding", True), ("clip_sample_range", 2.0)],
)
def test_settings_of_the_scheduler_are_never_overlooked(flat, name, value):
    path = flat / "scheduler_config.json"
    config = json.loads(path.read_text()) | {"clip_sample": True}
    path.write_text(json.dumps(config))
    assert dpdiff.load(flat).clip
    path.write_text(json.dumps(config | {name: value}))
    with pytest.raises(InputError, match=name):
        dpdiff.load(flat)


WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("conv_in.bias"), "1 of its tensors are missing: conv_in.bias"),
        (lambda state: state.update(odd=torch.zeros(1)), "1 of its tensors are unexpected: odd"),
        (
            lambda state: state.update({"conv_in.bias": torch.zeros(9)}),
            "other shapes.*conv_in.bias",
        ),
        (lambda state: state["conv_in.bias"].fill_(torch.nan), "conv_in.bias is not finite"),
        (lambda state: state.clear(), "asks for 2 blocks of 1 layers"),
    ],
)
def test_a_network_is_loaded_whole_or_not_at_all(flat, change, message):
    state = load_file(flat / WEIGHTS)
    change(state)
    save_file(state, flat / WEIGHTS)
    with pytest.raises(InputError, match=message):
        dpdiff.load(flat)


def test_attention_in_its_old_names_is_read(tmp_path):
    network = small(add_attention=True)
    network.save_pretrained(tmp_path)
    DDPMScheduler(20).save_pretrained(tmp_path)
    own = dpdiff.load(tmp_path).fingerprint
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(tmp_path / WEIGHTS)
    assert any("to_out.0" in name for name in state)
    for new, name in old.items():
        state = {key.replace(f".{new}.", f".{name}."): tensor for key, tensor in state.items()}
    save_file(state, tmp_path / WEIGHTS)
    assert dpdiff.load(tmp_path).fingerprint == own


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("config.json", {"num_class_embeds": 10}, "tensors are missing: class_embedding"),
        ("config.json", {"layers_per_block": 3000}, "2 blocks of 3000 layers"),
        ("config.json", {"block_out_channels": [8, 10**12]}, "a size of 1000000000000"),
        ("config.json", {"norm_num_groups": 0}, "describes no network"),
        ("config.json", {"_class_name": "UNet1DModel"}, "only UNet2DModel"),
        ("config.json", {"sample_size": None}, "no size of images"),
        ("config.json", {"out_channels": 3}, "other shapes"),
        ("scheduler_config.json", {"_class_name": "VQDiffusionScheduler"}, "scheduler VQDiffusion"),
        ("scheduler_config.json", {"_class_name": None}, "scheduler None"),
        ("scheduler_config.json", {"num_train_timesteps": 10**12}, "1…1,000,000"),
        ("scheduler_config.json", {"trained_betas": ["0.1"]}, "betas are a list of T numbers"),
        ("scheduler_config.json", {"prediction_type": ["epsilon"]}, "prediction_type"),
        ("scheduler_config.json", {"clip_sample": "no"}, "clip_sample is true or false"),
        ("scheduler_config.json", {"predict_epsilon": False}, "predict_epsilon"),
    ],
)
def test_configs_that_cannot_be_are_refused(flat, name, change, message):
    path = flat / name
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message):
        dpdiff.load(flat)


@pytest.mark.parametrize("kind", ["DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler"])
def test_schedulers_that_share_the_process_say_the_same(flat, kind):
    path = flat / "scheduler_config.json"
    before = dpdiff.load(flat)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": kind}))
    assert dpdiff.load(flat).fingerprint == before.fingerprint


def test_a_latent_model_is_no_image_model(flat):
    (flat / "vqvae").mkdir()
    (flat / "vqvae" / "config.json").write_text("{}")
    with pytest.raises(InputError, match="vqvae beside its unet"):
        dpdiff.load(flat)


def test_pickles_are_refused_with_advice(flat, tmp_path):
    (flat / WEIGHTS).rename(flat / "diffusion_pytorch_model.bin")
    with pytest.raises(InputError, match=r"model\.bin: convert them once"):
        dpdiff.load(flat)
    (tmp_path / "model.pth").touch()
    with pytest.raises(InputError, match=r"is read as \.pt, with flags"):
        dpdiff.load(tmp_path / "model.pth")


@pytest.mark.parametrize("kind", [DDPMPipeline, DDIMPipeline])
def test_a_pipeline_in_memory_is_the_one_on_disk(flat, network, kind):
    scheduler = DDPMScheduler(
        num_train_timesteps=20, variance_type="fixed_large", clip_sample=False
    )
    on_disk = dpdiff.load(flat)
    pipeline = kind(unet=network, scheduler=scheduler)
    denoiser = dpdiff.load(pipeline)
    assert denoiser.fingerprint == on_disk.fingerprint
    assert denoiser.network is network
    assert dpdiff.load(kind(unet=network.half(), scheduler=scheduler)).network is not network
    with pytest.raises(InputError, match=r"say which, load\(…, class_label=…\)"):
        dpdiff.load(kind(unet=small(num_class_embeds=3), scheduler=scheduler))


def test_a_model_of_ours_is_refused_if_any_of_its_files_changed(tmp_path, network):
    models.save(dpdiff.Denoiser(network, NoiseSchedule.cosine(20), shape=(1, 8, 8)), tmp_path)
    dpdiff.load(tmp_path)
    for name in ("unet/config.json", f"unet/{WEIGHTS}", "scheduler/scheduler_config.json"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole.replace(b"0", b"1", 1))
        with pytest.raises(InputError, match="damaged, or was changed"):
            dpdiff.load(tmp_path)
        (tmp_path / name).write_bytes(whole)
    extra = tmp_path / "dpdiff.json"
    extra.write_text(extra.read_text().replace("256", "255"))
    with pytest.raises(InputError, match="digest"):
        dpdiff.load(tmp_path)
    extra.write_text('{"../..": [null]}')  # no levels are assumed where a file speaks of others
    with pytest.raises(InputError, match="does not say the data's levels"):
        dpdiff.load(tmp_path)
