"""Ask every address outside the book whether it still answers. Needs a built book and a network."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pages
import requests
from tqdm import tqdm

HTML = Path(__file__).resolve().parent.parent / "_build" / "html"
SKIPPED = ("/issues/new?", "/edit/", "mybinder.org/v2/", "colab.research.google.com/")  # they act
PROBE = "https://arxiv.org"


def answer(address: str) -> str:
    """Empty if the address answers, else what is wrong with it."""
    try:
        with requests.get(address, timeout=30, stream=True) as response:
            return "" if response.ok else f"{response.status_code} {response.reason}"
    except requests.RequestException as error:
        return type(error).__name__


def main() -> int:
    """Print the addresses that do not answer, with the pages that link to them."""
    if not HTML.exists():
        print("There is no built book: run make book first.", file=sys.stderr)
        return 2
    if wrong := answer(PROBE):
        print(f"{PROBE} cannot be reached ({wrong}): checking links needs a network.")
        return 2
    links = pages.external_links(HTML)
    asked = sorted(a for a in links if not any(part in a for part in SKIPPED))
    with ThreadPoolExecutor(8) as pool:
        answers = list(tqdm(pool.map(answer, asked), total=len(asked), unit="link"))
    bad = {a: wrong for a, wrong in zip(asked, answers, strict=True) if wrong}
    for address, wrong in bad.items():
        print(f"{address}: {wrong}\n    linked from {', '.join(sorted(set(links[address])))}")
    print(f"{len(asked)} links asked, {len(bad)} do not answer.")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
