"""A page as its tags, addresses and text."""

import html.parser


class Reader(html.parser.HTMLParser):
    """Gathers tags, addresses and text; texts of scripts and styles apart."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.text, self._inside = [], [], [], ""
        self.attributes = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self._inside = tag
        self.attributes += attributes
        self.addresses += [v for k, v in attributes if k in ("src", "href", "srcset", "action")]

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside not in ("script", "style"):
            self.text.append(data)
