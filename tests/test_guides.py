"""Every code block of the README, the welcome page and the guides runs as it stands.

A page's blocks run in order, in a folder that holds what the pages name: a small untrained
pipeline, a few pictures, a text pipeline whose text encoder is lent. A ``text`` block is what the
block before it prints.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_pipelines import TEXT, pipeline, unet2d

from dpdiff.cli import main

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "book/welcome.md", *sorted((ROOT / "book/guide").glob("*.md"))]
BLOCK = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```$", flags=re.M | re.S)
INSTALLING = {"pip", "git", "cd", "make"}  # commands of lines that are not run here
NUMBER = re.compile(r"-?\d+\.\d+")
ROOM = 0.02  # between a printed number and the page's: machines round differently


class Block(NamedTuple):
    """A block of code and, where the page shows it, what it prints."""

    language: str
    code: str
    printed: str | None


class LentEncoder(torch.nn.Module):
    """What a pipeline asks of a text encoder that it does not call."""

    device, dtype = torch.device("cpu"), torch.float32


def blocks(page):
    """The code of a page, block by block."""
    found = [(language, dedent(code)) for _, language, code in BLOCK.findall(page.read_text())]
    after = [*found[1:], ("", "")]
    return [
        Block(language, code, following if other == "text" else None)
        for (language, code), (other, following) in zip(found, after, strict=True)
        if language != "text" and not language.startswith("{")
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the files that the pages name."""
    folder = tmp_path_factory.mktemp("guides")
    network = unet2d(in_channels=1, out_channels=1)
    pipe = diffusers.DDPMPipeline(network, diffusers.DDPMScheduler(1000))
    pipe.save_pretrained(folder / "my_pipeline")
    rng = np.random.default_rng(0)
    for name, size in (("my_images", 8), ("other_images", 8), ("my_pictures", 16)):
        (folder / name).mkdir()
        for i in range(6):
            pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def text_pipeline(monkeypatch):
    """Stable Diffusion with random weights, whose texts are all encoded alike."""
    kind = diffusers.StableDiffusionPipeline

    def encode_prompt(self, *others, **named):
        return TEXT["prompt_embeds"][None], TEXT["negative_prompt_embeds"][None]

    def from_pretrained(name):
        pipe = pipeline("StableDiffusionPipeline")
        pipe.text_encoder = LentEncoder()
        return pipe

    monkeypatch.setattr(kind, "encode_prompt", encode_prompt)
    monkeypatch.setattr(kind, "from_pretrained", from_pretrained)


def run_python(code, names):
    """Run a block in the names of those before; a block that begins with a file's name is it."""
    if file := re.match(r"# (\w+\.py)\n", code):
        Path(file[1]).write_text(code)
    exec(compile(code, "block", "exec"), names)


def run_shell(code):
    """Run the lines of a block: dpdiff in this process, what installs not at all."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words or words[0] in INSTALLING:
            continue
        if words[0] == "dpdiff":
            assert main(words[1:]) == 0, line
        else:
            assert words[0] == "torchrun", line
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", *words[1:]]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_runs(page, place, text_pipeline, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    names, parts = {"__name__": "page"}, blocks(page)
    assert {block.language for block in parts} <= {"python", "bash"}
    for block in parts:
        capsys.readouterr()
        if block.language == "python":
            run_python(block.code, names)
        elif block.language == "bash":
            run_shell(block.code)
        if block.printed is not None:
            printed = capsys.readouterr().out
            assert NUMBER.split(printed) == NUMBER.split(block.printed)
            pairs = zip(NUMBER.findall(printed), NUMBER.findall(block.printed), strict=True)
            assert all(abs(float(one) - float(other)) <= ROOM for one, other in pairs), printed


def test_what_installs_is_there():
    """The lines that are not run name targets of the Makefile and this project's address."""
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.M)
    address = re.search(r'^Source = "(.+)"', (ROOT / "pyproject.toml").read_text(), flags=re.M)
    for page in PAGES:
        for block in blocks(page):
            for words in map(str.split, block.code.splitlines()):
                if words[:1] == ["make"]:
                    assert words[1] in targets
                if words[:2] == ["pip", "install"]:
                    assert address is None or address[1] in words[2]


def test_the_readme_is_two_screens():
    assert len((ROOT / "README.md").read_text()) <= 7000
