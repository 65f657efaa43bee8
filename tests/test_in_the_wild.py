"""Configs, lists, pipelines and networks as other people have them: read rightly, or refused."""

import argparse
import ast
import json
import re
import warnings
from collections import Counter
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_pipelines import drawn, unet2d

import dpdiff
from dpdiff import Conditioned, Denoiser, InputError, NoiseSchedule, Schedule
from dpdiff.cli import main
from dpdiff.conditioned import Guided
from dpdiff.diffusers import UnevenDDIMScheduler
from dpdiff.diffusers.folders import call_of, not_known
from dpdiff.export import snippet
from dpdiff.models import read_weights
from dpdiff.schedule import COMFYUI_HIGHEST

warnings.filterwarnings("ignore", module="diffusers")


def flow(shift=3.0):
    settings = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    return diffusers.DPMSolverMultistepScheduler(flow_shift=shift, **settings)


def sana():
    torch.manual_seed(0)
    return diffusers.SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=4,
        num_layers=1,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=8,
        sample_size=8,
        patch_size=1,
    ).eval()


def wan():
    torch.manual_seed(0)
    return diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=8,
        freq_dim=16,
        ffn_dim=16,
        num_layers=1,
        rope_max_seq_len=32,
    ).eval()


def ltx():
    torch.manual_seed(0)
    return diffusers.LTXVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=1,
        caption_channels=8,
    ).eval()


# --- configs as they are written ---


STABLE = {"beta_start": 0.00085, "beta_end": 0.012}


def unet_folder(place, scheduler_text):
    unet2d(in_channels=3, out_channels=3).save_pretrained(place / "unet")
    (place / "scheduler").mkdir()
    (place / "scheduler" / "scheduler_config.json").write_text(scheduler_text)
    return place


OWN_NAME = '"_class_name": "DPMSolverMultistepScheduler"'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("{", "{"),
        (OWN_NAME, '"_class_name": ["my_scheduler", "DPMSolverMultistepScheduler"]'),
        (OWN_NAME, OWN_NAME + ', "beta_end": 0.5'),  # twice: the later one counts
        (OWN_NAME, OWN_NAME + ', "of_a_later_version": {"deep": [NaN, null]}'),
        (OWN_NAME, OWN_NAME + ', "clip_sample": null'),
    ],
)
def test_configs_are_read_as_diffusers_reads_them(before, after, tmp_path):
    theirs = diffusers.DPMSolverMultistepScheduler(beta_schedule="scaled_linear", **STABLE)
    text = theirs.to_json_string()
    assert "-Infinity" in text
    folder = unet_folder(tmp_path, text.replace(before, after, 1))
    denoiser = dpdiff.load(folder)
    np.testing.assert_allclose(denoiser.noise.f[1:] ** 2, theirs.alphas_cumprod, rtol=1e-5)
    assert not denoiser.clip  # as that class does not


def test_a_network_s_config_may_have_settings_that_diffusers_leaves_out(tmp_path):
    folder = unet_folder(tmp_path, diffusers.DDPMScheduler().to_json_string())
    config = folder / "unet" / "config.json"
    config.write_text(config.read_text().replace("{", '{"of_a_later_version": true,', 1))
    assert dpdiff.load(folder).shape == (3, 8, 8)


def test_an_index_may_name_a_class_of_its_own_code(tmp_path):
    folder = unet_folder(tmp_path, diffusers.DDPMScheduler().to_json_string())
    index = {"_class_name": ["pipeline", "MyPipeline"], "unet": ["diffusers", "UNet2DModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    assert dpdiff.load(folder).shape == (3, 8, 8)


# --- checkpoints as trainers save them ---


IDDPM = Path(__file__).parent / "data" / "iddpm_tiny_fp16.pt"
IDDPM_FLAGS = IDDPM.with_name("iddpm_tiny_flags.json")


def trainers():
    """Checkpoints with the same weights inside, and where they are."""
    weights = torch.load(IDDPM, weights_only=True)
    other = {name: torch.zeros_like(value) for name, value in weights.items()}
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1}]}

    def under(prefix, state):
        return {f"{prefix}.{name}": value for name, value in state.items()}

    averaged = under("ema_model.model", weights) | {"initted": torch.tensor(True)}
    yield (
        "ema.ema_model.model",
        {  # lucidrains
            "step": 20000,
            "model": under("model", other) | {"betas": torch.zeros(4)},
            "opt": optimizer,
            "ema": averaged | {"ema_model.betas": torch.zeros(4), "step": torch.tensor(3)},
            "scaler": None,
            "version": "2.0.0",
        },
    )
    args = argparse.Namespace(image_size=256, model="DiT-XL/2")
    yield "ema", {"model": other, "ema": weights, "opt": optimizer, "args": args}  # DiT
    yield "model_ema", {"model": other, "model_ema": weights, "opt": optimizer, "epoch": 3}
    yield "module", under("module", weights)  # DataParallel


