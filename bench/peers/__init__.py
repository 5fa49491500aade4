"""What users would pick instead, measured side by side: `python -m bench.peers`. Each contender has its own process."""
