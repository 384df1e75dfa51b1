"""The page that a job leaves: report.html, its pictures and the command that writes it anew."""
