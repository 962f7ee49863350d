"""What a report is written as: page, JSON, Markdown, PDF."""
