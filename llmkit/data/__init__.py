"""Reading, splitting, encoding, packing and sampling of data, the same for every task."""
