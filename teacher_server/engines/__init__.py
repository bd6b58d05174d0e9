"""What computes the scores. A new engine is one file here and one member of the configuration's union."""
