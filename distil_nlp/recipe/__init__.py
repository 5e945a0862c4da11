"""A run as plain values: read from YAML, checked, and saved with its results."""

from distil_nlp.recipe.recipe import Recipe as Recipe
from distil_nlp.recipe.recipe import find_recipe as find_recipe
from distil_nlp.recipe.recipe import shipped_recipes as shipped_recipes
