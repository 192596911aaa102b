"""`python -m videoreasoner`: the command line, in the form that launchers such as torchrun start."""

from videoreasoner.cli.main import main

if __name__ == "__main__":
    main()
