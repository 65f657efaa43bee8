"""Which schedulers of diffusers can be given a list, and what they take its numbers for.

Those are meant whose noise schedule is read here (``dpdiff.noise.configs.FAMILIES``). A test runs
each of them, as installed.
"""

from __future__ import annotations

# set_timesteps(timesteps=…): 0-based, or the flow's time times T.
TIMESTEPS = (
    *("DDPM", "DDPMParallel", "DPMSolverMultistep", "DPMSolverSinglestep", "HeunDiscrete"),
    *("LCM", "TCD", "EulerDiscrete", "FlowMatchEulerDiscrete"),
)
# set_timesteps(sigmas=…), and what the numbers mean.
SIGMAS = {
    "EulerDiscrete": "g/f, and 0 at the end",
    "FlowMatchEulerDiscrete": "g before the scheduler's own shift, without a 0",
    "UniPCMultistep": "g before its own shift, and only with use_flow_sigmas",
    "EDMEuler": "places between sigma_max (0) and sigma_min (1), not sigmas",
}
# Neither: dpdiff.integrations.diffusers has schedulers to put in their place.
NEITHER = (
    *("DDIM", "DDIMParallel", "DDIMInverse", "PNDM", "DEISMultistep", "EulerAncestralDiscrete"),
    *("KDPM2Discrete", "KDPM2AncestralDiscrete", "LMSDiscrete", "DPMSolverSDE", "SASolver"),
    *("EDMDPMSolverMultistep", "FlowMatchHeunDiscrete", "ScoreSdeVe"),
)
