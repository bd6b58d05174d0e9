"""A toy for distillation: a tiny Qwen3-VL teacher and student that read two handwritten digits."""
