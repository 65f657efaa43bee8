"""``python -m dpdiff`` is the ``dpdiff`` command."""

from __future__ import annotations

from dpdiff.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
