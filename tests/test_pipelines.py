"""Pipelines of diffusers become denoisers that say what the pipelines themselves say."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, ScoreSdeVePipeline, ScoreSdeVeScheduler
from tiny_pipelines import (
    CONDITIONS,
    POOLED,
    TEXT,
    autoencoder,
    flux,
    folder,
    pipeline,
    stand_in,
    text_unet,
    unet2d,
)

import dpdiff
from dpdiff import InputError, Schedule
from dpdiff.diffusers import AncestralScheduler, UnevenDDIMScheduler
from dpdiff.diffusers.pipelines import PIPELINES, packed, unpacked

GUIDED = ("DiTPipeline", "StableDiffusionPipeline", "StableDiffusionXLPipeline")
GUIDED += ("StableDiffusion3Pipeline",)
TEXTS = GUIDED[1:]
UNEVEN = Schedule([0, 30, 300, 1000])
KIND = pytest.mark.parametrize("kind", CONDITIONS)


def noise(denoiser, n=2):
    return torch.randn(n, *denoiser.shape, generator=torch.Generator().manual_seed(0))


def ddim(denoiser, x, schedule=UNEVEN):
    return dpdiff.sample(denoiser, schedule, n=len(x), x_T=x, sampler="ddim", progress=False)


# --- what they become ---


@KIND
def test_a_folder_and_a_pipeline_in_memory_are_one_model(kind, tmp_path):
    in_memory = dpdiff.load(stand_in(kind), **CONDITIONS[kind])
    on_disk = dpdiff.load(folder(kind, tmp_path), **CONDITIONS[kind])
    assert on_disk.fingerprint == in_memory.fingerprint
    assert in_memory.shape == ((4, 8, 12) if kind == "FluxPipeline" else (4, 8, 8))
    assert (in_memory.levels, in_memory.clip) == (None, False)
    assert in_memory.predicts == ("flow" if "transformer" in vars(stand_in(kind)) else "eps") or (
        kind == "DiTPipeline"
    )
    assert in_memory(noise(in_memory), 1000).x0.isfinite().all()


def asked(kind, network, x, t, conditions, which):
    """What a network says of a batch, called as the stock pipeline of its kind calls it."""
    n = len(x)
    if kind == "DiTPipeline":
        label = {"": conditions["class_label"], "negative_": 1000}[which]
        labels = torch.full((n,), label)
        return network(x, timestep=torch.full((n,), t), class_labels=labels).sample
    text = conditions[f"{which}prompt_embeds"].expand(n, -1, -1)
    if kind == "StableDiffusionPipeline":
        return network(x, t, encoder_hidden_states=text).sample
    pooled = conditions[f"{which}pooled_prompt_embeds"].expand(n, -1)
    if kind == "StableDiffusionXLPipeline":
        sizes = torch.tensor([[16.0, 16.0, 0.0, 0.0, 16.0, 16.0]] * n)
        added = {"text_embeds": pooled, "time_ids": sizes}
        return network(x, t, encoder_hidden_states=text, added_cond_kwargs=added).sample
    return network(
        hidden_states=x,
        timestep=torch.full((n,), float(t)),
        encoder_hidden_states=text,
        pooled_projections=pooled,
    ).sample


@pytest.mark.parametrize("kind", GUIDED)
@torch.inference_mode()
def test_guidance_is_the_pipelines_own(kind):
    """u + w (c - u) of two calls, one example at a time; of a learned variance, that of c."""
    pipe, conditions = stand_in(kind), CONDITIONS[kind]
    denoiser = dpdiff.load(pipe, **conditions)
    x, t = noise(denoiser), 700
    time_input = denoiser.noise.time_inputs[t - 1].item()
    network = getattr(pipe, PIPELINES[kind].part)
    c, u = (asked(kind, network, x, time_input, conditions, which) for which in ("", "negative_"))
    ours, v = denoiser.network_output(x, np.full(2, t))
    assert (c - u).abs().max() > 1e-4
    torch.testing.assert_close(ours, (u + 3 * (c - u))[:, :4], rtol=1e-5, atol=1e-5)
    if kind == "DiTPipeline":
        torch.testing.assert_close(v, (c[:, 4:] + 1) / 2, rtol=1e-5, atol=1e-6)
    plain = dpdiff.load(pipe, **conditions | {"guidance_scale": 1})
    ours, _ = plain.network_output(x, np.full(2, t))
    torch.testing.assert_close(ours, c[:, :4], rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_flux_sees_tokens_of_two_by_two():
    pipe, conditions = stand_in("FluxPipeline"), CONDITIONS["FluxPipeline"]
    denoiser = dpdiff.load(pipe, **conditions)
    x = noise(denoiser)
    places = torch.tensor([[0.0, row, column] for row in range(4) for column in range(6)])
    output = pipe.transformer(
        packed(x),
        conditions["prompt_embeds"].expand(2, -1, -1),
        conditions["pooled_prompt_embeds"].expand(2, -1),
        timestep=torch.full((2,), denoiser.noise.time_inputs[499] / 1000, dtype=torch.float32),
        img_ids=places,
        txt_ids=torch.zeros(5, 3),
        guidance=torch.full((2,), 3.0),
    ).sample
    ours, _ = denoiser.network_output(x, np.full(2, 500))
    torch.testing.assert_close(ours, unpacked(output, 4, 6), rtol=1e-5, atol=1e-6)
    token = packed(x)[0, 7].reshape(4, 2, 2)  # row 1, column 1
    torch.testing.assert_close(token, x[0, :, 2:4, 2:4])


def test_conditions_and_scale_are_part_of_the_fingerprint():
    pipe, conditions = stand_in("StableDiffusionPipeline"), CONDITIONS["StableDiffusionPipeline"]
    changed = [{}, {"guidance_scale": 4.0}, {"guidance_scale": 1.0}]
    changed += [{name: conditions[name] + 1} for name in TEXT]
    assert len({dpdiff.load(pipe, **conditions | c).fingerprint for c in changed}) == len(changed)
    batched = {name: value[None] for name, value in TEXT.items()}
    same = dpdiff.load(pipe, **batched, guidance_scale=3.0)
    assert same.fingerprint == dpdiff.load(pipe, **conditions).fingerprint
    assert dpdiff.load(pipe, **TEXT).network.scale == 7.5


def test_pictures_of_another_size():
    pipe = stand_in("StableDiffusionPipeline")
    assert dpdiff.load(pipe, **TEXT, height=32, width=8).shape == (4, 16, 4)
    with pytest.raises(InputError, match="multiples of 2 here, got 33"):
        dpdiff.load(pipe, **TEXT, height=33)


# --- likelihood, or samples ---


@pytest.mark.parametrize("kind", [*GUIDED, "FluxPipeline"])
def test_the_likelihood_of_a_guided_network_is_refused(kind):
    denoiser = dpdiff.load(stand_in(kind), **CONDITIONS[kind])
    data = noise(denoiser, 4).numpy()
    for one in (denoiser, denoiser.with_precision("bf16")):
        with pytest.raises(InputError, match="its likelihood has no meaning"):
            dpdiff.measure(one, data, per_step=2, progress=False)
        with pytest.raises(InputError, match=r"dpdiff\.trajectories"):
            dpdiff.evaluate(one, data, UNEVEN, progress=False)


def test_a_guided_network_has_schedules_for_samples():
    denoiser = dpdiff.load(stand_in("DiTPipeline"), **CONDITIONS["DiTPipeline"])
    paths = dpdiff.trajectories(denoiser, n=2, nodes=6, progress=False)
    assert dpdiff.solve(paths.costs()).schedule(3).steps == 3


@pytest.mark.parametrize("kind", ["LDMPipeline", "DiTPipeline", "StableDiffusion3Pipeline"])
def test_without_guidance_latents_are_measured(kind):
    conditions = CONDITIONS[kind] | ({} if kind == "LDMPipeline" else {"guidance_scale": 1})
    pipe = stand_in(kind)
    denoiser = dpdiff.load(pipe, **conditions)
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 16, 16), np.uint8)
    data = dpdiff.latents(pipe, images)
    assert data.shape == (4, *denoiser.shape)
    bound = dpdiff.evaluate(denoiser, data, UNEVEN, progress=False)
    assert np.isfinite(bound.mean)
    costs = dpdiff.measure(denoiser, data, calls=200, progress=False)
    assert np.isfinite(costs.mse).all()


# --- refusals ---


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("StableDiffusionPipeline", {"colour": 1}, "load takes the conditions .*got colour"),
        ("StableDiffusionPipeline", {"prompt_embeds": None}, "needs prompt_embeds"),
        ("StableDiffusionPipeline", {"negative_prompt_embeds": None}, "negative_prompt"),
        ("StableDiffusionPipeline", {"prompt": "a dog"}, "text encoders.*or prompt_embeds"),
        ("StableDiffusionPipeline", {"prompt": ["a", "b"]}, "another text is another model"),
        ("StableDiffusionPipeline", {"prompt_embeds": torch.ones(2, 5, 8)}, "one example"),
        ("StableDiffusionPipeline", {"prompt_embeds": torch.ones(4, 8)}, "the same shape"),
        ("StableDiffusionPipeline", {"class_label": 3}, "class_label is not for it"),
        ("StableDiffusionPipeline", {"guidance_scale": "high"}, "guidance_scale is a number"),
        ("StableDiffusionXLPipeline", {"pooled_prompt_embeds": None}, "pooled_prompt_embeds"),
        ("FluxPipeline", {"negative_prompt": "blurred"}, "negative_prompt is not for it"),
        ("FluxPipeline", {"height": 10}, "multiples of 4"),
        ("DiTPipeline", {"class_label": 1000}, r"0…999, got 1000"),
        ("DiTPipeline", {"class_label": None}, "say which"),
        ("LDMPipeline", {"class_label": 1}, "takes no conditions"),
    ],
)
def test_what_cannot_be_is_said(kind, changes, message):
    conditions = {k: v for k, v in (CONDITIONS[kind] | changes).items() if v is not None}
    with pytest.raises(InputError, match=message):
        dpdiff.load(stand_in(kind), **conditions)


def test_networks_that_are_called_otherwise_are_refused():
    distilled = text_unet(time_cond_proj_dim=8)
    with pytest.raises(InputError, match="timestep_cond"):
        dpdiff.load(stand_in("StableDiffusionPipeline", unet=distilled), **TEXT)
    inpainting = text_unet(in_channels=9)
    with pytest.raises(InputError, match="takes 9 channels and gives 4"):
        dpdiff.load(stand_in("StableDiffusionPipeline", unet=inpainting), **TEXT)
    other = stand_in("StableDiffusionPipeline")
    other.__class__ = type("KandinskyPipeline", (), {})
    with pytest.raises(InputError, match=r"KandinskyPipeline .*known pipelines: LDMPipeline"):
        dpdiff.load(other)
    with pytest.raises(InputError, match="got a Nothing"):
        dpdiff.load(type("Nothing", (), {})())


def test_a_folder_needs_embeddings_and_all_of_its_tensors(tmp_path):
    kind = "StableDiffusionPipeline"
    place = folder(kind, tmp_path)
    with pytest.raises(InputError, match="pipeline in memory"):
        dpdiff.load(place, prompt="a dog")
    config = place / "unet" / "config.json"
    config.write_text(config.read_text().replace('"layers_per_block": 1', '"layers_per_block": 2'))
    with pytest.raises(InputError, match="cannot load the network"):
        dpdiff.load(place, **CONDITIONS[kind])
    config.write_text(
        config.read_text().replace('"layers_per_block": 2', '"layers_per_block": 1e9')
    )
    with pytest.raises(InputError, match="asks for a size of 1000000000"):
        dpdiff.load(place, **CONDITIONS[kind])


# --- stock pipelines with our schedules ---


def test_a_class_conditional_latent_pipeline_runs_our_schedule():
    kind = "DiTPipeline"
    pipe = pipeline(kind)
    denoiser = dpdiff.load(pipe, class_label=7, guidance_scale=3.0)
    pipe.scheduler = UnevenDDIMScheduler.from_config(pipe.scheduler, schedule=UNEVEN)
    again = dpdiff.load(pipe, class_label=7, guidance_scale=3.0)  # with our scheduler in it
    assert again.fingerprint == denoiser.fingerprint
    images = pipe([7, 7], 3.0, torch.manual_seed(5), num_inference_steps=3, output_type="pt").images
    x = torch.randn(2, *denoiser.shape, generator=torch.manual_seed(5))
    expected = dpdiff.decode(pipe, ddim(denoiser, x))
    assert np.ptp(expected) > 100
    np.testing.assert_allclose(images * 255, expected, atol=0.6)


@pytest.mark.parametrize("sampler", [AncestralScheduler, UnevenDDIMScheduler])
def test_an_unconditional_latent_pipeline_runs_our_schedule(sampler, monkeypatch):
    pipe = pipeline("LDMPipeline")
    denoiser = dpdiff.load(pipe)
    drawn = [noise(denoiser) + i for i in range(3)]
    source = "dpdiff.diffusers.schedulers.randn_tensor"
    monkeypatch.setattr(source, lambda *_, left=drawn[1:], **__: left.pop(0))
    pipe.scheduler = sampler.from_config(pipe.scheduler, schedule=UNEVEN)
    images = pipe(2, torch.manual_seed(0), num_inference_steps=3, output_type="np").images
    x = torch.randn(2, *denoiser.shape, generator=torch.manual_seed(0))
    if sampler is UnevenDDIMScheduler:
        expected = ddim(denoiser, x)
    else:
        feed = {300: drawn[1], 30: drawn[2]}
        walk = dpdiff.sampling.walk(denoiser, UNEVEN, x, noise=feed.__getitem__)
        expected = [*walk][-1].x
    expected = dpdiff.decode(pipe, expected).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(images * 255, expected, atol=0.6)


def texted(kind, x, **changes):
    """Arguments of a stock text-conditional pipeline, for one of a batch of our conditions."""
    conditions = {k: v for k, v in CONDITIONS[kind].items() if k not in ("height", "width")}
    batch = {k: v.expand(len(x), *v.shape) for k, v in conditions.items() if "embeds" in k}
    scale = conditions["guidance_scale"]
    return batch | {"guidance_scale": scale, "output_type": "latent"} | changes


@pytest.mark.parametrize("kind", [*TEXTS, "FluxPipeline"])
def test_text_conditional_pipelines_run_our_schedule(kind):
    pytest.importorskip("transformers")
    pipe = pipeline(kind)
    denoiser = dpdiff.load(pipe, **CONDITIONS[kind])
    x = noise(denoiser)
    expected = ddim(denoiser, x)
    pipe.scheduler = UnevenDDIMScheduler.from_config(pipe.scheduler, schedule=UNEVEN)
    if kind == "FluxPipeline":
        arguments = texted(kind, x, latents=packed(x), height=16, width=24)
        latents = unpacked(pipe(**arguments, num_inference_steps=3).images, 4, 6)
    else:
        latents = pipe(**texted(kind, x, latents=x), num_inference_steps=3).images
    assert expected.std() > 0.1
    torch.testing.assert_close(latents, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", [*TEXTS, "FluxPipeline"])
def test_prompts_are_encoded_by_the_pipeline(kind, monkeypatch):
    """Its own encode_prompt is called as it wants to be, and what it returns is understood."""
    pytest.importorskip("transformers")
    pipe, conditions = pipeline(kind), CONDITIONS[kind]
    call = inspect.signature(type(pipe).__call__).parameters
    assert PIPELINES[kind].scale == call["guidance_scale"].default
    wanted, asked = inspect.signature(type(pipe).encode_prompt), []
    names = ["prompt_embeds", "negative_prompt_embeds", *POOLED]
    if kind == "FluxPipeline":
        names = ["prompt_embeds", "pooled_prompt_embeds"]

    def encode_prompt(self, **arguments):
        asked.append(wanted.bind(self, **arguments).arguments)
        return [conditions[name][None] for name in names if name in conditions]

    monkeypatch.setattr(type(pipe), "encode_prompt", encode_prompt)
    pipe.text_encoder = torch.nn.Identity()
    others = {k: v for k, v in conditions.items() if "embeds" not in k}
    if kind != "FluxPipeline":
        others |= {"negative_prompt": "grey"}
    denoiser = dpdiff.load(pipe, prompt="a dog", **others)
    assert denoiser.fingerprint == dpdiff.load(pipe, **conditions).fingerprint
    assert asked[0]["prompt"] == "a dog"
    assert asked[0].get("negative_prompt") == others.get("negative_prompt")
    with pytest.raises(InputError, match="prompt or prompt_embeds"):
        dpdiff.load(pipe, prompt="a dog", **conditions)


@pytest.mark.parametrize(
    "kind", ["StableDiffusionPipeline", "StableDiffusion3Pipeline", "FluxPipeline"]
)
def test_image_to_image_begins_where_it_is_told(kind, monkeypatch):
    """The image is latents already, which SD 3 does not expect and so is told."""
    pytest.importorskip("transformers")
    pipe = pipeline(kind, kind.replace("Pipeline", "Img2ImgPipeline"))
    denoiser, schedule = dpdiff.load(pipe, **CONDITIONS[kind]), Schedule([0, 30, 300, 600, 1000])
    x_0 = noise(denoiser) / 2
    run = {"sampler": "ddim", "progress": False}
    expected = dpdiff.sample(denoiser, schedule, n=2, x_0=x_0, begin=500, **run)
    eps = dpdiff.runtime.random_streams.gaussian(0, 300, range(2), denoiser.shape)
    eps = torch.from_numpy(eps)
    pipe.scheduler = UnevenDDIMScheduler.from_config(pipe.scheduler, schedule=schedule)
    monkeypatch.setattr(f"{type(pipe).__module__}.randn_tensor", lambda *_, **__: eps)
    if kind == "StableDiffusion3Pipeline":
        monkeypatch.setattr(
            type(pipe),
            "prepare_latents",
            lambda self, image, t, *_: self.scheduler.scale_noise(x_0, t, eps),
        )
    sizes = {"height": 16, "width": 24} if kind == "FluxPipeline" else {}
    arguments = texted(kind, x_0, image=x_0, strength=pipe.scheduler.strength(500), **sizes)
    latents = pipe(**arguments, num_inference_steps=4).images
    latents = unpacked(latents, 4, 6) if kind == "FluxPipeline" else latents
    torch.testing.assert_close(latents, expected, rtol=1e-5, atol=1e-4)


# --- networks of images ---


def test_score_networks_know_images_in_zero_to_one():
    """Their probability flow by hand: dx = -σ score dσ on [0, 1], Euler steps."""
    network = unet2d(in_channels=1, out_channels=1, time_embedding_type="fourier")
    scheduler = ScoreSdeVeScheduler(num_train_timesteps=50, sigma_max=5.0)
    denoiser = dpdiff.load(ScoreSdeVePipeline(network, scheduler))
    assert (denoiser.predicts, denoiser.noise.prior_scale) == ("score", 5.0)
    schedule, sigmas = Schedule([0, 10, 30, 50]), np.geomspace(0.01, 5.0, 50)
    x = y = 5 * noise(denoiser)
    y = y + 0.5
    with torch.inference_mode():
        for t, s in reversed(schedule.jumps):
            sigma, to = sigmas[t - 1], sigmas[s - 1] if s else 0.0
            score = network(y, torch.full((2,), sigma, dtype=torch.float32)).sample
            y = y - (to - sigma) * sigma * score
    samples = ddim(denoiser, x, schedule)
    torch.testing.assert_close((samples + 1) / 2, y, rtol=1e-4, atol=1e-4)
    images = np.random.default_rng(0).integers(0, 256, (4, 1, 8, 8), np.uint8)
    costs = dpdiff.measure(denoiser, images, per_step=2, progress=False)
    assert costs.bound(schedule).mean > 0


def test_one_class_of_a_network_of_classes(tmp_path):
    network = unet2d(in_channels=1, out_channels=1, num_class_embeds=5)
    pipe = DDPMPipeline(network, DDPMScheduler(20))
    denoiser = dpdiff.load(pipe, class_label=3)
    pipe.save_pretrained(tmp_path)
    assert dpdiff.load(tmp_path, class_label=3).fingerprint == denoiser.fingerprint
    assert dpdiff.load(tmp_path, class_label=4).fingerprint != denoiser.fingerprint
    x = noise(denoiser)
    with torch.inference_mode():
        expected = network(x, 9, class_labels=torch.full((2,), 3)).sample
    output, _ = denoiser.network_output(x, np.full(2, 10))
    torch.testing.assert_close(output, expected)
    for wrong in ({}, {"class_label": 5}, {"class_label": True}):
        with pytest.raises(InputError, match="an integer in 0…4"):
            dpdiff.load(pipe, **wrong)
    with pytest.raises(InputError, match="guidance_scale is not for it"):
        dpdiff.load(pipe, class_label=3, guidance_scale=2.0)


# --- latents ---


@pytest.mark.parametrize("kind", ["LDMPipeline", "StableDiffusionPipeline", "FluxPipeline"])
def test_latents_are_scaled_as_the_network_knows_them(kind):
    pipe, vae = stand_in(kind), autoencoder(kind)
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8), np.uint8)
    x = torch.from_numpy(images) / 127.5 - 1
    with torch.inference_mode():
        encoding = vae.encode(x.float())
    z = encoding.latents if kind == "LDMPipeline" else encoding.latent_dist.mean
    shift = 0.1 if kind == "FluxPipeline" else 0.0
    data = dpdiff.latents(pipe, images, batch_size=2)
    np.testing.assert_allclose(data, vae.config.scaling_factor * (z - shift), rtol=1e-4, atol=1e-6)
    last = dpdiff.latents(pipe, images.transpose(0, 2, 3, 1))
    np.testing.assert_allclose(last, data, rtol=1e-4, atol=1e-6)
    with torch.inference_mode():
        picture = ((vae.decode(z).sample / 2 + 0.5).clamp(0, 1) * 255).round().numpy()
    assert abs(dpdiff.decode(pipe, torch.from_numpy(data)).astype(int) - picture).max() <= 1


def test_latents_that_are_drawn_have_the_encoders_moments():
    pipe = stand_in("StableDiffusionPipeline")
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 8, 8), np.uint8)
    with torch.inference_mode():
        distribution = pipe.vae.encode((torch.from_numpy(image) / 127.5 - 1).float()).latent_dist
    many = dpdiff.latents(pipe, image.repeat(2000, 0), seed=4, batch_size=500) / 0.3
    off = (many.mean(0) - distribution.mean[0].numpy()) / distribution.std[0].numpy()
    assert abs(off).max() < 5 / np.sqrt(2000)
    np.testing.assert_allclose(many.std(0), distribution.std[0], rtol=0.1)
    alone = dpdiff.latents(pipe, image, seed=4)  # every image has its own noise
    np.testing.assert_allclose(alone, many[:1] * 0.3, rtol=1e-4, atol=1e-6)


def test_only_latent_models_have_latents():
    with pytest.raises(InputError, match="has no autoencoder"):
        dpdiff.latents(DDPMPipeline(unet2d(), DDPMScheduler()), np.zeros((2, 3, 8, 8), np.uint8))
    with pytest.raises(InputError, match=r"shape \(N, 3, H, W\)"):
        dpdiff.latents(stand_in("LDMPipeline"), np.zeros((2, 1, 8, 8), np.uint8))


# --- partial runs ---


def test_sampling_begins_at_the_largest_node():
    denoiser = dpdiff.load(stand_in("LDMPipeline"))
    x_0 = noise(denoiser)
    run = {"n": 2, "seed": 3, "progress": False}
    samples = dpdiff.sample(denoiser, UNEVEN, x_0=x_0, begin=999, **run)
    f, g = denoiser.noise.f[300], denoiser.noise.g[300]
    gaussian = dpdiff.runtime.random_streams.gaussian
    eps, fresh = (torch.from_numpy(gaussian(3, t, range(2), denoiser.shape)) for t in (300, 30))
    part = Schedule([0, 30, 300])
    walk = dpdiff.sampling.walk(denoiser, part, f * x_0 + g * eps, noise=lambda s: fresh)
    torch.testing.assert_close(samples, [*walk][-1].x)
    from_T = dpdiff.sample(denoiser, UNEVEN, x_0=x_0, begin=1000, **run)
    assert (from_T - samples).abs().max() > 1e-3
    for wrong in ({"x_0": x_0}, {"begin": 500}, {"x_0": x_0, "begin": 500, "x_T": x_0}):
        with pytest.raises(InputError, match="given together"):
            dpdiff.sample(denoiser, UNEVEN, **wrong, **run)
    with pytest.raises(InputError, match="first step is at 30 > 29"):
        dpdiff.sample(denoiser, UNEVEN, x_0=x_0, begin=29, **run)


def test_a_denoiser_in_half_precision_gives_its_conditions_in_its_own():
    pipe = stand_in(
        "StableDiffusionXLPipeline", unet=stand_in("StableDiffusionXLPipeline").unet.half()
    )
    denoiser = dpdiff.load(pipe, **TEXT, **POOLED)
    assert denoiser.dtype == torch.float16
    assert denoiser(noise(denoiser), 500).x0.dtype == torch.float32


def test_flux_without_guidance_is_a_denoiser():
    pipe = stand_in("FluxPipeline", transformer=flux(guidance_embeds=False))
    denoiser = dpdiff.load(pipe, **CONDITIONS["FluxPipeline"])
    assert np.isfinite(
        dpdiff.evaluate(denoiser, noise(denoiser).numpy(), UNEVEN, progress=False).mean
    )
    assert replace(denoiser, variance="large").fingerprint == denoiser.fingerprint
