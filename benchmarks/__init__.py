"""The benchmark: this queue, bare statements and other queues, side by side in one run. See `make bench`.

python -m benchmarks               measures, and writes results.json
python -m benchmarks.report FILE   makes the tables and plots from it
"""
