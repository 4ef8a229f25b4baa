"""What a reader sees of a page: its texts, one line for a block or a row of a table."""

from html.parser import HTMLParser

ROW = {"tr", "p", "h1", "h2", "h3", "h4", "li", "div", "section", "header", "form", "button", "dt", "option", "article"}
HIDDEN = {"script", "style", "svg", "head"}
CELL = {"td", "th", "dd"}


class _Texts(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = [""]
        self.hidden = self.cells = 0

    def _break(self, tag: str) -> None:
        if tag in ROW and (tag == "tr" or not self.cells):
            self.lines.append("")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.hidden += tag in HIDDEN
        self._break(tag)
        if tag in CELL:
            self.cells += 1
            self.lines[-1] += " | " if self.lines[-1] else ""
        if tag == "input" and values.get("type") != "hidden":
            self.lines[-1] += f" [{values.get('name')}={values.get('value', '')}]"

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in HIDDEN
        self.cells -= tag in CELL
        self._break(tag)

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.lines[-1] += f" {data}"


def page_text(html: str) -> str:
    """Return the texts of a page's main part; scripts, styles, pictures and hidden fields are left out."""
    parser = _Texts()
    parser.feed(html.partition("<main")[1] + html.partition("<main")[2].partition("</main>")[0] or html)
    return "\n".join(line for text in parser.lines if (line := " ".join(text.split())).strip("| "))
