"""What is claimed of the fsspec file system, shown on real servers."""
