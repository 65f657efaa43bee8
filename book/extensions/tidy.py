"""Mend what other extensions leave in the pages, as a browser and axe-core found it."""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx

MENDED = {
    # Its children are no list items.
    '<div role="list" class="citation-list">': '<div class="citation-list">',
    # The visible text, "Show code cell source", is the better name.
    '<summary aria-label="Toggle hidden content">': "<summary>",
}


def tidy(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Load every script once, and let elements claim to be what they are."""
    scripts = context.get("script_files", [])
    kept = {(script.filename or "", script.attributes.get("body")): script for script in scripts}
    context["script_files"] = list(kept.values())
    for original, mended in MENDED.items():
        if "body" in context:
            context["body"] = context["body"].replace(original, mended)


def launch(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Let the buttons that open a lesson elsewhere open the reader's notebook of it."""
    for group in context.get("header_buttons", []):
        if group.get("label") == "launch-buttons":
            for button in group["buttons"]:
                button["url"] = button["url"].replace("/lessons/", "/notebooks/")


def setup(app: Sphinx) -> dict[str, bool]:
    """Come after the extensions that add scripts."""
    app.connect("html-page-context", tidy, priority=900)
    app.connect("html-page-context", launch, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
