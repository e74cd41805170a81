"""Measures: a model goes in, plain numbers come out. One file for each thing measured."""
