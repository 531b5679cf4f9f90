"""Every benchmark, one after the other: `make bench`."""

from __future__ import annotations

from bench import latency

if __name__ == "__main__":
    latency.main()