@pytest.mark.parametrize("which", range(4))
def test_the_weights_in_a_trainer_s_checkpoint(which, tmp_path):
    key, checkpoint = list(trainers())[which]
    path = tmp_path / "model.pt"
    torch.save(checkpoint, path)
    own = dpdiff.load(IDDPM, flags=IDDPM_FLAGS)
    assert dpdiff.load(path, flags=IDDPM_FLAGS, key=key).fingerprint == own.fingerprint
    weights = torch.load(IDDPM, weights_only=True)
    read = read_weights(path, key)
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[name], weights[name]) for name in weights)
    if which < 3:
        with pytest.raises(InputError, match=r"more than one state dict: name one.*key='model'"):
            dpdiff.load(path, flags=IDDPM_FLAGS)
    with pytest.raises(InputError, match="nothing under 'averaged': name one of its parts, key="):
        read_weights(path, "averaged")


def test_the_command_line_takes_the_key(tmp_path, capsys):
    torch.save({"ema": torch.load(IDDPM, weights_only=True), "step": 3}, tmp_path / "model.pt")
    side = json.loads(IDDPM_FLAGS.read_text())["image_size"]
    np.save(tmp_path / "images.npy", np.zeros((1, 3, side, side), dtype=np.uint8))
    command = ["evaluate", "--model", str(tmp_path / "model.pt"), "--schedule", "even:2"]
    command += ["--data", str(tmp_path / "images.npy"), "--flags", str(IDDPM_FLAGS)]
    assert main([*command, "--key", "ema"]) == 0
    assert "even:2" in capsys.readouterr().out
    assert main(command) == 2
    assert "key='ema'" in capsys.readouterr().err


def test_a_bare_network_in_safetensors(tmp_path):
    weights = torch.load(IDDPM, weights_only=True)
    path = tmp_path / "model.safetensors"
    save_file({f"ema.{name}": value.contiguous() for name, value in weights.items()}, path)
    own = dpdiff.load(IDDPM, flags=IDDPM_FLAGS)
    assert dpdiff.load(path, flags=IDDPM_FLAGS, key="ema").fingerprint == own.fingerprint
    assert "read_weights(path, key=…). Its first names are ema." in refusal(path)
    (tmp_path / "broken.safetensors").write_bytes(b"broken")
    assert "cannot be read" in refusal(tmp_path / "broken.safetensors")
    with pytest.raises(InputError, match="no file of safetensors"):
        read_weights(tmp_path / "broken.safetensors")


def test_files_for_other_programs_are_refused_with_a_way_that_works(tmp_path):
    whole = tmp_path / "sdxl.safetensors"
    save_file({"model.diffusion_model.out.2.bias": torch.zeros(4)}, whole)
    assert "from_single_file(path)" in refusal(whole)
    for name, said in (("flux.gguf", "GGUFQuantizationConfig"), ("v1-5.ckpt", "from_single_file")):
        (tmp_path / name).write_bytes(b"GGUF")
        assert said in refusal(tmp_path / name)


# --- what settings mean ---


