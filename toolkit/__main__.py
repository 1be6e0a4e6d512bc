"""`python -m toolkit` is `castmix`."""

from toolkit.cli.click_app import main

main()
