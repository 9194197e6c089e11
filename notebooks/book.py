"""Executes the chapters and writes them as pages into build/book: `make book`.

A page needs nothing but itself: images are inside, and nothing is fetched. So there are no live
widgets, whose place the still pictures before them take, and formulas stay as they are typed.
"""

import html
import re
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter

NOTEBOOKS = Path(__file__).parent
BOOK = NOTEBOOKS.parent / "build" / "book"

# Two minutes are far more than any cell needs; a cell that hangs must not hang the book.
CELL_TIMEOUT_S = 120

# nbconvert's page without the four scripts that it would fetch: require, widgets, MathJax, Mermaid.
PAGE = """\
{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block data_widget_view -%}{%- endblock -%}
"""

INDEX = """\
<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>paylab</title>
<style>
body {{ font: 1.1rem/1.6 system-ui, sans-serif; max-width: 40rem; margin: 3rem auto; padding: 0 1rem }}
</style>
</head>
<body>
<h1>paylab</h1>
<p>A payment network small enough to read and real enough to break.</p>
<ol start="0">
{entries}
</ol>
</body>
</html>
"""


def main() -> None:
    """Write one page a chapter and an index."""
    BOOK.mkdir(parents=True, exist_ok=True)
    entries = []
    for chapter in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
        print(f"Executing {chapter.name} ...", flush=True)
        notebook = nbformat.read(chapter, as_version=4)
        NotebookClient(
            notebook,
            timeout=CELL_TIMEOUT_S,
            resources={"metadata": {"path": str(NOTEBOOKS)}},
            store_widget_state=False,
        ).execute()
        page = BOOK / f"{chapter.stem}.html"
        page.write_text(render(notebook), encoding="utf-8")
        entries.append(f'<li><a href="{page.name}">{html.escape(title(notebook))}</a></li>')
    (BOOK / "index.html").write_text(INDEX.format(entries="\n".join(entries)), encoding="utf-8")
    print(f"Wrote {len(entries)} chapters; open {BOOK / 'index.html'}")


def render(notebook: nbformat.NotebookNode) -> str:
    """The page of an executed notebook, links between chapters leading to pages."""
    notebook.metadata["title"] = title(notebook)
    exporter = HTMLExporter(raw_template=PAGE, embed_images=True)
    body, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"path": str(NOTEBOOKS)}})
    return re.sub(r'href="(\d\d_\w+)\.ipynb', r'href="\1.html', body)


def title(notebook: nbformat.NotebookNode) -> str:
    """The text of the first heading."""
    cells: list[Any] = notebook.cells
    headings = (
        re.search(r"^# (.+)$", cell.source, re.MULTILINE) for cell in cells if cell.cell_type == "markdown"
    )
    return next((heading[1].strip() for heading in headings if heading), "Untitled")


if __name__ == "__main__":
    main()
