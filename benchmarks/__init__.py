"""Benchmarks: what the library costs beside what cannot be avoided, measured in one run on one machine."""
