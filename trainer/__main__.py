"""`python -m trainer`: the same as `nearfar`."""

from trainer.cli.main import main

main()
