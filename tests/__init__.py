"""What is promised, tried on real servers."""
