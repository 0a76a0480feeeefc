"""`llava serve`: one model for many clients, by OpenAI's chat completions.

Requests come in through `door`, are checked by `request`, become questions in `questions`, and wait in the `engine`.
Its one thread asks `Inference` for a batch at a time; what is said comes back row by row through `answering`. Only
`request`, `app`, `protocol`, `run` and `metrics` know the packages of the extra `serve`.
"""
