"""Published checkpoints: golden numbers, full-size layouts, guided-diffusion's, and bad files."""

import copy
import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
import unet_reference
from conftest import DATA

import dpdiff
from dpdiff.cli import main
from dpdiff.errors import InputError
from dpdiff.models import load, save
from dpdiff.models.improved_diffusion import PRESETS, Flags, ImprovedUNet, convert
from dpdiff.schedule import Schedule

CHECKPOINT = DATA / "iddpm_tiny_fp16.pt"
FLAGS = DATA / "iddpm_tiny_flags.json"
RULES = {"learned_range": "learned_range", "fixed_large": "large", "fixed_small": "small"}


@pytest.fixture(scope="module")
def tiny():
    return load(CHECKPOINT, flags=FLAGS)


@pytest.fixture
def state():
    return torch.load(CHECKPOINT, weights_only=True)


def _state(flags: Flags, seed: int = 0) -> dict[str, torch.Tensor]:
    return unet_reference.draw(_shapes(flags), seed)


def _shapes(flags: Flags) -> dict[str, tuple[int, ...]]:
    return unet_reference.shapes(
        flags.num_channels,
        flags.multipliers,
        flags.num_res_blocks,
        flags.attention,
        outputs=6 if flags.learn_sigma else 3,
        scale_shift=flags.use_scale_shift_norm,
        updown=flags.resblock_updown,
    )


def _difference(flags: Flags, size: int, **how) -> float:
    """Largest difference of the converted network from the plain one, for two random images."""
    state = _state(flags)
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    index = torch.tensor([3, 700])
    heads = how.pop("heads", flags.num_heads)
    with torch.inference_mode():
        ours = convert(state, flags).eval()(x, index).sample
        theirs = unet_reference.forward(state, x, index * flags.timestep_scale, heads, **how)
    assert theirs.std() > 0.1
    return float((ours - theirs).abs().max())


# --- golden numbers -------------------------------------------------------------------------


def test_outputs_equal_the_reference(golden, tiny):
    np.testing.assert_allclose(
        golden["t"] * tiny.network.timestep_scale, golden["network_timestep"], rtol=1e-7
    )
    with torch.inference_mode():
        output = tiny.network(torch.from_numpy(golden["x"]), torch.from_numpy(golden["t"]))
    assert np.abs(output.sample.numpy() - golden["output"]).max() < 1e-4


def test_outputs_on_the_path_equal_the_reference(golden, tiny):
    images = golden["images_uint8"].transpose(0, 3, 1, 2) / 127.5 - 1
    for t, noise, expected in zip(
        golden["path"][1:], golden["noise"], golden["edge_output"], strict=True
    ):
        x_t = torch.from_numpy(tiny.noise.f[t] * images + tiny.noise.g[t] * noise).float()
        with torch.inference_mode():
            eps, v = tiny.network_output(x_t, np.full(4, t))
        output = torch.cat([eps, 2 * v - 1], dim=1).numpy()
        assert np.abs(output - expected).max() < 1e-4, f"at timestep {t}"


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_bound_of_the_loaded_network_equals_the_reference(golden, tiny, monkeypatch, rule, clip):
    """From the file to bits/dim, by the tolerances of the recorded outputs (test_golden.py).

    The network's own rounding (1e-5 of outputs of size 3) averages out over 3,072 dimensions, to
    2e-7 of a jump; the recording is float32. The decoder's column is further off, by the
    reference's tanh approximation of the normal CDF.
    """
    at = {int(t): i for i, t in enumerate(golden["path"][1:])}
    monkeypatch.setattr(
        "dpdiff.runtime.random_streams.gaussian",
        lambda seed, t, rows, shape: golden["noise"][at[t]][rows],
    )
    denoiser = copy.copy(tiny)
    object.__setattr__(denoiser, "clip", clip)
    score = dpdiff.evaluate(
        denoiser.with_variance(RULES[rule]),
        golden["images_uint8"].transpose(0, 3, 1, 2),
        Schedule(golden["path"]),
        two_node_decoder=True,
        progress=False,
    )
    expected = golden[f"vb_{rule}_clip{int(clip)}"]
    np.testing.assert_allclose(score.edge_bits[1:], expected.mean(0)[1:], rtol=1e-5)
    assert abs(score.edge_bits[0] - expected.mean(0)[0]) < 1e-3
    totals = expected.sum(1) + golden["prior_bpd"]
    np.testing.assert_allclose(score.image_bits, totals, rtol=1e-5, atol=1e-3)


