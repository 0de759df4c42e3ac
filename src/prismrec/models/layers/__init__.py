"""What several models share: expert layers, fusion, losses."""
