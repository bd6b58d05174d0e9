"""Measurements that the documentation cites; each is a command that writes one file under results/."""