def test_a_flow_whose_times_end_at_one_has_a_grid_of_its_own(tmp_path):
    """ACE-Step: num_train_timesteps=1 tells the scale of times and no number of them."""
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=3.0)
    noise = NoiseSchedule.from_diffusers(theirs)
    assert noise.T == 1000
    np.testing.assert_allclose(noise.time_inputs, noise.g[1:])
    np.testing.assert_allclose(noise.g, NoiseSchedule.flow(1000, 3.0).g)
    finer = NoiseSchedule.from_diffusers(theirs, T=4000)
    assert (finer.T, finer.time_inputs[-1]) == (4000, 1)
    theirs.set_timesteps(sigmas=np.linspace(1, 1 / 6, 6))  # as its pipeline does
    schedule = Schedule.from_diffusers(theirs)
    assert schedule.steps == 6
    ours = UnevenDDIMScheduler.from_config(theirs, schedule=schedule)
    ours.save_pretrained(tmp_path)
    for one in (ours, UnevenDDIMScheduler.from_pretrained(tmp_path)):
        np.testing.assert_allclose(one.timesteps, theirs.timesteps, atol=1e-3)
        assert one.config.num_train_timesteps == 1
    sd3 = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    assert NoiseSchedule.from_diffusers(sd3, T=50).time_inputs[-1] == 1000
    with pytest.raises(InputError, match="knows 1000 timesteps, and no other number; got 50"):
        NoiseSchedule.from_diffusers(diffusers.DDPMScheduler(), T=50)
    with pytest.raises(InputError, match="T is an integer"):
        NoiseSchedule.from_diffusers(sd3, T=0)


SVD = {
    **STABLE,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
    "sigma_min": 0.002,
    "sigma_max": 700.0,
}


def test_a_continuous_euler_tells_log_sigma():
    """Stable Video Diffusion; x_t here is theirs over √(σ² + 1), which its network is given."""
    theirs = diffusers.EulerDiscreteScheduler(**SVD)
    noise = NoiseSchedule.from_diffusers(theirs)
    assert noise.sigmas[[1, -1]] == pytest.approx([0.002, 700.0])
    assert noise.preserves_variance
    theirs.set_timesteps(8)
    np.testing.assert_allclose(theirs.timesteps, theirs.sigmas[:-1].log() / 4)
    schedule = Schedule.from_diffusers(theirs)
    nodes = np.array(schedule.timesteps[:0:-1])
    np.testing.assert_allclose(noise.time_inputs[nodes - 1], theirs.timesteps, atol=0.01)
    ours = UnevenDDIMScheduler.from_config(theirs, schedule=schedule)
    network, x, sigmas = torch.nn.Linear(2, 2), drawn(3, 2), noise.sigmas[[*nodes, 0]]
    theirs.sigmas = torch.tensor(sigmas, dtype=torch.float32)
    theirs.timesteps = ours.timesteps
    y = x * (sigmas[0] ** 2 + 1) ** 0.5
    with torch.no_grad():
        for t in ours.timesteps:
            told = torch.cos(t)
            output = told * network(theirs.scale_model_input(y, t))
            y = theirs.step(output, t, y).prev_sample
            x = ours.step(told * network(ours.scale_model_input(x, t)), t, x).prev_sample
    torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-3 * float(y.std()))
    plain = {key: value for key, value in SVD.items() if "sigma" not in key}
    noise = NoiseSchedule.from_diffusers(diffusers.EulerDiscreteScheduler(**plain))
    betas = NoiseSchedule.from_diffusers({**plain, "_class_name": "DDIMScheduler"})
    np.testing.assert_allclose(noise.sigmas, betas.sigmas)
    np.testing.assert_allclose(noise.time_inputs, np.log(betas.sigmas[1:]) / 4)


@pytest.mark.parametrize("kind", ["CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"])
@pytest.mark.parametrize("zero", [False, True])
def test_a_shifted_signal_to_noise_ratio(kind, zero):
    theirs = getattr(diffusers, kind)(rescale_betas_zero_snr=zero, snr_shift_scale=1.5)
    noise = NoiseSchedule.from_diffusers(theirs)
    np.testing.assert_allclose(noise.f[1:] ** 2, theirs.alphas_cumprod, rtol=1e-4, atol=1e-9)
    bare = NoiseSchedule.from_diffusers({"_class_name": kind})
    own = getattr(diffusers, kind)().alphas_cumprod
    np.testing.assert_allclose(bare.f[1:] ** 2, own, rtol=1e-4)


