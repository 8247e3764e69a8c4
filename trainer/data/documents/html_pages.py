"""Sections of HTML pages, by the parser of the standard library."""

from html.parser import HTMLParser

from trainer.data.documents.document import DocumentSection, SectionBuilder, one_line

_NO_CONTENT = "script style nav footer aside noscript template svg button select iframe math"
"""Elements whose text is no content of the page."""
_INLINE = """
    a abbr b bdi bdo cite code del dfn em font i ins kbd label mark q s samp small span strong sub
    sup time tt u var wbr
"""
_VOID = "area base br col embed hr img input link meta source track wbr"
"""Elements that have no end."""


def read_html(text: str) -> list[DocumentSection]:
    """Returns the sections of an HTML page, without navigation and scripts.

    The title is that of the page, unless a heading of level 1 begins it.

    >>> page = "<nav>Home</nav><h1>Disks</h1><p>Stop <b>it</b>.<dl><dt>LUN<dd>A number.</dl>"
    >>> [section] = read_html(page)
    >>> [(paragraph.text, paragraph.term) for paragraph in section.paragraphs]
    [('Stop it.', ''), ('LUN: A number.', 'LUN')]
    """
    parser = _PageParser()
    parser.feed(text)
    parser.close()
    parser.end_block()
    return parser.sections


class _PageParser(HTMLParser):
    """Every element that is not inline ends a paragraph."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._builder = SectionBuilder()
        self._no_content, self._inline, self._void = (
            set(names.split()) for names in (_NO_CONTENT, _INLINE, _VOID)
        )
        self._text: list[str] = []
        self._block = ""
        self._hidden_tags: list[str] = []
        self._title = ""
        self._term = ""
        self._cells: list[str] | None = None

    @property
    def sections(self) -> list[DocumentSection]:
        """The sections; with the title of the page if they begin without a heading."""
        title = one_line(self._title)
        return [
            section
            if section.headings or not title
            else DocumentSection((title,), section.paragraphs)
            for section in self._builder.sections
        ]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._hidden_tags:
            if tag not in self._void:
                self._hidden_tags.append(tag)
        elif tag in self._no_content:
            self.end_block()
            self._hidden_tags.append(tag)
        elif tag == "br":
            self._text.append("\n")
        elif tag not in self._inline:
            self.end_block()
            self._block = tag
            if tag == "tr":
                self._cells = []

    def handle_endtag(self, tag: str) -> None:
        if self._hidden_tags:
            if tag in self._hidden_tags:
                del self._hidden_tags[
                    len(self._hidden_tags) - 1 - self._hidden_tags[::-1].index(tag) :
                ]
        elif tag not in self._inline:
            self.end_block()
            if tag == "tr" and self._cells is not None:
                self._builder.add(" | ".join(self._cells), is_prose=False)
                self._cells = None
            if tag == "dl":
                self._term = ""

    def handle_data(self, data: str) -> None:
        if not self._hidden_tags:
            self._text.append(data)

    def end_block(self) -> None:
        """Adds the text since the last block."""
        text, block = "".join(self._text), self._block
        self._text, self._block = [], ""
        if not text.strip():
            return
        if block == "title":
            self._title = text
        elif len(block) == 2 and block[0] == "h" and block[1].isdigit():
            self._builder.add_heading(int(block[1]), text.rstrip("¶# \n"))
        elif block == "dt":
            self._term = one_line(text)
        elif self._cells is not None:
            self._cells.append(one_line(text))
        elif self._term:
            self._builder.add(f"{self._term}: {text}", term=self._term)
            self._term = ""
        else:
            self._builder.add(text, is_prose=block != "pre")
