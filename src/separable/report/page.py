"""The report as a file. In: facts. Out: one HTML file with its style, script and data inside; it needs no network."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from importlib.resources import files
from string import Template

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
    script = _source("page.js")
    return Template(_source("page.html")).substitute(
        title=element("title", f"{facts.model} · separable"),
        style=_source("page.css"),
        script=script,
        # Only this script may run: whatever else found its way into the page stays dead.
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        facts=_embedded(facts),
        main=sections(facts),
    )


def _embedded(facts: Facts) -> str:
    return json.dumps(facts.to_json(), allow_nan=False).translate(JSON_IN_HTML)


def _source(name: str) -> str:
    return files("separable.report").joinpath(name).read_text(encoding="utf-8")