def test_a_setting_that_a_class_leaves_out_is_left_out():
    """diffusers hands settings on to classes that do not know them."""
    cosine = {"beta_schedule": "squaredcos_cap_v2"}
    swapped = diffusers.DDIMScheduler.from_config(
        dict(diffusers.CogVideoXDDIMScheduler(**cosine).config)
    )
    plain = NoiseSchedule.from_diffusers(diffusers.DDIMScheduler(**cosine))
    assert NoiseSchedule.from_diffusers(swapped).fingerprint == plain.fingerprint
    flow = {"_class_name": "FlowMatchEulerDiscreteScheduler", "prediction_type": "epsilon"}
    assert NoiseSchedule.from_diffusers(flow).is_flow


def test_what_load_refuses_is_refused_by_the_noise_schedule_too():
    wan = {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction"}
    for config in (wan, {"prediction_type": "trigflow"}, {"prediction_type": None}):
        with pytest.raises(InputError, match=r"prediction_type .* is not one of epsilon, sample"):
            NoiseSchedule.from_diffusers(config)


# --- conditional networks, however they take their time ---


def test_a_network_is_told_the_time_where_it_takes_it():
    network, x, text = sana(), drawn(2, 4, 8, 8), drawn(5, 8)
    held = Conditioned(network, encoder_hidden_states=text)
    denoiser = Denoiser(held, NoiseSchedule.from_diffusers(flow()), "flow", shape=(4, 8, 8))
    own = network(x, text.expand(2, 5, 8), torch.full((2,), denoiser.noise.time_inputs[699])).sample
    expected = x - denoiser.noise.g[700] * own
    torch.testing.assert_close(denoiser(x, 700).x0, expected.clamp(-1, 1), rtol=1e-4, atol=1e-5)
    guided = Guided(network, 2.0, {"encoder_hidden_states": text}, {"encoder_hidden_states": -text})
    time = torch.full((2,), 500.0)
    both = [network(x, part.expand(2, 5, 8), time).sample for part in (text, -text)]
    torch.testing.assert_close(guided(x, time), 2 * both[0] - both[1])


def test_a_number_that_a_network_wants_plain_stays_plain():
    held = Conditioned(
        ltx(),
        encoder_hidden_states=drawn(5, 8),
        encoder_attention_mask=torch.ones(5),
        num_frames=2,
        height=2,
        width=3,
    )
    noise = NoiseSchedule.flow(1000)
    denoiser = Denoiser(held, noise, "flow", shape=(12, 4), levels=None)
    assert denoiser(drawn(3, 12, 4), 400).x0.isfinite().all()


def test_conditions_inside_dicts_and_lists_enter_the_fingerprint_in_full():
    class Conditional(torch.nn.Linear):
        def forward(self, x, time, added=None):
            return x

    network = Conditional(2, 2)

    def fingerprint(condition):
        held = Conditioned(network, added=condition)
        return Denoiser(held, NoiseSchedule.cosine(8), shape=(2,), levels=None).fingerprint

    long, other = torch.zeros(5000), torch.zeros(5000)
    other[2500] = 1e-6  # what the text of a tensor leaves out
    for form in (
        lambda t: {"text": t},
        lambda t: [t],
        lambda t: (1, [t, {"deep": t}]),
        lambda t: t.numpy(),
        lambda t: {"text": t.numpy()},
    ):
        assert fingerprint(form(long)) == fingerprint(form(long.clone()))
        assert fingerprint(form(long)) != fingerprint(form(other))
    assert fingerprint([1, [2]]) != fingerprint([[1], 2])
    assert fingerprint({"a": 1}) != fingerprint({"b": 1})


# --- pipelines that are not known: one message, whose way out works ---


def refusal(model):
    with pytest.raises(InputError) as error:
        dpdiff.load(model)
    return str(error.value)


UNKNOWN = {
    "SanaPipeline": (sana, {"encoder_hidden_states": drawn(5, 8)}, (4, 8, 8)),
    "WanPipeline": (wan, {"encoder_hidden_states": drawn(5, 8)}, (4, 1, 8, 8)),
    "LTXPipeline": (
        ltx,
        {
            "encoder_hidden_states": drawn(5, 8),
            "encoder_attention_mask": torch.ones(5),
            "num_frames": 2,
            "height": 2,
            "width": 3,
        },
        (12, 4),
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
@pytest.mark.parametrize("kept", ["in memory", "as a folder"])
def test_the_way_round_an_unknown_pipeline_works_as_printed(name, kept, tmp_path):
    make, conditions, shape = UNKNOWN[name]

    pytest.importorskip("transformers")

    class Pipeline(getattr(diffusers, name)):
        def __init__(self, transformer, scheduler):
            diffusers.DiffusionPipeline.__init__(self)
            self.register_modules(transformer=transformer, scheduler=scheduler)

    Pipeline.__name__ = name
    pipe = Pipeline(make(), flow())
    if kept == "as a folder":
        pipe.save_pretrained(tmp_path)
        message = refusal(tmp_path)
    else:
        message = refusal(pipe)
    assert name in message or str(tmp_path) in message
    lines = re.search(r"network = .*levels=None\)", message)[0].replace("; ", "\n")
    for argument in conditions:
        lines = lines.replace(f"{argument}=…", f"{argument}=conditions[{argument!r}]")
    lines = re.sub(r", \w+=…(?=.*\))", "", lines.replace("shape=…", f"shape={shape}"))
    names = {"pipe": pipe, "dpdiff": dpdiff, "conditions": conditions}
    exec(lines, names)
    denoiser = names["denoiser"]
    assert denoiser.predicts == "flow"
    assert denoiser(drawn(2, *shape), 500).x0.isfinite().all()


@pytest.mark.parametrize(
    ("pipeline", "network", "conditions", "told"),
    [
        ("QwenImagePipeline", "QwenImageTransformer2DModel", {"img_shapes"}, "timestep / 1000"),
        ("Flux2Pipeline", "Flux2Transformer2DModel", {"txt_ids", "img_ids"}, "timestep / 1000"),
        ("ZImagePipeline", "ZImageTransformer2DModel", {"cap_feats"}, "(1000 - timestep) / 1000"),
        ("Lumina2Pipeline", "Lumina2Transformer2DModel", set(), "1 - t / self.scheduler"),
        ("WanPipeline", "WanTransformer3DModel", set(), ""),
    ],
)
def test_the_refusal_knows_how_a_pipeline_calls_its_network(pipeline, network, conditions, told):
    pytest.importorskip("transformers")
    kind = getattr(diffusers, network)
    names, time = call_of(getattr(diffusers, pipeline), "transformer", kind)
    assert conditions <= set(names)
    assert told in time if told else time == ""
    parts = {"transformer": kind, "vae": torch.nn.Module}
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
    said = str(not_known("it", getattr(diffusers, pipeline), parts, config))
    if told == "timestep / 1000":
        assert "dpdiff.NoiseSchedule.flow(1000, 3.0, time_scale=1), predicts" in said
    else:
        assert ("tells its network" in said) == bool(told)


def test_what_is_no_pipeline_is_not_called_one():
    assert "got a Nothing" in refusal(type("Nothing", (), {})())


# --- lists of steps ---


STOCK = {  # as published: Stable Diffusion, Wan, SANA, SD3, Flux, NoobAI
    "euler": (diffusers.EulerDiscreteScheduler, STABLE | {"beta_schedule": "scaled_linear"}),
    "euler karras": (
        diffusers.EulerDiscreteScheduler,
        STABLE | {"beta_schedule": "scaled_linear", "use_karras_sigmas": True},
    ),
    "wan 720p": (
        diffusers.UniPCMultistepScheduler,
        {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 5.0},
    ),
    "sana": (
        diffusers.DPMSolverMultistepScheduler,
        {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0},
    ),
    "sd3": (diffusers.FlowMatchEulerDiscreteScheduler, {"shift": 3.0}),
    "noobai": (
        diffusers.EulerDiscreteScheduler,
        STABLE
        | {"beta_schedule": "scaled_linear", "prediction_type": "v_prediction"}
        | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    ),
    "ddpm trailing": (diffusers.DDPMScheduler, {"timestep_spacing": "trailing"}),
}


@pytest.mark.parametrize("name", STOCK)
def test_a_scheduler_s_own_steps_are_read(name):
    kind, settings = STOCK[name]
    scheduler = kind(**settings)
    scheduler.set_timesteps(8)
    noise = NoiseSchedule.from_diffusers(scheduler)
    schedule = Schedule.from_diffusers(scheduler)
    nodes = np.array(schedule.timesteps[:0:-1])
    told = noise.time_inputs[nodes - 1]
    gap = np.abs(np.diff(noise.time_inputs)).max()
    np.testing.assert_allclose(told, scheduler.timesteps, atol=1 + gap / 2)
    assert Schedule.from_diffusers(scheduler.timesteps, noise).steps == 8
    if hasattr(scheduler, "sigmas"):
        np.testing.assert_allclose(noise.sigmas[nodes][1:], scheduler.sigmas[1:-1], rtol=0.02)
        assert Schedule.from_sigmas(scheduler.sigmas, noise) == schedule


def test_a_list_without_its_noise_schedule_is_refused_with_the_next_step():
    scheduler = diffusers.UniPCMultistepScheduler(**STOCK["wan 720p"][1])
    scheduler.set_timesteps(8)
    for given in ((), (1000,)):
        with pytest.raises(InputError, match=r"NoiseSchedule.from_diffusers\(scheduler\)"):
            Schedule.from_diffusers(scheduler.timesteps, *given)
    with pytest.raises(InputError, match="the scheduler itself instead of the list"):
        Schedule.from_diffusers(scheduler.timesteps, T=1000)
    told = NoiseSchedule.from_diffusers(scheduler).time_inputs
    nodes = Schedule.from_diffusers(scheduler.timesteps, NoiseSchedule.from_diffusers(scheduler))
    np.testing.assert_allclose(
        told[np.array(nodes.timesteps[:0:-1]) - 1], scheduler.timesteps, atol=5
    )


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (diffusers.DDPMScheduler(), "no steps yet: call its set_timesteps first"),
        (diffusers.HeunDiscreteScheduler(), "more than once a step"),
        (diffusers.ScoreSdeVeScheduler(), "more than once a step"),
        (diffusers.PNDMScheduler(), "are the same timestep"),
        (diffusers.DDIMScheduler(), "start='move'"),
        (diffusers.DDIMInverseScheduler(), "rise"),
    ],
)
def test_schedulers_whose_steps_are_no_schedule_are_refused(scheduler, message):
    if "no steps yet" not in message:
        scheduler.set_timesteps(8)
    with pytest.raises(InputError, match=message):
        Schedule.from_diffusers(scheduler)


def test_a_scheduler_that_tells_other_times_than_it_steps_between_is_refused():
    """diffusers shifts the noise levels of the times that it is given, and not the times."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(timesteps=[1000.0, 900, 750, 500])
    with pytest.raises(InputError, match="with a shift of their own"):
        Schedule.from_diffusers(scheduler)


def test_our_own_scheduler_tells_its_schedule():
    schedule = Schedule([0, 60, 400, 1000])
    ours = UnevenDDIMScheduler.from_config(diffusers.DDPMScheduler(), schedule=schedule)
    assert Schedule.from_diffusers(ours) == schedule


ZERO = NoiseSchedule.from_diffusers(STOCK["noobai"][0](**STOCK["noobai"][1]))


def test_an_infinite_sigma_is_read_and_written_as_programs_have_it():
    scheduler = STOCK["noobai"][0](**STOCK["noobai"][1])
    scheduler.set_timesteps(8)
    theirs = scheduler.sigmas.tolist()
    assert np.isinf(ZERO.sigmas[-1])
    assert theirs[0] == pytest.approx(4096, rel=1e-6)
    expected = (0, 125, 250, 375, 500, 625, 750, 875, 1000)
    for first in (theirs[0], 4518.7637, float("inf")):
        assert Schedule.from_sigmas([first, *theirs[1:]], ZERO).timesteps == expected
    own = Schedule(expected)
    np.testing.assert_allclose(own.to_sigmas(ZERO), theirs, rtol=1e-3)
    assert own.to_sigmas(ZERO, highest=COMFYUI_HIGHEST)[0] == pytest.approx(4518.7637, abs=1e-3)
    denoiser = Denoiser(lambda x, t: x, ZERO, "v", shape=(2,), levels=None)
    assert '"4518.76' in snippet("comfyui", own, denoiser)
    scheduler.set_timesteps(sigmas=own.to_sigmas(ZERO))
    np.testing.assert_allclose(scheduler.timesteps, own.to_diffusers(), atol=0.5)


def test_a_list_that_ends_at_the_lowest_sigma():
    """Align Your Steps' own list: programs put 0 in the place of its last number."""
    noise = NoiseSchedule.from_diffusers(diffusers.PNDMScheduler(**STOCK["euler"][1]))
    ays = [14.6146412293, 6.4745760956, 3.8636745985, 2.6946151520, 1.8841921177]
    ays += [1.3943805092, 0.9642583904, 0.6523686016, 0.3977456272, 0.1515232662, 0.0291671582]
    as_run = Schedule.from_sigmas([*ays[:-1], 0.0], noise)
    with pytest.warns(UserWarning, match="read as the end of sampling.*zero='none'"):
        assert Schedule.from_sigmas(ays, noise) == as_run
    assert as_run.steps == 10
    assert Schedule.from_sigmas(ays, noise, zero="append") == as_run
    all_steps = Schedule.from_sigmas(ays, noise, zero="none")
    assert all_steps.steps == 11
    assert all_steps.timesteps[1] == 1
    flow = NoiseSchedule.flow(1000)
    assert Schedule.from_sigmas([1.0, 0.5, 0.001], flow).timesteps == (0, 1, 500, 1000)


def test_lists_that_begin_below_T_are_moved_or_kept_for_samples():
    scheduler = diffusers.DDIMScheduler()  # "leading"
    scheduler.set_timesteps(8)
    moved = Schedule.from_diffusers(scheduler, start="move")
    kept = Schedule.from_diffusers(scheduler, start="keep")
    assert moved.timesteps == (0, 1, 126, 251, 376, 501, 626, 751, 1000)
    assert kept.timesteps == (0, 1, 126, 251, 376, 501, 626, 751, 876)
    noise = NoiseSchedule.linear(1000)
    assert Schedule.from_sigmas(noise.sigmas[[876, 300, 0]], noise, start="keep").T == 876
    network = torch.nn.Linear(2, 2)
    denoiser = Denoiser(
        lambda x, t: 0.1 * network(x), noise, shape=(2,), levels=None, clip=False, identity="a"
    )
    drawn = dpdiff.sample(denoiser, kept, n=3, sampler="ddim", progress=False)
    x = dpdiff.sample(denoiser, Schedule([0, 1000]), n=3, sampler="ddim", progress=False)
    assert not torch.equal(drawn, x)
    # As diffusers: the same noise, from the first step on.
    gaussian = dpdiff.runtime.random_streams.gaussian(0, 1000, range(3), (2,))
    x = torch.from_numpy(gaussian)
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(8)
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(0.1 * network(x), t, x).prev_sample
    torch.testing.assert_close(drawn, x, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="ends at 876"):
        dpdiff.evaluate(denoiser, np.zeros((2, 2)), kept, progress=False)
    with pytest.raises(InputError, match="ends at 876"):  # of another grid, it may not begin so
        dpdiff.sample(denoiser, Schedule(kept.timesteps), n=1, progress=False)
    with pytest.raises(InputError, match="'move' or 'keep'"):
        Schedule.from_diffusers(scheduler, start="there")


# --- stock pipelines with our schedulers ---

#: What pipelines ask of a scheduler that is theirs alone: the inside of a solver that they were
#: written around. With ours in its place they stop with an AttributeError that names it.
INSIDES = {
    *("_step_index", "_init_step_index", "final_alpha_cumprod", "_get_variance", "betas"),
    *("model_outputs", "lower_order_nums", "last_sample", "convert_model_output", "alphas"),
    *("dpm_solver_first_order_update", "_sigma_to_alpha_sigma_t", "_get_conditioning_c_in"),
    *("step_correct", "step_pred", "set_sigmas", "add_noise_to_input", "undo_step", "eta"),
    *("_is_ode_scheduler", "batch_step_no_noise", "ori_start_sigmas"),
    *("check_block_should_continue", "check_eos_finished"),
}


def asked_of_schedulers():
    """What the sources of diffusers' pipelines ask of a scheduler, and how many of them."""
    asked = Counter()
    for path in (Path(diffusers.__file__).parent / "pipelines").rglob("*.py"):
        attributes = {
            node.attr
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute)
            and ast.unparse(node.value) in ("self.scheduler", "scheduler")
        }
        asked.update(attributes)
    return asked