def test_the_second_implementation_equals_the_reference(golden, state):
    assert {k: tuple(w.shape) for k, w in state.items()} == _shapes(Flags.read(FLAGS))
    output = unet_reference.forward(
        {key: weight.float() for key, weight in state.items()},
        torch.from_numpy(golden["x"]),
        torch.from_numpy(golden["network_timestep"]),
        heads=4,
    )
    assert np.abs(output.numpy() - golden["output"]).max() < 1e-4


# --- published layouts, at full size --------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "millions"), [("cifar10_hybrid", 52.5), ("imagenet64_hybrid", 121.1)]
)
def test_full_size_networks(preset, millions):
    """All keys, shapes, heads and values; on 16×16 pixels, which the weights do not know of."""
    flags = Flags.read(preset)
    assert sum(np.prod(s) for s in _shapes(flags).values()) / 1e6 == pytest.approx(
        millions, abs=0.1
    )
    assert _difference(flags, 16) < 1e-4


def test_lsun_layout_is_a_plain_diffusers_network():
    flags = Flags.read("lsun_bedroom")
    wanted = {key: torch.zeros(1).expand(shape) for key, shape in _shapes(flags).items()}
    network = convert(wanted, flags)
    assert type(network).__name__ == "UNet2DModel"
    assert _heads(network) == {("mid", 512): 1, ("down", 512): 1, ("up", 512): 1}


def test_four_heads_at_every_width():
    flags = Flags.read("imagenet64_vlb")
    wanted = {key: torch.zeros(1).expand(shape) for key, shape in _shapes(flags).items()}
    expected = {(room, width) for room in ("down", "up") for width in (384, 512)} | {("mid", 512)}
    assert _heads(convert(wanted, flags)) == dict.fromkeys(expected, 4)


def _heads(network: torch.nn.Module) -> dict[tuple[str, int], int]:
    return {
        (name.partition("_")[0], module.to_q.in_features): module.heads
        for name, module in network.named_modules()
        if type(module).__name__ == "Attention"
    }


