"""Icons of another style as a set of judged images: Lucide, drawn as Material Design Icons are."""

import hashlib
import io
import json
import re
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path

LUCIDE = "lucide-static@1.62.0"
LUCIDE_SHA256 = "386f9080c440d6f5049cefe3456ae8357f7a0c7f76e59670cd1cb83bc7050a44"
EDGE = 64
"""Pixels of a drawing, as in the set of training icons."""
MOST_ICONS = 10
"""A tag of more icons is no query, as ten results could not show them all."""
_CLASS = re.compile(r'class="[^"]*"')
"""The only difference between two drawings that are equal under two names."""


def pack_lucide(folder: Path) -> Path | None:
    """Downloads the package with npm and unpacks it. Returns its folder, or None with the reason
    printed.
    """
    try:
        subprocess.run(
            ["npm", "pack", LUCIDE, "--silent"], cwd=folder, check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"skipped: `npm pack {LUCIDE}` does not work here: {error}")
        return None
    archive = folder / f"{LUCIDE.replace('@', '-')}.tgz"
    if (digest := hashlib.sha256(archive.read_bytes()).hexdigest()) != LUCIDE_SHA256:
        raise SystemExit(f"{archive.name} has the SHA-256 {digest}, expected {LUCIDE_SHA256}")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / "package"


def png(svg: str) -> bytes:
    """Returns a drawing in black on white as a grey PNG."""
    from cairosvg import svg2png
    from PIL import Image

    drawing = svg2png(bytestring=svg.encode(), output_width=EDGE, output_height=EDGE)
    layer = Image.open(io.BytesIO(drawing)).convert("RGBA")
    image = Image.new("RGBA", layer.size, "white")
    image.alpha_composite(layer)
    target = io.BytesIO()
    image.convert("L").save(target, "PNG")
    return target.getvalue()


def read_lucide(package: Path) -> dict[str, tuple[str, set[str]]]:
    """Returns the SVG and all names of each icon, former names included. The key is its name in
    tags.json, whose other names have equal drawings.
    """
    drawings = {path.stem: path.read_text() for path in sorted((package / "icons").glob("*.svg"))}
    main_names = json.loads((package / "tags.json").read_text())
    icons = {_CLASS.sub("", drawings[name]): (name, {name}) for name in reversed(main_names)}
    for name, svg in drawings.items():
        icons[_CLASS.sub("", svg)][1].add(name)
    return {name: (drawings[name], names) for name, names in icons.values()}


def words(name: str) -> str:
    return name.replace("-", " ").lower().strip()


def read_queries(package: Path) -> tuple[dict[str, set[str]], set[str]]:
    """Returns the icons that each query is for, and the queries that are tags alone."""
    icons = read_lucide(package)
    by_name: dict[str, set[str]] = {}
    by_tag: dict[str, set[str]] = {}
    tags = json.loads((package / "tags.json").read_text())
    for name, (_, names) in icons.items():
        for other in names:
            by_name.setdefault(words(other), set()).add(name)
            for tag in tags.get(other, ()):
                by_tag.setdefault(words(tag), set()).add(name)
    tagged = {tag: found for tag, found in by_tag.items() if tag and len(found) <= MOST_ICONS}
    queries = {
        query: by_name.get(query, set()) | tagged.get(query, set())
        for query in sorted({*by_name, *tagged})
    }
    return queries, {query for query in queries if query not in by_name}


def write_images(icons: Iterable[tuple[str, str]], target: Path) -> None:
    """Writes corpus.parquet from names and SVGs."""
    import pyarrow
    from pyarrow import parquet

    rows = [(name, png(svg)) for name, svg in sorted(icons)]
    columns = {"_id": [name for name, _ in rows], "image": [image for _, image in rows]}
    target.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(columns), target / "corpus.parquet")


def write_judgements(queries: dict[str, set[str]], target: Path) -> None:
    """Writes queries.jsonl and the split test."""
    rows = [{"_id": f"test-{row}", "text": text} for row, text in enumerate(queries)]
    (target / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [
        f"test-{row}\t{icon}\t1\n"
        for row, icons in enumerate(queries.values())
        for icon in sorted(icons)
    ]
    (target / "qrels").mkdir(exist_ok=True)
    (target / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))


def write_lucide(package: Path, target: Path) -> set[str]:
    """Writes the set. Returns the queries that are tags alone."""
    icons = read_lucide(package)
    write_images(((name, svg) for name, (svg, _) in icons.items()), target)
    queries, tags = read_queries(package)
    write_judgements(queries, target)
    return tags
