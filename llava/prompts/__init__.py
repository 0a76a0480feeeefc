"""Text becomes ids and back: tokenizers, chat templates, placeholders."""
