"""What is claimed of the disk cache, shown on real disks and in real processes."""
