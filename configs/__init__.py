"""Recipes that ship with Surnia, as package data: `configs/<application>/<method>_<network>_<data>.yaml`."""
