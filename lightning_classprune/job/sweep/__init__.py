"""What many jobs say together: the summary of a sweep, its figures and the command that writes it anew."""
