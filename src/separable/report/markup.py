"""HTML that cannot be broken into. In: untrusted text and trusted markup. Out: markup in which all text is escaped."""

from __future__ import annotations

import html


class Html(str):
    """Text that is markup already; every other string is escaped when it becomes part of an element."""

    __slots__ = ()


Child = str | None


def element(tag: str, *children: Child, **attributes: str | float | bool | None) -> Html:
    """One element. ``class_`` and ``data_key`` become ``class`` and ``data-key``; None and False leave things out.

    >>> element("b", "1 < 2", class_="x", hidden=True, id=None)
    '<b class="x" hidden>1 &lt; 2</b>'
    """
    opened = "".join(_attribute(name, value) for name, value in attributes.items())
    return Html(f"<{tag}{opened}>{join(*children)}</{tag}>")


def join(*children: Child) -> Html:
    """Children one after the other, escaped where they are not markup."""
    return Html("".join(child if isinstance(child, Html) else html.escape(child) for child in children if child))


def section(title: str, *children: Child) -> Html:
    """A part of the page under its heading."""
    anchor = f"about-{title.lower().replace(' ', '-')}"
    return element("section", element("h2", title, id=anchor), *children, aria_labelledby=anchor)


def _attribute(name: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'
