"""HTML in which text is escaped unless it was made here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TypeAlias

from nestlearn.reporting.style import clean

__all__ = ["Html", "h", "scroll", "table"]

_VOID = frozenset({"meta", "link", "br"})


class Html(str):
    """Markup that is ready for the page. Any other string is text and will be escaped."""

    __slots__ = ()


Content: TypeAlias = "str | Iterable[Content]"


def h(tag: str, *content: Content, **attributes: str | int | bool | None) -> Html:
    """Make an element.

    Args:
        tag: its name.
        *content: text (escaped), `Html` (as it is), or iterables of them.
        **attributes: underscores become hyphens, one at the end is dropped (``class_``); True stands alone,
            None and False are left out.

    Returns:
        The element with what it holds.
    """
    head = tag
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        key = name.rstrip("_").replace("_", "-")
        head += f" {key}" if value is True else f' {key}="{escape(clean(str(value)))}"'
    if tag in _VOID:
        return Html(f"<{head}>")
    return Html(f"<{head}>{''.join(_flat(content))}</{tag}>")


def _flat(content: Iterable[Content]) -> Iterable[str]:
    for item in content:
        if isinstance(item, Html):
            yield item
        elif isinstance(item, str):
            yield escape(clean(item), quote=False)
        else:
            yield from _flat(item)


def scroll(label: str, content: Html) -> Html:
    """Let wide content scroll sideways on its own, by keyboard too.

    Args:
        label: its name for assistive technology.
        content: what is wide.

    Returns:
        A focusable region.
    """
    return h("div", content, class_="scroll", role="region", aria_label=label, tabindex=0)


def table(
    caption: str,
    header: Sequence[Content],
    rows: Iterable[Sequence[Content]],
    *,
    class_: str | None = None,
    hidden_caption: bool = False,
) -> Html:
    """Make a data table whose first column names its rows.

    Args:
        caption: what the table shows.
        header: one heading per column.
        rows: as many cells as headings; a cell that is already a ``<td>`` is taken as it is.
        class_: CSS class.
        hidden_caption: keep the caption for assistive technology only.

    Returns:
        The table in a scrolling region.
    """
    head = h("tr", (h("th", text, scope="col") for text in header))
    body = (
        h("tr", h("th", first, scope="row"), (_cell(content) for content in rest)) for first, *rest in rows
    )
    inside = h(
        "table",
        h("caption", caption, class_="hidden" if hidden_caption else None),
        h("thead", head),
        h("tbody", body),
        class_=class_,
    )
    return scroll(caption, inside)


def _cell(content: Content) -> Html:
    if isinstance(content, Html) and content.startswith("<td"):
        return content
    return h("td", content)
