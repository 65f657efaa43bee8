"""``python -m dpdiff`` is the ``dpdiff`` command."""

from dpdiff.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
