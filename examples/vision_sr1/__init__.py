"""The paper's setting: recipes, and the GPU memory that they should need."""