def test_our_schedulers_offer_what_pipelines_ask_for():
    asked = asked_of_schedulers()
    assert asked["set_timesteps"] > 100
    assert asked["sigmas"] > 10
    for source in (diffusers.DDPMScheduler(), flow(), diffusers.EDMEulerScheduler()):
        ours = UnevenDDIMScheduler.from_config(source, schedule=Schedule.even(1000, 4))
        missing = {name for name in asked if not hasattr(ours, name)}
        assert missing <= INSIDES
        assert len(ours.sigmas) == len(ours.timesteps) + 1
        assert ours.sigmas[-1] == 0
    assert sum(asked[name] for name in INSIDES) < 50  # of thousands
    ours.set_timesteps(4, sigmas=[1.0, 0.7, 0.5, 0.2], timesteps=[1000, 700, 500, 200], mu=0.5)
    with pytest.raises(InputError, match="the pipeline asks for 3"):
        ours.set_timesteps(timesteps=[3, 2, 1])
    ours.set_begin_index(2)
    assert (ours.begin_index, ours.step_index, ours.order) == (2, 0, 1)


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
def test_a_stock_pipeline_that_reads_the_scheduler_s_sigmas(shift):
    """WanPipeline, whose own scheduler is UniPC in flow times."""
    pytest.importorskip("transformers")
    coder = diffusers.AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1] * 4,
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    network, text = wan(), drawn(5, 8)
    settings = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    scheduler = diffusers.UniPCMultistepScheduler(**settings, flow_shift=shift)
    pipe = diffusers.WanPipeline(
        tokenizer=None, text_encoder=None, vae=coder, scheduler=scheduler, transformer=network
    )
    pipe.set_progress_bar_config(disable=True)
    schedule, noise = Schedule.even(1000, 4), NoiseSchedule.from_diffusers(scheduler)
    pipe.scheduler = UnevenDDIMScheduler.from_config(scheduler, schedule=schedule)
    x = drawn(2, 4, 1, 8, 8)
    latents = pipe(
        prompt_embeds=text.expand(2, 5, 8),
        latents=x,
        num_inference_steps=4,
        guidance_scale=1.0,
        output_type="latent",
        height=64,
        width=64,
        num_frames=1,
    ).frames
    held = Conditioned(network, encoder_hidden_states=text)
    denoiser = Denoiser(held, noise, "flow", shape=(4, 1, 8, 8), levels=None)
    expected = dpdiff.sample(denoiser, schedule, 2, x_T=x, sampler="ddim", progress=False)
    torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-4)


