"""The page at `/`: static files, served as they are; the data set report takes its scale and tokens from them."""
