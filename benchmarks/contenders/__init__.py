"""One module for each queue, or for two that differ in little."""
