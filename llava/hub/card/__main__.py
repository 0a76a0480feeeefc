"""`python -m llava.hub.card`."""

from llava.hub.card.command import main

if __name__ == "__main__":
    main()
