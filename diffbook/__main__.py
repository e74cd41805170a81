"""``python -m diffbook``."""

from diffbook.cli import main

raise SystemExit(main())
