"""The interactive viewer in the browser."""
