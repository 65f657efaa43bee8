"""What test_workers.py runs under torchrun: three commands, one after another, in each worker."""

import os
import sys

from dpdiff.cli import main


def commands(model, images, folder):
    """Their exit codes."""
    common, data = ["--model", str(model), "--batch-size", "4"], ["--data", str(images)]
    return [
        main(["measure", *common, *data, "--per-step", "5", "--out", f"{folder}/costs.npz"]),
        main(["sample", *common, "--n", "10", "--schedule", "even:4", "--out", f"{folder}/s.png"]),
        main(["evaluate", *common, *data, "--schedule", "even:4", "quadratic:3"]),
    ]


if __name__ == "__main__":
    print(f"worker {os.environ['RANK']}: {commands(*sys.argv[1:])}", file=sys.stderr)
