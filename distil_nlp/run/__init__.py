"""A run: its stages, the folder they share, and what is checked before the first."""

from distil_nlp.run.run import Run as Run
