"""What Keystile costs, as ratios to the same server without it: `make bench`."""
