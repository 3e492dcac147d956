"""Evaluation of finished lists: metrics, slices, intervals, tables and the report page."""