# --- a stranger's run ---


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("DPMSolverMultistepScheduler", {}),
        ("SASolverScheduler", {"beta_schedule": "scaled_linear", **STABLE}),
        ("LCMScheduler", {}),
        ("UniPCMultistepScheduler", STOCK["wan 720p"][1]),
        ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
        ("EDMDPMSolverMultistepScheduler", {}),
    ],
)
def test_a_folder_with_any_scheduler_to_eight_steps_in_one_command(kind, settings, tmp_path):
    scheduler = getattr(diffusers, kind)(num_train_timesteps=60, **settings)
    pipe = diffusers.DDPMPipeline(unet2d(in_channels=1, out_channels=1), diffusers.DDPMScheduler())
    pipe.register_modules(scheduler=scheduler)
    pipe.save_pretrained(tmp_path / "model")
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    command = ["optimize", "--model", str(tmp_path / "model"), "--steps", "8", "--per-step", "2"]
    command += ["--data", str(tmp_path / "images.npy"), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    schedule = next(
        Schedule.load(path) for path in (tmp_path / "out").rglob("*.json") if "8" in path.name
    )
    assert schedule.steps == 8
    pipe.scheduler = UnevenDDIMScheduler.from_config(pipe.scheduler, schedule=schedule)
    assert len(pipe.scheduler.timesteps) == 8
