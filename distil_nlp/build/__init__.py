"""From a recipe's plain values to the objects of a run."""

from distil_nlp.build.assembly import Assembly as Assembly
