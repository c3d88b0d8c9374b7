"""What outlives the server: records in SQLite, pages in segment files, the search index."""
