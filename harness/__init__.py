"""Benchmark harness: runs any KV-cache method on any model with any suite and measures it."""
