"""What a reader sees of a page: its texts, one line for a block or a row of a table."""

from html.parser import HTMLParser

ROW = {"tr", "p", "h1", "h2", "h3", "h4", "li", "div", "section", "header", "form", "button", "dt", "option", "article"}
HIDDEN = {"script", "style", "svg", "head"}
CELL = {"td", "th", "dd"}


class _Texts(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = [""]
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.hidden += tag in HIDDEN
        if tag in ROW:
            self.lines.append("")
        if tag in CELL and self.lines[-1]:
            self.lines[-1] += " |"
        if tag == "input" and values.get("type") != "hidden":
            self.lines[-1] += f" [{values.get('name')}={values.get('value', '')}]"

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in HIDDEN
        if tag in ROW:
            self.lines.append("")

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.lines[-1] += f" {data}"


def page_text(html: str) -> str:
    """Return the texts of a page; scripts, styles, pictures and hidden fields are left out."""
    parser = _Texts()
    parser.feed(html)
    return "\n".join(line for text in parser.lines if (line := " ".join(text.split())).strip("| "))
