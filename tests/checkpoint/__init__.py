"""Tests of the checkpoints that survive the deployment."""
