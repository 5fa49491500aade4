"""One command a claim. `python -m bench.NAME` measures, prints and writes `bench/results/<id>.json`."""
