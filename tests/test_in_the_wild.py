"""Configs, lists, pipelines and networks as other people have them: read rightly, or refused."""

import json
import re
import warnings

import diffusers
import numpy as np
import pytest
import torch
from tiny_pipelines import drawn, unet2d

import dpdiff
from dpdiff import Conditioned, Denoiser, InputError, NoiseSchedule
from dpdiff.conditioned import Guided

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


def test_the_refusal_says_what_time_a_pipeline_tells():
    from dpdiff.diffusers.folders import call_of

    pytest.importorskip("transformers")
    names, told = call_of(
        diffusers.QwenImagePipeline, "transformer", diffusers.QwenImageTransformer2DModel
    )
    assert {"encoder_hidden_states", "img_shapes"} <= set(names)
    assert told == "timestep / 1000"


def test_what_is_no_pipeline_is_not_called_one():
    assert "got a Nothing" in refusal(type("Nothing", (), {})())
