"""Run the lessons and store their text outputs: ``python book/lessons.py [notebook ...]``.

Images are dropped, since the book draws them anew, and so is everything that differs from one
machine to the next, so that a diff shows only what changed. A lesson that takes more memory than
it may is not stored: Binder has 2 GB.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

MEMORY = 1.5  # GB
PEAK = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
LESSONS = Path(__file__).resolve().parent.parent / "lessons"


def strip(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Drop images, progress bars and the traces of the machine from a run notebook."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.metadata.pop("execution", None)
        cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
        for output in cell.outputs:
            data = output.get("data", {})
            for kind in [kind for kind in data if kind.startswith("image/")]:
                del data[kind]
            output.pop("metadata", None)
            if output.output_type in ("display_data", "execute_result"):
                output.metadata = {}
    return notebook


def run(notebook: nbformat.NotebookNode) -> float:
    """Execute all cells, and return the most memory that the kernel took, in GB."""
    notebook.cells.append(nbformat.v4.new_code_cell(PEAK))
    NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        coalesce_streams=True,
        resources={"metadata": {"path": LESSONS}},
    ).execute()
    peak = int(notebook.cells.pop().outputs[0].text)
    return peak / (2**30 if sys.platform == "darwin" else 2**20)  # bytes there, kilobytes here


def main(paths: list[str]) -> int:
    too_large = 0
    for path in [Path(p) for p in paths] or sorted(LESSONS.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        start = time.perf_counter()
        memory = run(notebook)
        seconds = time.perf_counter() - start
        print(f"{path.name}: {seconds:.0f} s, {memory:.2f} GB")
        if memory > MEMORY:
            print(f"{path.name} may take {MEMORY} GB and is not stored", file=sys.stderr)
            too_large += 1
            continue
        nbformat.write(strip(notebook), path)
    return 1 if too_large else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
