"""Runs docker-compose.yml from end to end, with a container engine or without one."""
