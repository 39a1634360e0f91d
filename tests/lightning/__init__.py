"""Tests under Lightning."""
