"""`python -m toolkit` is `castmix`."""

from toolkit.cli import main

main()
