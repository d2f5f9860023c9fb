"""The templates of the pages: all that is put into them is escaped, and unknown names are refused."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files as package_files
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined

from steadylens.report import figures

_SOURCES = ("template.html.j2", "audit.html.j2", "comparison.html.j2", "parts.html.j2", "style.css")


def render(template: str, context: Mapping[str, Any]) -> bytes:
    """A page as UTF-8; a file name may hold what UTF-8 cannot, which becomes a question mark."""
    return _environment().get_template(template).render(context).encode("utf-8", errors="replace")


@cache
def _environment() -> Environment:
    """Jinja2 with figures written as figures.py says."""
    folder = package_files("steadylens.report")
    sources = {name: folder.joinpath(name).read_text(encoding="utf-8") for name in _SOURCES}
    environment = Environment(
        loader=DictLoader(sources),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: figures.MISSING if value is None else value,
    )
    for write in (figures.percent, figures.points, figures.decimal, figures.count, figures.duration, figures.plain):
        environment.filters[write.__name__] = write
    environment.filters["in_words"] = figures.field
    environment.filters["interval"] = figures.interval_of
    environment.filters["percent_range"] = figures.percent_range
    return environment
