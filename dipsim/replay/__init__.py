"""The replay: active sets through caches, to exact counts."""
