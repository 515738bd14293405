"""``python -m separable``. In: words. Out: what the command ``separable`` does."""

from separable.cli import main

main()