def test_guided_diffusion_layout_is_a_plain_diffusers_network():
    flags = Flags.read(
        "--attention_resolutions 32,16,8 --class_cond False --diffusion_steps 1000 "
        "--image_size 256 --learn_sigma True --noise_schedule linear --num_channels 256 "
        "--num_head_channels 64 --num_res_blocks 2 --resblock_updown True --use_fp16 True "
        "--use_scale_shift_norm True"
    )
    wanted = {key: torch.zeros(1).expand(shape) for key, shape in _shapes(flags).items()}
    network = convert(wanted, flags)
    assert type(network).__name__ == "UNet2DModel"
    assert all(heads == width // 64 for (_, width), heads in _heads(network).items())


# --- variations, small ----------------------------------------------------------------------

SMALL = {"image_size": 16, "num_channels": 32, "num_res_blocks": 1, "channel_mult": "1,2,3"}


@pytest.mark.parametrize(
    ("flags", "how"),
    [
        ({"use_scale_shift_norm": False}, {}),
        ({"diffusion_steps": 500, "rescale_timesteps": True}, {}),
        ({"num_head_channels": 16}, {"head_size": 16}),
        ({"use_new_attention_order": True}, {"new": True}),
        ({"resblock_updown": True}, {}),
        ({"resblock_updown": True, "attention_resolutions": "16,4", "num_res_blocks": 2}, {}),
        ({"attention_resolutions": "", "num_heads": 2, "learn_sigma": True}, {}),
    ],
)
def test_other_layouts_equal_the_second_implementation(flags, how):
    assert _difference(Flags.read(SMALL | flags), 16, **how) < 1e-4


def test_costs_of_other_heads_or_timesteps_are_told_apart(tiny):
    """Weights alone do not show them, but the fingerprint that is kept with costs does."""
    known = {tiny.fingerprint}
    for name, value in (("timestep_scale", 1.0), ("heads", 2)):
        changed = copy.deepcopy(tiny.network)
        module = changed
        if name == "heads":
            module = next(m for m in changed.modules() if type(m).__name__ == "Attention")
        setattr(module, name, value)
        known.add(replace(tiny, network=changed).fingerprint)
    assert len(known) == 3


def test_heads_on_the_way_up_may_differ(tiny):
    flags = Flags.read(SMALL | {"num_heads_upsample": 2})
    heads = _heads(convert(_state(flags), flags))
    assert {heads[key] for key in heads if key[0] == "up"} == {2}
    assert {heads[key] for key in heads if key[0] != "up"} == {4}


def test_flags_decide_the_meaning_of_the_output(tmp_path):
    flags = SMALL | {"predict_xstart": True, "sigma_small": True, "diffusion_steps": 50}
    torch.save(_state(Flags.read(flags)), tmp_path / "small.pt")
    denoiser = load(tmp_path / "small.pt", flags=flags)
    assert (denoiser.predicts, denoiser.variance, denoiser.noise.T) == ("x0", "small", 50)
    assert denoiser.noise.betas[[0, -1]] == pytest.approx([20e-4, 20 * 0.02])
    assert load(tmp_path / "small.pt", flags=flags | {"sigma_small": "no"}).variance == "large"
    assert denoiser(torch.zeros(1, 3, 16, 16), 50).x0.shape == (1, 3, 16, 16)


def test_a_plain_network_survives_a_diffusers_folder_and_another_refuses(tmp_path, tiny):
    flags = SMALL | {"num_head_channels": 32}
    torch.save(_state(Flags.read(flags)), tmp_path / "plain.pt")
    plain = load(tmp_path / "plain.pt", flags=flags)
    save(plain, tmp_path / "folder")
    x = torch.randn(1, 3, 16, 16)
    with torch.inference_mode():
        before, after = plain(x, 400).x0, load(tmp_path / "folder")(x, 400).x0
    assert (before - after).abs().max() < 0.02  # the folder holds float16
    assert isinstance(tiny.network, ImprovedUNet)
    with pytest.raises(InputError, match=r"keep its \.pt file"):
        save(tiny, tmp_path / "other")


# --- flags ----------------------------------------------------------------------------------


def test_every_spelling_of_flags_is_the_same():
    given = json.loads(FLAGS.read_text())
    text = " ".join(f"--{name} {value}" for name, value in given.items() if value != "")
    with_equals = text.replace(" 32", "=32")
    expected = Flags.read(given)
    assert [Flags.read(f) for f in (FLAGS, str(FLAGS), text, with_equals)] == [expected] * 4
    assert expected.timestep_scale == 0.25


def test_presets_are_the_published_flags():
    base = "--num_channels 128 --num_res_blocks 3 --learn_sigma True"
    cosine = "--diffusion_steps 4000 --noise_schedule cosine --lr 1e-4 --batch_size 128"
    published = {
        "cifar10_hybrid": f"--image_size 32 {base} --dropout 0.3 {cosine}",
        "cifar10_vlb": f"--image_size 32 {base} --dropout 0.3 {cosine} --use_kl True",
        "imagenet64_hybrid": f"--image_size 64 {base} {cosine}",
        "imagenet64_vlb": f"--image_size 64 {base} {cosine} --schedule_sampler loss-second-moment",
        "lsun_bedroom": "--image_size 256 --num_channels 128 --num_res_blocks 2 --num_heads 1 "
        "--learn_sigma True --use_scale_shift_norm False --attention_resolutions 16 "
        "--diffusion_steps 1000 --noise_schedule linear --rescale_learned_sigmas False "
        "--rescale_timesteps False --use_scale_shift_norm False",
    }
    assert set(published) == set(PRESETS)
    for name, text in published.items():
        assert Flags.read(name) == Flags.read(text), name


def test_guided_diffusion_leaves_timesteps_alone():
    flags = {"diffusion_steps": 4000, "num_head_channels": 64}
    assert Flags.read(flags).timestep_scale == 1
    assert Flags.read(flags | {"rescale_timesteps": True}).timestep_scale == 0.25


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (None, "give flags, as a mapping"),
        ("cifar11", "no preset .*cifar10_hybrid"),
        ("--image_size", "--image_size' breaks the row"),
        ("--image_size 64 128", "breaks the row"),
        ("--image_size 'x", "cannot read the flags"),
        ({"imagesize": 64}, "unknown flag 'imagesize'; known are image_size"),
        ({"learn_sigma": "maybe"}, "flag learn_sigma takes True or False, got 'maybe'"),
        ({"num_heads": "4.5"}, "flag num_heads takes an integer"),
        ({"class_cond": True}, "class-conditional.*class fixed"),
        ({"timestep_respacing": "250"}, "leave out timestep_respacing"),
        ({"noise_schedule": "sqrt"}, "linear, cosine"),
        ({"image_size": 48}, "give channel_mult"),
        ({"image_size": 48, "channel_mult": "2,4"}, "begin with 1"),
        ({"channel_mult": [1, {}]}, "takes integers like"),
        ({"attention_resolutions": [16, 8.5]}, "takes integers like"),
        ({"image_size": 50, "channel_mult": "1,1,1"}, "even at every level"),
        ({"num_channels": 48}, r"48, .* no multiples of 32"),
        ({"num_heads": 5}, "do not divide into attention heads"),
        ({"num_head_channels": 40}, "do not divide into attention heads"),
        ({"num_heads_upsample": 0}, "do not divide into attention heads"),
        ({"num_res_blocks": 0}, "lies in 1"),
        ({"attention_resolutions": "0"}, "lies in 1"),
    ],
)
def test_bad_flags_are_named(flags, message):
    with pytest.raises(InputError, match=message):
        load(CHECKPOINT, flags=flags)


