"""Against a real Nextcloud, any that is at hand: `make test-live`, with the variables that cloud.py names."""
