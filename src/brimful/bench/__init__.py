"""Measurement: scenarios, environment, reports."""
