"""Check the built pages: alt texts, links inside the book, nothing loaded from other hosts."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

# What a browser fetches by itself when it shows a page; links wait for a click.
LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
    "object": "data",
    "image": "href",
    "use": "href",
}
FETCHING = {"stylesheet", "preload", "prefetch", "preconnect", "dns-prefetch", "icon", "manifest"}
IN_STYLES = re.compile(r"(?:url\(|@import)\s*['\"]?\s*((?:https?:)?//[^'\")\s;]+)")


class Page(HTMLParser):
    """What a page links to, loads, and can be linked at."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.silent: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect one tag."""
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag == "link" and FETCHING & set(values.get("rel", "").split()):
            self.loads.append(values.get("href", ""))
        if LOADED.get(tag) in values:
            self.loads.append(values[LOADED[tag]])
        if tag == "img":
            alt = values.get("alt", "").strip()
            if not alt or alt == values.get("src"):
                self.silent.append(values.get("src", "?"))


def read(html: Path) -> dict[Path, Page]:
    """All pages of a folder, by their paths; the theme keeps templates in ``_static``."""
    pages = {}
    for path in sorted(set(html.rglob("*.html")) - set(html.rglob("_static/**/*.html"))):
        pages[path] = Page()
        pages[path].feed(path.read_text(encoding="utf-8"))
    return pages


def is_elsewhere(address: str) -> bool:
    """Whether an address names a host."""
    return bool(urlsplit(address).netloc)


def broken(path: Path, address: str, pages: dict[Path, Page]) -> bool:
    """Whether a link inside the book leads nowhere."""
    if is_elsewhere(address) or urlsplit(address).scheme:
        return False
    place, anchor = urldefrag(address)
    place = unquote(place.split("?")[0])
    target = (path.parent / place).resolve() if place else path
    if target.is_dir():
        target = target / "index.html"
    if not target.exists():
        return True
    known = pages.get(target)
    return bool(anchor) and known is not None and unquote(anchor) not in known.anchors


def problems(html: Path) -> list[str]:
    """Everything that is wrong with the pages of a folder, one line each."""
    html = html.resolve()
    pages, faults = read(html), []
    for path, page in pages.items():
        name = path.relative_to(html)
        faults += [f"{name}: image without alt text: {source}" for source in page.silent]
        faults += [f"{name}: loaded from another host: {a}" for a in page.loads if is_elsewhere(a)]
        faults += [f"{name}: broken link: {a}" for a in page.links if broken(path, a, pages)]
        faults += [f"{name}: missing file: {a}" for a in page.loads if broken(path, a, {})]
    for path in sorted(html.rglob("*.css")):
        hosts = IN_STYLES.findall(path.read_text(encoding="utf-8"))
        faults += [f"{path.relative_to(html)}: loaded from another host: {a}" for a in hosts]
    return list(dict.fromkeys(faults))


def external_links(html: Path) -> dict[str, list[str]]:
    """Addresses outside the book, with the pages that link to them."""
    html, addresses = html.resolve(), {}
    for path, page in read(html).items():
        for address in page.links:
            if urlsplit(address).scheme in ("http", "https"):
                addresses.setdefault(urldefrag(address)[0], []).append(str(path.relative_to(html)))
    return addresses
