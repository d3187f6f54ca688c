"""Pages to look at: one HTML file each, which opens without a network and loads nothing."""
