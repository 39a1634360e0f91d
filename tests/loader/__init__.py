"""Tests of the loader and its orders."""
