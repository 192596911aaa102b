"""`python -m experiments.reproduction`."""

import sys

from experiments.reproduction.cli import app
from videoreasoner.cli.main import main

app(sys.argv[1:], obj=main)
