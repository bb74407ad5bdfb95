"""What runs networks: one file for each runtime, for exported files and live networks alike."""
