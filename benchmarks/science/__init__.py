"""What the method does at the scale of the toy: every variant, tuned alike, over several seeds."""
