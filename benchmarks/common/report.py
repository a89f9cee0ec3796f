"""The report file, `docs/benchmarks.md`: one section a benchmark, each rewritten by its own run."""

from __future__ import annotations

from pathlib import Path

REPORT = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"

HEADER = """# Benchmarks

Written by `make bench`, each section by its own run. Figures hold for the machine that is named with them; the
ratios, taken within one run, travel better than the absolute figures. How they are measured is described in
`benchmarks/README.md`.
"""


def replace_section(name: str, body: str, path: Path = REPORT) -> None:
    """Put `body` between the markers of section `name`; everything else in the file stays as it is.

    The file and the section are made if they are missing.

    Raises:
        ValueError: the file has only one of the section's two markers.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    text = path.read_text(encoding="utf-8") if path.exists() else HEADER
    section = f"{begin}\n\n{body.strip()}\n\n{end}"
    if (begin in text) != (end in text):
        raise ValueError(f"{path}: only one of the markers {begin} and {end} is there")
    if begin in text:
        before, _, rest = text.partition(begin)
        text = before + section + rest.partition(end)[2]
    else:
        text = f"{text.rstrip()}\n\n{section}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
