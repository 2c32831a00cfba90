"""HTML as readable Markdown: headings, lists, links, code, tables and quotes; no scripts, styles, forms or hidden parts.

What stands there, not how it looks. Nothing is fetched. Text of a page is text: what would be read as Markdown of ours is not escaped,
because a model reads it, and the page is not trusted either way.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_UNSEEN: Final = frozenset(
    "script style template noscript svg math canvas iframe object embed select option button input textarea dialog audio video".split()
)
_BLOCKS: Final = frozenset(
    "address article aside blockquote body dd details div dl dt fieldset figcaption figure footer form header hgroup html main nav ol p "
    "section summary table tbody tfoot thead ul".split()
)
_HEADINGS: Final = {f"h{n}": n for n in range(1, 7)}
_VOID: Final = frozenset("area base br col embed hr img input link meta param source track wbr".split())
_MARKS: Final = {"strong": "**", "b": "**", "em": "*", "i": "*", "code": "`", "kbd": "`", "samp": "`", "tt": "`", "del": "~~", "s": "~~"}
#: What ends by itself where another one begins, within the nearest of `_BOUNDS`.
_IMPLIED: Final = {"td": {"td", "th"}, "th": {"td", "th"}, "tr": {"td", "th", "tr"}, "li": {"li"}, "p": {"p"}}
_BOUNDS: Final = frozenset({"table", "ul", "ol", "blockquote", "div", "section", "article"})
#: Elements within each other that are gone into; what is deeper is taken as text of the last.
_DEPTH: Final = 400


def readable(html: str, url: str = "") -> tuple[str, str]:
    """The page as Markdown, and its title. `url` is where it stood, so that its links are whole."""
    reader = _Reader(url)
    reader.feed(html)
    reader.close()
    return reader.text(), " ".join("".join(reader.title).split())


class _Reader(HTMLParser):
    def __init__(self, url: str) -> None:
        super().__init__(convert_charrefs=True)
        self.title: list[str] = []
        self._url = url
        self._out: list[str] = []
        self._open: list[str] = []
        self._unseen: list[str] = []  # elements that are not shown, open within each other
        self._lists: list[int] = []  # of each open list: its last number, -1 without numbers
        self._quotes = 0
        self._pre = 0
        self._links: list[tuple[int, str]] = []  # of each open link: where it begins in the output, and where it leads
        self._row: list[str] | None = None
        self._cell = -1  # where the open cell begins
        self._rows = 0
        self._in_title = False

    def text(self) -> str:
        """What was read."""
        text = "".join(self._out)
        text = re.sub(r"(?m)^(?:> ?)+$", "", re.sub(r"[ \t]+\n", "\n", text))
        return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"

    # What the parser says.

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if self._unseen:
            if tag not in _VOID and len(self._unseen) < _DEPTH:
                self._unseen.append(tag)
            return
        if tag in _UNSEEN or _hidden(attributes):
            if tag not in _VOID:
                self._unseen.append(tag)
            return
        if tag == "title":
            self._in_title = True
        self._end_implied(_IMPLIED.get(tag, set()))
        if tag not in _VOID and len(self._open) < _DEPTH:
            self._open.append(tag)
        self._begin(tag, attributes)

    def handle_endtag(self, tag: str) -> None:
        if self._unseen:
            if tag in self._unseen:
                while self._unseen and self._unseen.pop() != tag:
                    pass
            return
        if tag == "title":
            self._in_title = False
        if tag not in self._open[-_DEPTH:]:
            return
        while self._open:
            closed = self._open.pop()
            self._end(closed)
            if closed == tag:
                return

    def handle_data(self, data: str) -> None:
        if self._unseen:
            return
        if self._in_title:
            self.title.append(data)
        elif "head" in self._open[:2]:
            return
        elif self._pre:
            self._out.append(data)
        else:
            self._say(data)

    def _end_implied(self, ended: set[str]) -> None:
        for name in reversed(self._open[-8:] if ended else []):
            if name in _BOUNDS:
                return
            if name in ended:
                self.handle_endtag(name)
                if name not in ("td", "th"):
                    return

    # What it comes to.

    def _say(self, data: str) -> None:
        text = re.sub(r"\s+", " ", data)
        if text.startswith(" ") and self._at_start():
            text = text[1:]
        if text:
            self._out.append(text)

    def _at_start(self) -> bool:
        return not self._out or self._out[-1].endswith(("\n", " "))

    def _block(self) -> None:
        """What comes next begins a paragraph."""
        if self._cell >= 0:
            if not self._at_start():
                self._out.append(" ")
            return
        self._out.append(f"\n\n{'> ' * self._quotes}")

    def _begin(self, tag: str, attributes: dict[str, str | None]) -> None:
        if tag in _HEADINGS:
            self._block()
            self._out.append("#" * _HEADINGS[tag] + " ")
        elif tag in ("ul", "ol"):
            if not self._lists:
                self._block()
            start = attributes.get("start") or "1"
            self._lists.append(int(start) - 1 if tag == "ol" and start.isdecimal() and len(start) < 9 else 0 if tag == "ol" else -1)
        elif tag == "li":
            self._item()
        elif tag == "blockquote":
            self._quotes = min(self._quotes + 1, 8)
            self._block()
        elif tag == "pre":
            self._block()
            self._out.append("```\n")
            self._pre += 1
        elif tag == "br":
            self._out.append(" " if self._cell >= 0 else f"\n{'> ' * self._quotes}")
        elif tag == "hr":
            self._block()
            self._out.append("---")
            self._block()
        elif tag == "a":
            self._links.append((len(self._out), self._whole(attributes.get("href"))))
        elif tag == "img":
            alt = " ".join((attributes.get("alt") or "").split())
            if alt:
                self._out.append(f"![{alt[:300]}]")
        elif tag == "tr":
            self._row = []
        elif tag in ("td", "th") and self._row is not None:
            self._cell = len(self._out)
        elif tag == "table":
            self._rows = 0
            self._block()
        elif tag in _BLOCKS:
            self._block()
        elif tag in _MARKS and not self._pre:
            self._out.append(_MARKS[tag])

    def _end(self, tag: str) -> None:
        if tag in ("ul", "ol"):
            if self._lists:
                self._lists.pop()
            if not self._lists:
                self._block()
        elif tag == "blockquote":
            self._quotes = max(0, self._quotes - 1)
            self._block()
        elif tag == "pre":
            self._pre = max(0, self._pre - 1)
            self._out.append("\n```")
            self._block()
        elif tag == "a" and self._links:
            self._link(*self._links.pop())
        elif tag in ("td", "th") and self._cell >= 0 and self._row is not None:
            content = " ".join("".join(self._out[self._cell :]).split())
            del self._out[self._cell :]
            self._cell = -1
            self._row.append(content.replace("|", "\\|"))
        elif tag == "tr" and self._row is not None:
            self._finish_row(self._row)
            self._row, self._cell = None, -1
        elif tag in _HEADINGS or tag in _BLOCKS:
            self._block()
        elif tag in _MARKS and not self._pre:
            self._mark(_MARKS[tag])

    def _item(self) -> None:
        number = self._lists[-1] if self._lists else -1
        mark = "- "
        if number >= 0:
            self._lists[-1] = number + 1
            mark = f"{number + 1}. "
        self._out.append(f"\n{'> ' * self._quotes}{'  ' * (min(len(self._lists), 20) - 1)}{mark}")

    def _mark(self, mark: str) -> None:
        """Close an emphasis; one around nothing is taken back."""
        if self._out and self._out[-1] == mark:
            self._out.pop()
            return
        space = bool(self._out) and self._out[-1].endswith(" ")
        if space:
            self._out[-1] = self._out[-1][:-1]
        self._out.append(mark + (" " if space else ""))

    def _link(self, start: int, href: str) -> None:
        text = " ".join("".join(self._out[start:]).split())
        if not text:
            del self._out[start:]
        elif href and text != href:
            del self._out[start:]
            self._out.append(f"[{text}]({href})")

    def _finish_row(self, row: list[str]) -> None:
        if not any(row):
            return
        self._rows += 1
        self._out.append(f"\n| {' | '.join(row)} |")
        if self._rows == 1:
            self._out.append("\n|" + " --- |" * len(row))

    def _whole(self, href: str | None) -> str:
        """Where a link leads; nothing for what no page is."""
        try:
            found = urljoin(self._url, (href or "").strip())
            if urlsplit(found).scheme.lower() not in ("http", "https", "mailto"):
                return ""
        except ValueError:
            return ""
        return re.sub(r"[\s()<>]", lambda m: f"%{ord(m[0]):02X}", found)[:2000]


def _hidden(attributes: dict[str, str | None]) -> bool:
    style = (attributes.get("style") or "").replace(" ", "").lower()
    return "hidden" in attributes or attributes.get("aria-hidden") == "true" or "display:none" in style or "visibility:hidden" in style
