"""Reports for people: one HTML file that opens offline, plots inline. Knows tables and figures, not what they say."""
