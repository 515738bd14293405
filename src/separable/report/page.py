"""The report as a file. In: facts. Out: one HTML file with its style, script and data inside; it needs no network."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from importlib.resources import files
from string import Template
from typing import Any

from separable.files import written_whole
from separable.report.facts import Facts
from separable.report.markup import element
from separable.report.sections import sections

JSON_IN_HTML = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


def write_page(facts: Facts, path: str | os.PathLike[str]) -> None:
    """Write the page to ``path``, whole or not at all. Raises FileError where that cannot be done."""
    page = render(facts).encode("utf-8", "replace")  # a name may hold half a surrogate pair, which has no UTF-8
    with written_whole(path) as part:
        part.write_bytes(page)


def render(facts: Facts) -> str:
    """The page as text."""
    title = element("title", f"{facts.model} · separable")
    return assemble("page", facts.to_json(), title=title, main=sections(facts))


def assemble(name: str, data: Mapping[str, Any], *styles: str, **parts: str) -> str:
    """``name``.html with the script ``name``.js, page.css and further ``styles``, the data as JSON, and other parts."""
    script = _source(f"{name}.js")
    return Template(_source(f"{name}.html")).substitute(
        style="".join(map(_source, ("page.css", *styles))),
        script=script,
        # Only this script may run: whatever else found its way into the page stays dead.
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=json.dumps(data, allow_nan=False).translate(JSON_IN_HTML),
        **parts,
    )


def _source(name: str) -> str:
    return files("separable.report").joinpath(name).read_text(encoding="utf-8")
