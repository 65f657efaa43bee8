"""Models from folders and from the hub, and conditional networks."""

import json
import shutil
from dataclasses import replace

import huggingface_hub
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

import dpdiff
from dpdiff.errors import InputError


@pytest.fixture
def network():
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
        num_class_embeds=10,
    ).eval()


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

    def snapshot_download(name, *, allow_patterns):
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
    def snapshot_download(name, *, allow_patterns):
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


def conditioned(flat, **conditions):
    denoiser = dpdiff.load(flat)
    return replace(denoiser, network=dpdiff.Conditioned(denoiser.network, **conditions))


def test_a_class_label_is_given_to_every_example(flat, network):
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    index = torch.tensor([1, 5, 9])
    with torch.inference_mode():
        direct = network(x, index, class_labels=torch.tensor([7, 7, 7])).sample
        output, _ = conditioned(flat, class_labels=7).network_output(x, np.array([2, 6, 10]))
        again, _ = conditioned(flat, class_labels=torch.tensor(7)).network_output(
            x, np.array([2, 6, 10])
        )
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


def test_each_condition_is_a_model_of_its_own(flat):
    prints = {conditioned(flat, class_labels=k).fingerprint for k in (3, 4)}
    prints |= {dpdiff.load(flat).fingerprint}
    assert len(prints) == 3
    assert conditioned(flat, class_labels=3).fingerprint in prints  # and the same one again


def test_a_conditioned_model_goes_through_the_main_job(flat):
    images = np.random.default_rng(0).integers(0, 256, (4, 1, 8, 8), dtype=np.uint8)
    denoiser = conditioned(flat, class_labels=3)
    costs = dpdiff.measure(denoiser, images, progress=False)
    schedule = dpdiff.solve(costs).schedule(4)
    assert dpdiff.sample(denoiser, schedule, n=2, progress=False).isfinite().all()
    other = conditioned(flat, class_labels=4)
    with pytest.raises(InputError, match="measure it first"):
        other.with_variance("optimal", costs)


def test_levels_of_a_folder_are_those_it_tells(flat):
    assert dpdiff.load(flat).levels == 256
    (flat / "dpdiff.json").write_text(json.dumps({"levels": 17}))
    assert dpdiff.load(flat).levels == 17


@pytest.mark.parametrize(
    ("name", "value"),
    [("thresholding", True), ("rescale_betas_zero_snr", True), ("clip_sample_range", 2.0)],
)
def test_settings_of_the_scheduler_are_never_overlooked(flat, name, value):
    path = flat / "scheduler_config.json"
    config = json.loads(path.read_text()) | {"clip_sample": True}
    path.write_text(json.dumps(config))
    assert dpdiff.load(flat).clip
    path.write_text(json.dumps(config | {name: value}))
    with pytest.raises(InputError, match=name):
        dpdiff.load(flat)
