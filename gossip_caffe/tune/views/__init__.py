"""A study for people: tables, the page, the best trial as files."""
