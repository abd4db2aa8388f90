"""From traces to a model file: collect, label, fit."""
