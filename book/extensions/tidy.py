"""Mend what other extensions leave in the pages."""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx


def tidy(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Load every script once, and let lists of citations not claim to be lists of list items."""
    scripts = context.get("script_files", [])
    kept = {(script.filename or "", script.attributes.get("body")): script for script in scripts}
    context["script_files"] = list(kept.values())
    if "body" in context:
        old = '<div role="list" class="citation-list">'
        context["body"] = context["body"].replace(old, '<div class="citation-list">')


def setup(app: Sphinx) -> dict[str, bool]:
    """Come after the extensions that add scripts."""
    app.connect("html-page-context", tidy, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
