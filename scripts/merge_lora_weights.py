"""LLaVA's name for `python -m llava.model.merge`; takes --model-path, --model-base and --save-model-path."""

from llava.model.merge import main

if __name__ == "__main__":
    main()
