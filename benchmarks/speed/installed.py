"""Part (g): what a device installs, on the disk."""

from __future__ import annotations

from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMED = 6


def measure(python: Path, model: Path) -> list[str]:
    """A table in Markdown.

    Args:
        python: Of a device's environment.
        model: The shipped model's directory.
    """
    site = next((python.parent.parent / "lib").glob("python3*/site-packages"))
    sizes = {
        found.metadata["Name"]: sum(_size(Path(str(file.locate()))) for file in found.files or ())
        for found in distributions(path=[str(site)])
    }
    largest = sorted(sizes, key=sizes.__getitem__, reverse=True)
    source = ROOT / "src/ml_inference"
    own = sum(_size(path) for path in source.rglob("*.py") if "workbench" not in path.parts)
    rows = ["| installed on a device | MB |", "| --- | --- |"]
    rows += [f"| {name} | {sizes[name] / 1e6:.1f} |" for name in largest[:NAMED]]
    rows.append(f"| {len(largest) - NAMED} other packages | {sum(sizes[name] for name in largest[NAMED:]) / 1e6:.1f} |")
    rows.append(f"| the component's own files | {own / 1e6:.1f} |")
    rows.append(f"| the model | {sum(_size(path) for path in model.iterdir()) / 1e6:.1f} |")
    rows.append(f"| together | {(sum(sizes.values()) + own) / 1e6:.0f} |")
    return rows


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
