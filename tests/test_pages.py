"""The check of the built pages finds what it is there to find."""

import importlib.util
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "book" / "pages.py"


@pytest.fixture(scope="module")
def pages():
    spec = importlib.util.spec_from_file_location("pages", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def html(tmp_path):
    """Two sound pages, a picture and a style sheet."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "_static").mkdir()
    (tmp_path / "_static" / "template.html").write_text('<a href="{{ nothing }}">')
    (tmp_path / "style.css").write_text("a { background: url(picture.png) }")
    (tmp_path / "picture.png").write_bytes(b"")
    (tmp_path / "index.html").write_text(
        '<link rel="stylesheet" href="style.css?v=1"><link rel="canonical" href="https://x.org/">'
        '<img src="picture.png" alt="A picture."><p id="top"></p>'
        '<a href="#top"></a><a href="sub/page.html#part%201"></a><a href="https://x.org/#a"></a>'
    )
    (tmp_path / "sub" / "page.html").write_text(
        '<h1 id="part 1"></h1><a href="../index.html"></a><a href="mailto:a@b.c"></a>'
        '<a href=".."></a>'
    )
    return tmp_path


def test_sound_pages_pass(pages, html):
    assert pages.problems(html) == []


@pytest.mark.parametrize(
    ("tag", "complaint"),
    [
        ('<img src="picture.png">', "image without alt text: picture.png"),
        ('<img src="picture.png" alt=" ">', "image without alt text: picture.png"),
        ('<img src="picture.png" alt="picture.png">', "image without alt text: picture.png"),
        ('<a href="gone.html">x</a>', "broken link: gone.html"),
        ('<a href="#gone">x</a>', "broken link: #gone"),
        ('<a href="sub/page.html#gone">x</a>', "broken link: sub/page.html#gone"),
        ('<script src="gone.js"></script>', "missing file: gone.js"),
        ('<script src="https://x.org/a.js"></script>', "another host: https://x.org/a.js"),
        ('<script src="//x.org/a.js"></script>', "another host: //x.org/a.js"),
        ('<link rel="stylesheet" href="https://x.org/a.css">', "another host: https://x.org/a.css"),
        ('<link rel="preconnect" href="https://x.org">', "another host: https://x.org"),
        ('<img alt="A badge." src="https://x.org/a.svg">', "another host: https://x.org/a.svg"),
    ],
)
def test_each_fault_is_found(pages, html, tag, complaint):
    index = html / "index.html"
    index.write_text(index.read_text() + tag)
    (fault,) = pages.problems(html)
    assert fault.startswith("index.html: ")
    assert fault.endswith(complaint)


@pytest.mark.parametrize(
    "rule", ["@import '//x.org/a.css'", "a { background: url( https://x.org/a)"]
)
def test_style_sheets_load_nothing_from_elsewhere(pages, html, rule):
    (html / "style.css").write_text(rule)
    (fault,) = pages.problems(html)
    assert "style.css: loaded from another host" in fault


def test_links_to_other_sites_are_listed_with_their_pages(pages, html):
    assert pages.external_links(html) == {"https://x.org/": ["index.html"]}
