"""Reports for people: text, CSV and a picture, in one file for each question."""
