"""``python -m ffalora_cli``: the same as ``ffalora``, for processes we start ourselves."""

from ffalora_cli.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
