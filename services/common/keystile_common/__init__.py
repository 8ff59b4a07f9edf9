"""What both Keystile services need: settings, store connection, signals, limits, outbound HTTP."""
