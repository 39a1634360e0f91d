"""Tests of what this computer gives."""
