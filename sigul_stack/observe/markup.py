"""Elements of HTML as a tree: nothing that is said by a peer can become markup.

Text and attributes are escaped by the standard library when the tree is written. Invariant: what
comes in as a string comes out as one line of text (`printable`), so that no name turns the
direction of writing either.
"""

from __future__ import annotations

# Only the tree and its writing: nothing is parsed.
from xml.etree.ElementTree import Element, tostring

from ..errors import printable

__all__ = ["Element", "element", "written"]


def element(tag: str, *content: str | Element, **attributes: str) -> Element:
    """An element of `content`, where a string is text.

    `class_` stands for `class`, other underscores for hyphens: `aria_label`.
    """
    made = Element(
        tag,
        {name.rstrip("_").replace("_", "-"): printable(text) for name, text in attributes.items()},
    )
    last: Element | None = None
    for item in content:
        if isinstance(item, Element):
            made.append(item)
            last = item
        elif last is None:
            made.text = (made.text or "") + printable(item)
        else:
            last.tail = (last.tail or "") + printable(item)
    return made


def written(root: Element) -> bytes:
    """The document of the tree, UTF-8."""
    document: bytes = tostring(root, encoding="utf-8", method="html")
    return b"<!DOCTYPE html>\n" + document + b"\n"
