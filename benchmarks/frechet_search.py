"""How much could any other choice of steps lower the Fréchet distance of few DDIM steps?

    python benchmarks/frechet_search.py fashion-short --budgets 4 6

From the flow schedule, steps are moved one by one on the teacher's 64 nodes, eight nodes at first,
then four, two and one, for as long as that lowers the Fréchet distance of 256 samples to the test
set: the very number, which no cost of jumps knows. What it finds is compared with ``flow`` on 2,048
samples of other noises. ``results/frechet_search_<model>.json`` holds both. Features are kept with
those of ``few_steps.py``.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
from cases import faster, machine, with_speed
from few_steps import PARTS, RESULTS, Classifier, Finder, features, rounded

import dpdiff
from dpdiff import quality
from dpdiff.models import BUNDLED
from dpdiff.runtime.files import replacing

CHOSEN_ON, JUDGED_ON = 256, 2048  # samples; the second come after the first
REACH = 8


def searched(
    denoiser: dpdiff.Denoiser,
    flow: dpdiff.Schedule,
    nodes: list[int],
    eye: Classifier,
    test: np.ndarray,
) -> tuple[dpdiff.Schedule, int]:
    """The last schedule of the search, and how many were tried."""
    known: dict[tuple[int, ...], float] = {}

    def distance(path: tuple[int, ...]) -> float:
        if path not in known:
            drawn = features(denoiser, dpdiff.Schedule(path), "ddim", CHOSEN_ON, eye)
            known[path] = quality.frechet_distance(drawn, test).value
        return known[path]

    path, reach = flow.timesteps, REACH
    while reach:
        before = path
        for i in range(1, len(path) - 1):
            for place in (nodes.index(path[i]) - reach, nodes.index(path[i]) + reach):
                if 0 < place < len(nodes) and path[i - 1] < nodes[place] < path[i + 1]:
                    moved = (*path[:i], nodes[place], *path[i + 1 :])
                    path = min(path, moved, key=distance)
        if path == before:
            reach //= 2
    return dpdiff.Schedule(path), len(known)


def main() -> None:
    """Search, judge and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=BUNDLED)
    parser.add_argument("--budgets", type=int, nargs="+", default=[4, 6])
    with_speed(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    PARTS.mkdir(parents=True, exist_ok=True)
    denoiser = faster(dpdiff.load(options.model, device=options.device), options)
    find, eye = Finder(denoiser, options.model), Classifier(denoiser)
    test = eye.real("test")
    nodes, table = find.paths.nodes.tolist(), {}
    for k in options.budgets:
        flow = find("flow", k)
        best, tried = searched(denoiser, flow, nodes, eye, test)
        drawn = {
            name: features(denoiser, schedule, "ddim", CHOSEN_ON + JUDGED_ON, eye)[CHOSEN_ON:]
            for name, schedule in {"flow": flow, "searched": best}.items()
        }
        table[k] = {
            "flow": rounded(quality.frechet_distance(drawn["flow"], test)),
            "searched": rounded(quality.frechet_distance(drawn["searched"], test)),
            "difference": rounded(
                quality.frechet_difference(drawn["searched"], drawn["flow"], test)
            ),
            "tried": tried,
            "timesteps": list(best.timesteps),
        }
        print(k, table[k], flush=True)
    document = {
        "what": "Fréchet distance to the test set: [value, standard error]",
        "model": {"name": options.model, "fingerprint": denoiser.fingerprint},
        "precision": denoiser.precision,
        "samples": {"chosen on": CHOSEN_ON, "judged on": JUDGED_ON},
        "dpdiff": dpdiff.__version__,
        "machine": machine(),
        "distances": table,
    }
    with replacing(RESULTS / f"frechet_search_{options.model}.json") as file:
        file.write((json.dumps(document, ensure_ascii=False, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
