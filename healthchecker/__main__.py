"""`python -m healthchecker`."""

from healthchecker.cli import main

if __name__ == "__main__":
    main()
