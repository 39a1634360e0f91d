"""Tests of bytes over HTTP."""
