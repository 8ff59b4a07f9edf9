"""Who is this? Each module answers it from one source."""
