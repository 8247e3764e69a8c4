"""Every format gives the same sections: headings, prose, code, terms; and never markup."""

import pytest

from trainer.data.documents.document import DocumentSection
from trainer.data.documents.html_pages import read_html
from trainer.data.documents.markdown import read_markdown
from trainer.data.documents.python_code import read_python
from trainer.data.documents.restructured_text import read_restructured_text

MARKDOWN = """---
title: "Disks"
---
# Disks

A disk is *attached* to [a machine](machine.md).

## Resize

- Stop the machine first.
- Then grow
  the disk.

```bash
az disk update
```

| SKU | size |
|---|---|
| P10 | 128 |

Back
----

Start `it` again.
"""
HTML = """<!doctype html><html><head><title>Disks - manual</title><style>p {}</style></head><body>
<nav><ul><li>Home</li></ul></nav><h1>Disks<a href="#d">¶</a></h1>
<p>A disk is <em>attached</em> to
<a href="m">a machine</a>.<h2>Resize</h2><ul><li>Stop the machine first.<li>Then grow the disk.</ul>
<script>var x = "<p>never</p>";</script><pre>az disk update</pre>
<table><tr><th>SKU<th>size</tr><tr><td>P10<td>128</tr></table>
<h2>Back</h2><div>Start <code>it</code> again.</div><footer>imprint</footer></body></html>
"""
RST = """.. _disks:

=====
Disks
=====

A disk is *attached* to :ref:`a machine <machine>`.

.. comment that nobody reads

Resize
------

- Stop the machine first.
- Then grow
  the disk.

.. code-block:: bash
   :caption: never

   az disk update

=====  =====
SKU    size
=====  =====
P10    128
=====  =====

Back
----

.. note:: Start ``it`` again.
"""
PROSE = {
    ("Disks",): ["A disk is attached to a machine."],
    ("Disks", "Resize"): ["Stop the machine first.", "Then grow the disk."],
    ("Disks", "Back"): ["Start it again."],
}


def texts(sections: list[DocumentSection], is_prose: bool) -> dict[tuple[str, ...], list[str]]:
    return {
        section.headings: [part.text for part in section.paragraphs if part.is_prose == is_prose]
        for section in sections
    }


@pytest.mark.parametrize(
    ("read", "text"),
    [(read_markdown, MARKDOWN), (read_html, HTML), (read_restructured_text, RST)],
    ids=["markdown", "html", "rst"],
)
def test_formats_give_the_same_sections(read, text):
    sections = read(text)
    assert texts(sections, is_prose=True) == PROSE
    code = texts(sections, is_prose=False)["Disks", "Resize"]
    assert code[0] == "az disk update"
    assert [" ".join(line.replace("|", " ").split()) for line in code[1:]] in (
        ["SKU size", "P10 128"],
        ["SKU size P10 128"],
    )


def test_terms_of_definition_lists_are_known():
    html = "<dl><dt>LUN</dt><dd>The number of a disk.</dd><dt>SKU<dd>A <b>size</b>.</dl>"
    rst = ".. glossary::\n\n   LUN\n      The number\n      of a disk.\n\n   SKU\n      A *size*.\n"
    expected = [("LUN", "LUN: The number of a disk."), ("SKU", "SKU: A size.")]
    for sections in (read_html(html), read_restructured_text(rst)):
        [section] = sections
        assert [(part.term, part.text) for part in section.paragraphs] == expected


def test_front_matter_without_a_title_is_no_text():
    [section] = read_markdown("---\nlayout: page\n---\nText.\n")
    assert (section.headings, [part.text for part in section.paragraphs]) == ((), ["Text."])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "=",
        "==\n==",
        "::",
        "..",
        "- ",
        "term\n  ",
        "a\n-\n",
        "| a\n  b",
        ".. x::\n",
        "a::\n\n  b",
    ],
)
def test_fragments_of_markup_are_read_without_an_error(text):
    for read in (read_markdown, read_html, read_restructured_text):
        assert isinstance(read(text), list)


def test_code_of_a_function_has_no_docstring_and_keeps_the_rest():
    code = '''
import os

class Disk:
    """A disk."""

    @property
    def size(self):
        """Size of the disk, e.g. 4 GB. A second sentence.

        More.
        """
        # in bytes
        return os.stat(self.path).st_size

    def grow(self, by):
        def inner():
            """Never a query."""
        self.by = by

    def stub(self): "Too short."
'''
    first, second = read_python(code)
    assert (first.query, second.query) == ("Size of the disk, e.g. 4 GB.", "")
    assert first.text.splitlines() == [
        "@property",
        "def size(self):",
        "    # in bytes",
        "    return os.stat(self.path).st_size",
    ]
    assert second.text.startswith("def grow(self, by):\n    def inner():")