def test_flags_are_for_checkpoints():
    with pytest.raises(InputError, match=r"flags and key describe checkpoints"):
        load("digits", flags="cifar10_hybrid")


# --- files ----------------------------------------------------------------------------------


class Hostile:
    """Would run a command when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("must-not-exist",)


def _load_with(tmp_path, content):
    torch.save(content, tmp_path / "model.pt")
    return load(tmp_path / "model.pt", flags=FLAGS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("middle_block.1.qkv.bias"), r"key middle_block\.1\.qkv\.bias is missing"),
        (lambda s: s.update({"extra.weight": torch.zeros(2)}), r"unexpected key extra\.weight"),
        (
            lambda s: s.update({"out.2.bias": torch.zeros(3)}),
            r"out\.2\.bias has shape \(3,\).*\(6,\)",
        ),
        (
            lambda s: s.update({"middle_block.1.qkv.weight": torch.zeros(64, 64, 1)}),
            r"middle_block\.1\.qkv\.weight .* expected \(192, 64, 1\)",
        ),
        (lambda s: s.update({"out.2.bias": torch.zeros(6).int()}), r"out\.2\.bias holds no tensor"),
        (lambda s: s.update({"out.2.bias": 7}), r"out\.2\.bias holds no tensor"),
        (lambda s: s.update({"label_emb.weight": torch.zeros(9, 128)}), "class fixed"),
    ],
)
def test_bad_keys_are_named(tmp_path, state, change, message):
    change(state)
    with pytest.raises(InputError, match=message) as caught:
        _load_with(tmp_path, state)
    assert "model.pt" in str(caught.value)


def test_flags_of_another_model_are_noticed():
    with pytest.raises(InputError, match="do the flags belong to this file"):
        load(CHECKPOINT, flags="cifar10_hybrid")


def test_code_in_a_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"mkdir would have to be run"):
        _load_with(tmp_path, {"out.2.bias": Hostile()})
    assert not (tmp_path / "must-not-exist").exists()
    with pytest.raises(InputError, match="more than tensors"):
        _load_with(tmp_path, torch.nn.Linear(2, 2))


@pytest.mark.parametrize("content", [b"", b"hello world", CHECKPOINT.read_bytes()[:5000]])
def test_damaged_files_are_refused(tmp_path, content):
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(InputError, match="is damaged, or was not written by"):
        load(tmp_path / "model.pt", flags=FLAGS)


def test_missing_and_strange_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        load(tmp_path / "none.pt", flags=FLAGS)
    with pytest.raises(InputError, match="holds a list"):
        _load_with(tmp_path, [torch.zeros(1)])


def test_the_command_line_takes_flags(tmp_path, golden, capsys):
    np.save(tmp_path / "images.npy", golden["images_uint8"][:1].transpose(0, 3, 1, 2))
    command = ["evaluate", "--model", str(CHECKPOINT), "--schedule", "even:2"]
    command += ["--data", str(tmp_path / "images.npy")]
    given = json.loads(FLAGS.read_text())
    text = " ".join(f"--{name} {value}" for name, value in given.items() if value != "")
    assert main([*command, "--flags", text]) == 0
    assert "even:2" in capsys.readouterr().out
    assert main(command) == 2
    assert "give flags" in capsys.readouterr().err


def test_lines_of_the_sampling_scripts_are_taken():
    """What they say of sampling, respacing included, does not concern the network."""
    model = "--image_size 64 --num_channels 192 --num_head_channels 64 --learn_sigma True "
    sampling = (
        "--model_path m.pt --batch_size 4 --num_samples 100 --timestep_respacing 250 "
        "--classifier_path c.pt --classifier_scale 1.0 --classifier_depth 4 --use_ddim False"
    )
    assert Flags.read(model + sampling) == Flags.read(model)
    with pytest.raises(InputError, match="leave out timestep_respacing"):
        Flags.read(model + "--timestep_respacing 250")
