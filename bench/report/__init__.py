"""What a document looks like: on the terminal, as Markdown, CSV and plots."""
