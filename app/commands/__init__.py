"""The commands of `prefloop`, a file a subject."""
