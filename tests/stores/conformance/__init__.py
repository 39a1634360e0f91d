"""What every store keeps, on every server."""
