"""`python -m experiments.reproduction`."""

from experiments.reproduction.run import main

main()
