"""The demo in the browser: `llava demo`, in `llava.serve.demo`. Only `page` and `door` know of the web."""
