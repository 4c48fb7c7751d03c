"""A parsed page: elements, their texts, and what its compressed blocks hold."""

import base64
import json
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "br", "link", "img", "input"}


class Element:
    """An element of the page: tag, attributes, children."""

    def __init__(self, tag: str, attributes: dict[str, str]):
        self.tag, self.attributes, self.children = tag, attributes, list[Element | str]()

    def find(self, tag: str, kind: str = "") -> list["Element"]:
        return [e for e in self if e.tag == tag and (not kind or kind in e.attributes.get("class", "").split())]

    def __iter__(self) -> Iterator["Element"]:
        for child in self.children:
            if isinstance(child, Element):
                yield child
                yield from child

    @property
    def text(self) -> str:
        inner = (child if isinstance(child, str) else child.text for child in self.children)
        return "" if self.tag in ("script", "style") else "".join(inner)

    @property
    def words(self) -> str:
        """The text with single spaces."""
        return " ".join(self.text.split())

    @property
    def raw(self) -> str:
        return "".join(child for child in self.children if isinstance(child, str))

    @property
    def numbers(self) -> list[float]:
        """The exact numbers behind what it says."""
        return [float(e.attributes["data-value"]) for e in (self, *self) if "data-value" in e.attributes]


class Page(HTMLParser):
    """The parsed page. Fails on tags that are not closed in order."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.root = Element("root", {})
        self.open = [self.root]
        self.feed(html)
        self.close()
        assert self.open == [self.root], [element.tag for element in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {key: value or "" for key, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)

    def by_id(self, name: str) -> Element:
        return next(element for element in self.root if element.attributes.get("id") == name)

    def unpack(self, name: str) -> str:
        return zlib.decompress(base64.b64decode(self.by_id(name).raw)).decode()

    @property
    def data(self) -> dict[str, Any]:
        def refuse(name: str) -> None:
            raise AssertionError(f"{name} in the JSON")

        return json.loads(self.unpack("data"), parse_constant=refuse)


def rows_of(table: Element) -> list[list[Element]]:
    """The cells of each row of a table's body."""
    return [[cell for cell in row if cell.tag in ("td", "th")] for row in table.find("tbody")[0].find("tr")]
